"""NeoNetGen: synthetic patches that follow the masks of a segmentation, beside the real one, with their lineage."""

import json
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import numpy as np
import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import ScriptedLoadableModule, ScriptedLoadableModuleLogic

try:
    import NeoNetLib  # noqa: F401 - beside this file in an installed extension
except ModuleNotFoundError:
    sys.path.append(str(Path(__file__).resolve().parents[1] / "NeoNetExtension"))

from NeoNetLib import catalogue, croppreview, nodes, segments, synthetic
from NeoNetLib.croppreview import CropPreview
from NeoNetLib.job import Job
from NeoNetLib.jobpanel import AMBER, JobPanel
from NeoNetLib.moduletest import ModuleTest
from NeoNetLib.modulewidget import ModuleWidget
from NeoNetLib.segmentpicker import SegmentPicker
from NeoNetLib.sidebyside import SideBySide, viewNodes

MOST_PATCHES = 20  # at once: loading 20 of 96 x 96 x 48 takes most of a second, in which the window stands still
NEGATIVE, POSITIVE = 0, synthetic.POSITIVE


class NeoNetGen(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = "NeoNetGen"
        self.parent.categories = ["NeoNet"]
        self.parent.dependencies = []
        self.parent.contributors = [_("The NeoNet engineers")]
        self.parent.helpText = _(
            "<p>Draws synthetic MRI patches that follow the liver and the tumour of a segmentation: NeoNet trains its "
            "classifier on such patches where one class is rare.</p>"
            "<p>Choose the MRI and its segmentation and click <b>Generate</b>. Every patch becomes a volume at its "
            "place in the patient. The slider shows one after the other, <b>Side by side</b> puts them beside the real "
            "patch; the table says where each comes from. The patches' names, attributes and exported files say "
            "SYNTHETIC.</p>"
            "<p>No data leaves the computer. <b>Research use only. Not a medical device; not for diagnosis or "
            "treatment.</b></p>"
        )
        self.parent.acknowledgementText = _(
            "An implementation of the method of “NeoNet: An End-to-End 3D MRI-Based Deep Learning Framework for "
            "Non-Invasive Prediction of Perineural Invasion via Generation-Driven Classification”. Apache License 2.0."
        )


@parameterNodeWrapper
class NeoNetGenParameters:
    """What is chosen in the panel; saved with the scene."""

    inputVolume: slicer.vtkMRMLScalarVolumeNode
    segmentation: slicer.vtkMRMLSegmentationNode
    liverSegment: str = ""
    tumourSegment: str = ""
    count: Annotated[int, WithinRange(1, MOST_PATCHES)] = 4
    outcome: int = POSITIVE
    seed: Annotated[int, WithinRange(0, 2**31 - 1)] = 0
    steps: Annotated[int, WithinRange(0, 1000)] = 0  # 0: as the model says
    vary: bool = False
    bundle: str = "demo"
    device: str = "auto"
    generation: str = ""  # the patches that the panel shows


# --- the panel ------------------------------------------------------------------------------------------------------


class NeoNetGenWidget(ModuleWidget):
    def __init__(self, parent=None):
        super().__init__(parent)
        self._browser = None
        self.preview = self._previewOf = None
        self.patches = []

    def build(self):
        self.logic = NeoNetGenLogic()
        self.sideBySide = SideBySide()
        self.panel = JobPanel(self.ui.jobFrame.layout(), _("Generate"), "canGenerate", self.ui.settingsLayout)
        self.panel.onRun = self.onGenerate
        self.panel.onFinished = self.onGenerated
        self.panel.onChanged = self.onModelChanged
        self.picker = SegmentPicker(self.ui.liverCombo, self.ui.tumourCombo)
        self.ui.outcomeCombo.addItems(["", ""])
        self.ui.lineageTable.columnCount = len(synthetic.columns())
        self.ui.lineageTable.setHorizontalHeaderLabels(synthetic.columns())
        self.ui.syntheticLabel.setStyleSheet(AMBER)

        self.ui.outcomeCombo.connect("currentIndexChanged(int)", self.onOutcomeChosen)
        self.ui.previewButton.connect("toggled(bool)", self.onPreviewToggled)
        self.ui.followButton.connect("clicked()", self.onFollow)
        self.ui.patchSlider.connect("valueChanged(double)", self.onPatchChosen)
        self.ui.lineageTable.connect("cellClicked(int,int)", self.onRowClicked)
        self.ui.compareButton.connect("toggled(bool)", self.onCompareToggled)
        self.ui.exportButton.connect("clicked()", self.onExport)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.NodeRemovedEvent, self.onNodeRemoved)

    # --- the module's life -------------------------------------------------------------------------------------------

    def cleanup(self):
        self.hidePreview()
        super().cleanup()

    def onSceneStartClose(self, caller, event):
        if self.preview is not None:
            self.preview.release()  # its nodes go with the scene
        self.preview = self._previewOf = None
        self.sideBySide.forget()
        super().onSceneStartClose(caller, event)

    def onNodeRemoved(self, caller, event):
        if self._parameterNode is not None and not all(map(slicer.mrmlScene.IsNodePresent, self.patches)):
            self.showPatches()

    def propose(self):
        """Without a chosen segmentation, the only one there is, with its MRI."""
        parameters = self._parameterNode
        current = segments.latest(parameters.segmentation)
        if current is None:
            segmentations = slicer.util.getNodesByClass("vtkMRMLSegmentationNode")
            current = segmentations[0] if len(segmentations) == 1 else None
        if current is not parameters.segmentation:
            parameters.segmentation = current

    def attach(self, parameterNode):
        self.panel.attach(parameterNode)
        self.picker.attach(parameterNode)

    def setParameterNode(self, parameterNode):
        super().setParameterNode(parameterNode)
        self.showPatches()

    def onParametersModified(self, caller=None, event=None):
        parameters = self._parameterNode
        if parameters.inputVolume is None:
            parameters.inputVolume = self.logic.volumeOf(parameters.segmentation)
        if self.ui.outcomeCombo.currentIndex != int(parameters.outcome == NEGATIVE):
            self.ui.outcomeCombo.currentIndex = int(parameters.outcome == NEGATIVE)
        self.updatePreview()
        self.checkInputs()

    def onModelChanged(self):
        """The classes are called as the model's outcome is."""
        outcome = synthetic.outcomeName(self.panel.bundle.outcome if self.panel.bundle else "")
        for index, text in enumerate((_("{outcome} positive"), _("{outcome} negative"))):
            self.ui.outcomeCombo.setItemText(index, text.format(outcome=outcome))
        if self._parameterNode is not None:
            self.updatePreview()
            self.checkInputs()

    def onOutcomeChosen(self, index):
        if self._parameterNode is not None:
            self._parameterNode.outcome = (POSITIVE, NEGATIVE)[index]

    def checkInputs(self):
        parameters = self._parameterNode
        if parameters is None:
            return  # a scene was loaded while another module was open; the preview follows its segmentation still
        problem = self.logic.problem(parameters.inputVolume, parameters.segmentation, parameters.tumourSegment)
        moved = bool(self.cropOptions())
        if self.preview is not None:
            problem = problem or self.preview.problem
            self.ui.cropLabel.text = self.preview.summary
        else:
            self.ui.cropLabel.text = _("Moved by hand.") if moved else _("Follows the tumour.")
        self.ui.followButton.enabled = moved
        if problem:
            self.panel.setMessage("")  # of the last run: what is wrong now is told in its place
        self.panel.setProblem(problem)

    def cropOptions(self):
        """What makes the command cut the crop that was moved, here or in another module; [] while none was."""
        if self.preview is not None:
            return self.preview.options()
        return croppreview.cropOptions(self._parameterNode.inputVolume, self._parameterNode.segmentation)

    # --- generating --------------------------------------------------------------------------------------------------

    def onGenerate(self):
        parameters = self._parameterNode
        self.panel.run(lambda **callbacks: self.logic.generate(
            parameters.inputVolume, parameters.segmentation, parameters.liverSegment, parameters.tumourSegment,
            self.panel.bundle, parameters.count, parameters.seed, parameters.steps, parameters.outcome,
            self.cropOptions(), self.panel.device, vary=parameters.vary, **callbacks))

    def onGenerated(self, outcome, patches):
        if not patches or self._parameterNode is None:
            return
        self.ui.compareButton.checked = False
        self._parameterNode.generation = patches[0].GetAttribute(synthetic.GENERATION)
        self.showPatches()
        qt.QTimer.singleShot(0, self.compare)  # what was asked for is what is seen

    # --- the crop ----------------------------------------------------------------------------------------------------

    def onPreviewToggled(self, checked):
        with slicer.util.tryWithErrorDisplay(_("The crop cannot be shown."), waitCursor=True):
            self.updatePreview()
            self.checkInputs()

    def onFollow(self):
        if self.preview is not None:
            self.preview.follow()
        else:
            self.logic.followTumour(self._parameterNode.inputVolume, self._parameterNode.segmentation)
        self.checkInputs()

    def updatePreview(self):
        """Make the preview fit what is chosen: none while its button is up, or something is missing."""
        parameters, bundle = self._parameterNode, self.panel.bundle
        of = (parameters.inputVolume, parameters.segmentation, parameters.liverSegment, parameters.tumourSegment,
              bundle)
        if not self.ui.previewButton.checked or None in of:
            self.hidePreview()
        elif of != self._previewOf:
            if self._previewOf is not None and of[:2] == self._previewOf[:2]:
                self.preview.release()  # its nodes, and the place that the user gave them, go to the next one
            else:
                self.hidePreview()
            size, spacing, component = bundle.cropSize, bundle.cropSpacing, bundle.cropComponent
            self.preview = CropPreview(*of[:4], size, spacing, component)
            self.preview.onChanged = self.checkInputs
            self._previewOf = of

    def hidePreview(self):
        if self.preview is not None:
            self.preview.remove()
        self.preview = self._previewOf = None

    # --- browsing ----------------------------------------------------------------------------------------------------

    def showPatches(self):
        """Show the patches of the generation that the parameters name, as far as they are still in the scene."""
        generation = self._parameterNode.generation if self._parameterNode is not None else ""
        self.patches = synthetic.find(generation)
        self._observeBrowser(synthetic.browserOf(generation))
        self.ui.browseSection.visible = bool(self.patches)
        if not self.patches:
            self.ui.compareButton.checked = False
        self.ui.patchSlider.maximum = max(len(self.patches), 1)
        self._fillTable()
        self.onBrowserModified()

    def onPatchChosen(self, value):
        """The slider was moved, by the user or because another patch was chosen elsewhere."""
        index = round(value) - 1
        if not 0 <= index < len(self.patches):
            return
        node = synthetic.browse(self._parameterNode.generation, index)
        if self.sideBySide.active:
            self.sideBySide.show(node)
        else:
            slicer.util.setSliceViewerLayers(foreground=node, foregroundOpacity=1)
        self._showIndex(index)

    def onRowClicked(self, row, column):
        if self.ui.patchSlider.value == row + 1:
            self.onPatchChosen(row + 1)
        else:
            self.ui.patchSlider.value = row + 1

    def onBrowserModified(self, caller=None, event=None):
        """Another patch may have been chosen in Slicer's own sequence browser."""
        index = self._browser.GetSelectedItemNumber() if self._browser is not None else 0
        if 0 <= index < len(self.patches):
            if caller is None:  # only shown, not chosen: the slice views stay as they are
                blocked = self.ui.patchSlider.blockSignals(True)
                self.ui.patchSlider.value = index + 1
                self.ui.patchSlider.blockSignals(blocked)
            else:
                self.ui.patchSlider.value = index + 1
            self._showIndex(index)

    def compare(self):
        """Show the patches side by side with the real one, if there are any."""
        if self.patches:
            self.ui.compareButton.checked = True

    def onCompareToggled(self, checked):
        if not checked:
            self.sideBySide.leave()
            return
        with slicer.util.tryWithErrorDisplay(_("The patches cannot be shown side by side."), waitCursor=True):
            generation = self._parameterNode.generation
            real = synthetic.realPatch(generation)
            index = round(self.ui.patchSlider.value) - 1
            self.sideBySide.enter(real, synthetic.browse(generation, index))
            self._showIndex(index)

    def onExport(self):
        folder = qt.QFileDialog.getExistingDirectory(self.parent, _("Folder for the synthetic patches"))
        if folder:
            self.export(folder)

    def export(self, folder):
        """Write the patches that are shown into a new folder in `folder`; returns it."""
        with slicer.util.tryWithErrorDisplay(_("The patches cannot be exported."), waitCursor=True):
            written = synthetic.export(self.patches, folder)
            self.panel.setMessage(_("Written to {folder}.").format(folder=written))
            return written

    def _observeBrowser(self, browser):
        if self._browser is not None:
            self.removeObserver(self._browser, vtk.vtkCommand.ModifiedEvent, self.onBrowserModified)
        self._browser = browser
        if browser is not None:
            self.addObserver(browser, vtk.vtkCommand.ModifiedEvent, self.onBrowserModified)

    def _showIndex(self, index):
        patch = self.patches[index]
        self.ui.syntheticLabel.text = f"{patch.GetName()}\n{synthetic.notice(synthetic.lineageOf(patch))}"
        self.ui.lineageTable.selectRow(index)

    def _fillTable(self):
        table = self.ui.lineageTable
        table.rowCount = len(self.patches)
        for row, patch in enumerate(self.patches):
            lineage = synthetic.lineageOf(patch)
            for column, text in enumerate(synthetic.lineageCells(lineage)):
                cell = qt.QTableWidgetItem(text)
                cell.setToolTip(json.dumps(lineage, indent=1))
                table.setItem(row, column, cell)
        table.resizeColumnsToContents()


# --- the work -------------------------------------------------------------------------------------------------------


class NeoNetGenLogic(ScriptedLoadableModuleLogic):
    """Generates patches, finds them in the scene and writes them; knows no widgets."""

    def getParameterNode(self):
        return NeoNetGenParameters(super().getParameterNode())

    @staticmethod
    def volumeOf(segmentationNode):
        """The volume that a segmentation was made on, else the only one there is that is no patch, else None."""
        if segmentationNode is not None:
            role = segmentationNode.GetReferenceImageGeometryReferenceRole()
            if segmentationNode.GetNodeReference(role) is not None:
                return segmentationNode.GetNodeReference(role)
        volumes = [node for node in slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")
                   if node.GetClassName() == "vtkMRMLScalarVolumeNode" and not node.GetAttribute(synthetic.KIND)]
        return volumes[0] if len(volumes) == 1 else None

    @staticmethod
    def problem(volumeNode, segmentationNode, tumourId):
        """What keeps patches from being generated, as a sentence that says what to do; "" if nothing does."""
        if segmentationNode is None:
            return _("Choose a segmentation with liver and tumour: NeoNetSeg makes one of the MRI.")
        if volumeNode is None:
            return _("Choose the MRI that was segmented.")
        if volumeNode.GetAttribute(synthetic.KIND):
            return _("This is a patch, not an MRI: choose the MRI that was segmented.")
        if not tumourId:
            return _("Say which segment is the tumour; draw one in Segment Editor if there is none.")
        return ""

    @staticmethod
    def followTumour(volumeNode, segmentationNode):
        """Forget that the crop was moved."""
        box = croppreview.cropBox(volumeNode, segmentationNode)
        if box is not None:
            box.RemoveAttribute(croppreview.CENTER)

    def generate(self, volumeNode, segmentationNode, liverId, tumourId, bundle, count, seed, steps, outcome,
                 cropOptions, device, onProgress=None, onLog=None, onFinished=None, vary=False):
        """Draw patches in the background: those of ``neonet generate`` with the same options.

        Parameters
        ----------
        volumeNode : vtkMRMLScalarVolumeNode
            On whose grid the masks are taken, and beside which the patches are put.
        segmentationNode : vtkMRMLSegmentationNode
        liverId, tumourId : str
            Segment IDs; "" for a liver that is not segmented.
        bundle : NeoNetLib.catalogue.BundleInfo
        count, seed : int
        steps : int
            Of the sampler; 0: as the model says.
        outcome : int
            Class, `POSITIVE` or `NEGATIVE`; read only by a model that knows classes.
        cropOptions : list of str
            Of `NeoNetLib.croppreview.CropPreview.options`; empty: the crop follows the tumour.
        device : str
            "auto", "cpu", "cuda" or "mps".
        onProgress, onLog : callable, optional
            As of `NeoNetLib.job.Job`.
        onFinished : callable, optional
            ``onFinished(outcome, patches)``: list of vtkMRMLScalarVolumeNode, empty unless all went well. The scene is
            touched only then.
        vary : bool
            Mirror, scale and bend the masks, each patch its own.

        Returns
        -------
        Job
            Started.
        """
        job = Job([], onProgress, onLog, lambda ended: finish(ended))
        labelMap, out = job.folder / "label_map.nrrd", job.folder / "patches"
        request = {"count": count, "seed": seed, "steps": steps, "vary": vary, "crop": cropOptions,
                   "outcome": bundle.outcome}
        volumeId = volumeNode.GetID()

        def finish(ended):
            patches = []
            try:
                if ended.ok and slicer.mrmlScene.GetNodeByID(volumeId) is not volumeNode:
                    text = _("The MRI was removed while its patches were drawn; load it again, and repeat.")
                    ended = replace(ended, ok=False, message=text)
                elif ended.ok:
                    patches = synthetic.load(out, volumeNode, request)
            except Exception as error:
                text = _("The patches could not be loaded ({error}); try again.").format(error=error)
                ended = replace(ended, ok=False, message=text)
            finally:
                job.close()
            if onFinished:
                onFinished(ended, patches)

        try:
            nodes.writeLabelMap(segmentationNode, liverId, tumourId, volumeNode, labelMap)
        except BaseException:
            job.close()
            raise
        job.arguments = ["generate", labelMap, "--bundle", bundle.folder, "--count", count, "--seed", seed]
        job.arguments += ["--outcome", outcome, "--device", device, "--out", out, *cropOptions]
        job.arguments += ["--steps", steps] if steps else []
        job.arguments += ["--vary"] if vary else []
        job.start()
        return job


# --- scenarios, in Slicer and on the stand-in ------------------------------------------------------------------------


class NeoNetGenTest(ModuleTest):
    """What a researcher does in the panel; scenarios that need a job are left out where packages are missing."""

    def setUp(self):
        super().setUp()
        self.logic = NeoNetGenLogic()
        self.folder = Path(tempfile.mkdtemp(prefix="NeoNetGenTest-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    # --- what the tests need -----------------------------------------------------------------------------------------

    def case(self):
        """A simulated MRI, turned, flipped and under a transform, and its segmentation.

        Returns
        -------
        volumeNode, segmentationNode
        """
        shape, spacing = np.array([56, 52, 36]), np.array([3.0, 3.0, 4.4])
        millimetres = (np.indices(shape).T - (shape - 1) / 2) * spacing  # (K, J, I, 3)
        liver = (np.square(millimetres / [70, 60, 60]).sum(-1) < 1).astype(np.uint8)
        tumour = (np.linalg.norm(millimetres - [20, 10, 5], axis=-1) < 15).astype(np.uint8)
        image = np.select([tumour == 1, liver == 1], [300, 500], 100)
        image = image + np.random.default_rng(0).normal(0, 20, image.shape)
        volumeNode = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "MRI")
        slicer.util.updateVolumeFromArray(volumeNode, image.astype(np.int16))
        cos, sin = np.cos(0.2), np.sin(0.2)
        affine = np.diag([-1.0, -1.0, 1.0, 1.0])  # to the left, to the back
        affine[:3, :3] = affine[:3, :3] @ [[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]] @ np.diag(spacing)
        affine[:3, 3] = [40, -25, 10] - affine[:3, :3] @ ((shape - 1) / 2)
        volumeNode.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(affine))
        volumeNode.CreateDefaultDisplayNodes()
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
        study = hierarchy.CreateFolderItem(hierarchy.GetSceneItemID(), "Study")
        item = hierarchy.GetItemByDataNode(volumeNode) or hierarchy.CreateItem(study, volumeNode)
        hierarchy.SetItemParent(item, study)
        segmentationNode = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "Segmentation")
        segmentationNode.CreateDefaultDisplayNodes()
        segmentationNode.SetReferenceImageGeometryParameterFromVolumeNode(volumeNode)
        for mask, kind in ((liver, segments.LIVER), (tumour, segments.TUMOUR)):
            segmentId = segmentationNode.GetSegmentation().AddEmptySegment(kind.name, kind.name)
            slicer.util.updateSegmentBinaryLabelmapFromArray(mask, segmentationNode, segmentId, volumeNode)
            segments.applyKind(segmentationNode.GetSegmentation().GetSegment(segmentId), kind)
        moved = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLLinearTransformNode", "Moved")
        moved.SetMatrixTransformToParent(slicer.util.vtkMatrixFromArray(np.array(
            [[0, -1, 0, 7], [1, 0, 0, -9], [0, 0, 1, 30], [0, 0, 0, 1.0]])))
        for node in (volumeNode, segmentationNode):
            node.SetAndObserveTransformNodeID(moved.GetID())
        return volumeNode, segmentationNode

    def written(self, volumeNode, count=3):
        """What ``neonet generate`` would have written, as folder: patches that hold the MRI's own intensities."""
        array, affine = nodes.canonical(volumeNode)
        start = (12, 10, 6)
        part = array[12:44, 10:42, 6:22].astype(np.float32) / 1000
        affine = affine.copy()
        affine[:3, 3] = (affine @ [*start, 1])[:3]
        for number in range(count):
            node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode")
            slicer.util.updateVolumeFromArray(node, (part + number).T)
            node.SetIJKToRASMatrix(slicer.util.vtkMatrixFromArray(affine))
            self.assertTrue(slicer.util.saveNode(node, str(self.folder / f"label-01-sample-{number:04d}.nii.gz")))
            slicer.mrmlScene.RemoveNode(node)
            lineage = {"kind": "synthetic", "outcome": 1, "seed": 1000 + number, "transform": {}, "sampler": "ddim",
                       "steps": 3, "bundle": "demo", "bundle_hash": "0123456789", "notice": "Research use only.",
                       "flags": ["SYNTHETIC", "DEMO_MODEL"], "fold": 0}
            (self.folder / f"label-01-sample-{number:04d}.json").write_text(json.dumps(lineage))
        return self.folder

    def loaded(self):
        """MRI and three patches of it, loaded."""
        volumeNode, _segmentation = self.case()
        request = {"count": 3, "seed": 5, "steps": 3, "vary": False, "crop": [], "outcome": "pni"}
        return volumeNode, synthetic.load(self.written(volumeNode), volumeNode, request)

    def panel(self):
        slicer.util.selectModule("NeoNetGen")
        return slicer.modules.NeoNetGenWidget

    @staticmethod
    def content():
        """IDs of all nodes in the scene."""
        nodes_ = slicer.mrmlScene.GetNodes()
        return sorted(nodes_.GetItemAsObject(index).GetID() for index in range(nodes_.GetNumberOfItems()))

    # --- without a job -----------------------------------------------------------------------------------------------

    def test_patchesLieWhereTheyWereCut(self):
        volumeNode, patches = self.loaded()
        for patch in patches:
            self.assertEqual(patch.GetTransformNodeID(), volumeNode.GetTransformNodeID())
        patch = slicer.util.arrayFromVolume(patches[0])
        for index in ([0, 0, 0], [3, 20, 11]):  # K, J, I
            point = nodes.localToWorld(patches[0], (nodes.localAffine(patches[0]) @ [*index[::-1], 1])[:3])
            point = nodes.worldToLocal(volumeNode, point)
            i, j, k = np.rint(np.linalg.solve(nodes.localAffine(volumeNode), [*point, 1])[:3]).astype(int)
            self.assertAlmostEqual(slicer.util.arrayFromVolume(volumeNode)[k, j, i] / 1000, patch[tuple(index)], 5)

    def test_everyPatchSaysThatItIsSynthetic(self):
        _volume, patches = self.loaded()
        for patch in patches:
            for text in (patch.GetName(), patch.GetAttribute(synthetic.KIND), patch.GetDescription()):
                self.assertIn(synthetic.SYNTHETIC, text)
                self.assertIn(synthetic.DEMONSTRATION, text)
        browser = synthetic.browserOf(patches[0].GetAttribute(synthetic.GENERATION))
        if browser is not None:
            shown = browser.GetProxyNode(browser.GetMasterSequenceNode())
            self.assertIn(synthetic.SYNTHETIC, shown.GetName())
            self.assertIn(synthetic.DEMONSTRATION, shown.GetAttribute(synthetic.KIND))
            self.assertEqual(shown.GetTransformNodeID(), patches[0].GetTransformNodeID())

    def test_patchesAreGatheredBesideTheMri(self):
        volumeNode, patches = self.loaded()
        hierarchy = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
        parents = {hierarchy.GetItemParent(hierarchy.GetItemByDataNode(patch)) for patch in patches}
        self.assertEqual(len(parents), 1)
        folder = parents.pop()
        self.assertIn(synthetic.SYNTHETIC, hierarchy.GetItemName(folder))
        volumeItem = hierarchy.GetItemByDataNode(volumeNode)
        self.assertEqual(hierarchy.GetItemParent(folder), hierarchy.GetItemParent(volumeItem))

    def test_browsingShowsTheChosenPatch(self):
        _volume, patches = self.loaded()
        for index in (2, 0, 1):
            shown = synthetic.browse(patches[0].GetAttribute(synthetic.GENERATION), index)
            self.assertTrue(np.array_equal(*map(slicer.util.arrayFromVolume, (shown, patches[index]))))
            self.assertEqual(synthetic.lineageOf(shown), synthetic.lineageOf(patches[index]))
        self.assertEqual([synthetic.lineageOf(patch)["seed"] for patch in patches], [1000, 1001, 1002])

    def test_theRealPatchIsTheMriOnTheGridOfTheSynthetic(self):
        volumeNode, patches = self.loaded()
        generation = patches[0].GetAttribute(synthetic.GENERATION)
        real = synthetic.realPatch(generation)
        self.assertIs(synthetic.realPatch(generation), real)
        array, affine = nodes.canonical(real)
        same, sameAffine = nodes.canonical(patches[0])
        self.assertTrue(np.allclose(affine, sameAffine))
        low, high = np.percentile(slicer.util.arrayFromVolume(volumeNode), [0.5, 99.5])
        self.assertTrue(np.allclose(array, np.clip((1000 * same - low) / (high - low), 0, 1), atol=1e-4))
        self.assertNotIn(synthetic.SYNTHETIC, real.GetName())

    def test_sideBySideShowsBothAtOnePlaceAndGoesBack(self):
        volumeNode, patches = self.loaded()
        slicer.util.setSliceViewerLayers(background=volumeNode)
        generation = patches[0].GetAttribute(synthetic.GENERATION)
        layout = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLayoutNode")
        before = layout.GetViewArrangement()
        compare = SideBySide()
        real = synthetic.realPatch(generation)
        compare.enter(real, synthetic.browse(generation, 0))
        self.assertEqual(layout.GetViewArrangement(), slicer.vtkMRMLLayoutNode.SlicerLayoutSideBySideView)
        (red, redLayers), (yellow, yellowLayers) = map(viewNodes, SideBySide.VIEWS)
        self.assertEqual(redLayers.GetBackgroundVolumeID(), real.GetID())
        self.assertEqual(slicer.mrmlScene.GetNodeByID(yellowLayers.GetBackgroundVolumeID()).GetAttribute(synthetic.LINEAGE),
                         patches[0].GetAttribute(synthetic.LINEAGE))
        self.assertAlmostEqual(red.GetSliceOffset(), yellow.GetSliceOffset())
        self.assertEqual(red.GetOrientation(), yellow.GetOrientation())
        compare.leave()
        self.assertEqual(layout.GetViewArrangement(), before)
        self.assertEqual(redLayers.GetBackgroundVolumeID(), volumeNode.GetID())
        self.assertEqual(yellowLayers.GetBackgroundVolumeID(), volumeNode.GetID())

    def test_anExportedPatchStaysSynthetic(self):
        _volume, patches = self.loaded()
        folder = synthetic.export(patches, self.folder / "export")
        files = sorted(path.name for path in folder.iterdir())
        self.assertEqual(len(files), 2 * len(patches))
        for name in files:
            self.assertTrue(name.startswith("SYNTHETIC-DEMONSTRATION-MODEL"), name)
        lineage = json.loads((folder / files[0]).with_suffix(".json").read_text(encoding="utf-8"))
        self.assertEqual(lineage, synthetic.lineageOf(patches[0]))
        header = (folder / files[1]).read_bytes()[:4000]
        self.assertIn(b"SYNTHETIC, DEMONSTRATION MODEL", header)
        self.assertIn(b'"seed": 1000', header)
        again = slicer.util.loadVolume(str((folder / files[0]).with_suffix(".nrrd")))
        self.assertTrue(np.allclose(nodes.canonical(again)[0], nodes.canonical(patches[0])[0]))
        self.assertNotEqual(synthetic.export(patches, self.folder / "export"), folder)  # never over another one

    def test_afterLoadingFailsNothingIsLeft(self):
        volumeNode, _segmentation = self.case()
        folder = self.written(volumeNode)
        (folder / "label-01-sample-0002.nii.gz").write_bytes(b"broken")
        before = self.content()
        request = {"count": 3, "seed": 5, "steps": 3, "vary": False, "crop": [], "outcome": "pni"}
        with self.assertRaises(Exception):  # noqa: B017 - whatever it is
            synthetic.load(folder, volumeNode, request)
        self.assertEqual(self.content(), before)

    # --- the panel ---------------------------------------------------------------------------------------------------

    def test_thePanelFindsWhatItNeeds(self):
        volumeNode, segmentationNode = self.case()
        widget = self.panel()
        self.assertEqual(widget.ui.inputVolumeSelector.currentNode(), volumeNode)
        self.assertEqual(widget.ui.segmentationSelector.currentNode(), segmentationNode)
        self.assertEqual(widget.ui.tumourCombo.currentText, segments.TUMOUR.name)
        self.assertTrue(widget.panel.runButton.enabled)
        self.assertIn("PNI", widget.ui.outcomeCombo.currentText)
        self.assertIn("Research use only", widget.panel.researchUseLabel.text)
        segmentationNode.GetSegmentation().RemoveSegment(segments.TUMOUR.name)
        self.assertFalse(widget.panel.runButton.enabled)
        self.assertIn("tumour", widget.panel.messageLabel.text)

    def test_thePanelShowsTheLineage(self):
        widget = self.panel()
        _volume, patches = self.loaded()
        parameters = self.logic.getParameterNode()
        parameters.generation = patches[0].GetAttribute(synthetic.GENERATION)
        widget.showPatches()
        table = widget.ui.lineageTable
        self.assertEqual((table.rowCount, table.columnCount), (3, len(synthetic.columns())))
        texts = [table.item(1, column).text() for column in range(table.columnCount)]
        self.assertEqual(texts, ["PNI positive", "5", "3", "ddim", "as segmented", "demo (01234567)"])
        self.assertIn(synthetic.DEMONSTRATION, widget.ui.syntheticLabel.text)
        widget.ui.patchSlider.value = 3
        shown = slicer.mrmlScene.GetNodeByID(viewNodes("Red")[1].GetForegroundVolumeID())
        self.assertEqual(synthetic.lineageOf(shown), synthetic.lineageOf(patches[2]))
        widget.onRowClicked(0, 0)
        self.assertEqual(synthetic.lineageOf(shown if widget._browser else patches[0]), synthetic.lineageOf(patches[0]))
        widget.ui.compareButton.checked = True
        self.assertTrue(widget.sideBySide.active)
        slicer.mrmlScene.RemoveNode(patches[1])
        self.assertEqual(table.rowCount, 2)
        widget.ui.compareButton.checked = False

    def test_aSavedSceneComesBack(self):
        widget = self.panel()
        volumeNode, _segmentation = self.case()
        widget.initializeParameterNode()
        request = {"count": 3, "seed": 5, "steps": 3, "vary": False, "crop": [], "outcome": "pni"}
        patches = synthetic.load(self.written(volumeNode), volumeNode, request)
        parameters = self.logic.getParameterNode()
        parameters.generation = patches[0].GetAttribute(synthetic.GENERATION)
        parameters.count, parameters.seed, parameters.outcome, parameters.vary = 7, 11, NEGATIVE, True
        arrays = [slicer.util.arrayFromVolume(patch).copy() for patch in patches]
        path = str(self.folder / "scene.mrb")
        self.assertTrue(slicer.util.saveScene(path))
        slicer.mrmlScene.Clear()
        self.assertTrue(slicer.util.loadScene(path))
        self.assertEqual(widget.ui.countSpin.value, 7)
        self.assertEqual(widget.ui.seedSpin.value, 11)
        self.assertIn("negative", widget.ui.outcomeCombo.currentText)
        self.assertTrue(widget.ui.varyCheck.checked)
        self.assertEqual(widget.ui.inputVolumeSelector.currentNode().GetName(), "MRI")
        self.assertEqual(widget.ui.lineageTable.rowCount, 3)
        for index, array in enumerate(arrays):
            self.assertTrue(np.array_equal(slicer.util.arrayFromVolume(widget.patches[index]), array))
            shown = synthetic.browse(widget._parameterNode.generation, index)
            self.assertTrue(np.array_equal(slicer.util.arrayFromVolume(shown), array))
            self.assertIn(synthetic.SYNTHETIC, shown.GetAttribute(synthetic.KIND))
        self.assertEqual(synthetic.lineageOf(widget.patches[0])["seed"], 1000)

    # --- with a job --------------------------------------------------------------------------------------------------

    def test_generateAndCompare(self):
        self.needPackages()
        widget = self.panel()
        self.case()
        widget.initializeParameterNode()
        widget.ui.countSpin.value, widget.ui.seedSpin.value, widget.ui.stepsSpin.value = 2, 3, 2
        widget.panel.runButton.click()
        self.assertTrue(widget.panel.running)
        self.waitFor(lambda: not widget.panel.running)
        self.assertEqual(len(widget.patches), 2, widget.panel.messageLabel.text + widget.panel.logText.plainText)
        self.waitFor(lambda: widget.sideBySide.active, 10)
        self.assertTrue(widget.ui.compareButton.checked)
        self.assertEqual([synthetic.lineageOf(patch)["steps"] for patch in widget.patches], [2, 2])
        self.assertIn(synthetic.DEMONSTRATION, widget.patches[0].GetName())
        array, affine = nodes.canonical(widget.patches[0])
        real, realAffine = nodes.canonical(synthetic.realPatch(widget._parameterNode.generation))
        self.assertEqual(array.shape, real.shape)
        self.assertTrue(np.allclose(affine, realAffine))

    def test_cancelLeavesTheSceneAsItWas(self):
        self.needPackages()
        volumeNode, segmentationNode = self.case()
        before, ended = self.content(), []
        bundle = next(bundle for bundle in catalogue.bundles() if bundle.canGenerate)
        ids = segments.findSegments(segmentationNode)
        job = self.logic.generate(volumeNode, segmentationNode, *ids, bundle, 20, 0, 500, POSITIVE, [], "cpu",
                                  onFinished=lambda *values: ended.append(values))
        begun = time.monotonic()
        self.waitFor(lambda: time.monotonic() > begun + 3)  # until it computes
        folder = job.folder
        job.cancel()
        self.waitFor(lambda: bool(ended), 5)
        self.assertTrue(ended[0][0].cancelled)
        self.assertEqual(ended[0][1], [])
        self.assertEqual(self.content(), before)
        self.waitFor(lambda: not folder.exists(), 5)

    def test_aSceneMayBeClosedWhilePatchesAreDrawn(self):
        self.needPackages()
        widget = self.panel()
        self.case()
        widget.initializeParameterNode()
        widget.ui.countSpin.value, widget.ui.stepsSpin.value = 20, 500
        widget.panel.runButton.click()
        slicer.mrmlScene.Clear()
        self.waitFor(lambda: not widget.panel.running, 10)
        self.assertEqual(widget.patches, [])

    def test_anMriThatIsGoneGetsNoPatches(self):
        self.needPackages()
        volumeNode, segmentationNode = self.case()
        ended = []
        bundle = next(bundle for bundle in catalogue.bundles() if bundle.canGenerate)
        ids = segments.findSegments(segmentationNode)
        self.logic.generate(volumeNode, segmentationNode, *ids, bundle, 1, 0, 1, POSITIVE, [], "cpu",
                            onFinished=lambda *values: ended.append(values))
        slicer.mrmlScene.RemoveNode(volumeNode)
        before = self.content()
        self.waitFor(lambda: bool(ended))
        self.assertFalse(ended[0][0].ok)
        self.assertIn("removed", ended[0][0].message)
        self.assertEqual(self.content(), before)
