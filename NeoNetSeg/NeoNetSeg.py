"""NeoNetSeg: liver and tumour from an MRI, in a background job, and the tumour-localised crop (TLCR) made of them."""

import logging
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import slicer
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import parameterNodeWrapper
from slicer.ScriptedLoadableModule import ScriptedLoadableModule, ScriptedLoadableModuleLogic

try:
    import NeoNetLib  # noqa: F401 - beside this file in an installed extension
except ModuleNotFoundError:
    sys.path.append(str(Path(__file__).resolve().parents[1] / "NeoNetExtension"))

from neonet_core.tlcr import TUMOUR
from NeoNetLib import messages, nodes, segments
from NeoNetLib.croppreview import CropPreview
from NeoNetLib.job import Job
from NeoNetLib.jobpanel import AMBER, RED, BundleCombo, JobPanel
from NeoNetLib.moduletest import ModuleTest
from NeoNetLib.modulewidget import ModuleWidget
from NeoNetLib.segmentpicker import SegmentPicker


class NeoNetSeg(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = "NeoNetSeg"
        self.parent.categories = ["NeoNet"]
        self.parent.dependencies = []
        self.parent.contributors = [_("The NeoNet engineers")]
        self.parent.helpText = _(
            "<p>Segments the liver and its tumour in a T1-weighted MRI of the hepatobiliary phase, and shows the crop "
            "around the tumour from which NeoNet predicts perineural invasion.</p>"
            "<p>Load the MRI and click <b>Segment</b>; correct the result in Segment Editor. A segmentation of any "
            "other source will do as well: choose it and say which segment is the liver and which the tumour. "
            "<b>Preview crop</b> then shows what the model will see.</p>"
            "<p>No data leaves the computer. <b>Research use only. Not a medical device; not for diagnosis or "
            "treatment.</b></p>"
        )
        self.parent.acknowledgementText = _(
            "An implementation of the method of “NeoNet: An End-to-End 3D MRI-Based Deep Learning Framework for "
            "Non-Invasive Prediction of Perineural Invasion via Generation-Driven Classification”. Apache License 2.0."
        )


@parameterNodeWrapper
class NeoNetSegParameters:
    """What is chosen in the panel; saved with the scene."""

    inputVolume: slicer.vtkMRMLScalarVolumeNode
    bundle: str = "demo"
    device: str = "auto"
    segmentation: slicer.vtkMRMLSegmentationNode
    liverSegment: str = ""
    tumourSegment: str = ""
    cropBundle: str = "demo"
    previewCrop: bool = False


class NeoNetSegWidget(ModuleWidget):
    def __init__(self, parent=None):
        super().__init__(parent)
        self._segmented = None  # volume of the latest job
        self.preview = None  # CropPreview while the crop is shown
        self._previewed = None  # what it was made of

    def build(self):
        self.logic = NeoNetSegLogic()
        self.panel = JobPanel(self.ui.jobFrame.layout(), _("Segment"), "canSegment", self.ui.inputLayout)
        self.panel.onRun = self.onSegment
        self.panel.onFinished = self.onSegmented
        self.picker = SegmentPicker(self.ui.liverCombo, self.ui.tumourCombo)
        self.cropModels = BundleCombo(self.ui.cropBundleCombo, "canClassify", self.onCropBundleChosen)
        self.panel.onChanged = self.cropModels.refresh  # a model that was added may do both

        self.ui.correctButton.connect("clicked()", self.onCorrect)
        self.ui.previewButton.connect("clicked()", self.onPreviewClicked)
        self.ui.followButton.connect("clicked()", self.onFollow)
        self.ui.cropLayerCombo.connect("currentIndexChanged(int)", self.onCropLayerChosen)

    # --- the module's life ---------------------------------------------------------------------------------------

    def cleanup(self):
        self.releasePreview()
        super().cleanup()

    def onSceneStartClose(self, caller, event):
        self.releasePreview()
        super().onSceneStartClose(caller, event)

    def attach(self, parameterNode):
        self.panel.attach(parameterNode)
        self.picker.attach(parameterNode)

    def propose(self):
        """Without a chosen MRI, the one that is shown."""
        if self._parameterNode.inputVolume is None:
            self._parameterNode.inputVolume = nodes.shownVolume()

    def onParametersModified(self, caller=None, event=None):
        parameters = self._parameterNode
        if self.preview is not None and parameters.inputVolume in (self.preview.t1Node, self.preview.t2Node):
            parameters.inputVolume = None  # the MRI was removed, and the selector went on to the next volume
            return
        self.panel.setProblem("" if parameters.inputVolume else _("Load a T1-weighted MRI of the hepatobiliary phase."))
        self.ui.correctButton.enabled = parameters.segmentation is not None
        self.updatePreview()

    # --- segmenting ----------------------------------------------------------------------------------------------

    def onSegment(self):
        volume, bundle, device = self._parameterNode.inputVolume, self.panel.bundle, self.panel.device
        self._segmented = volume
        self.panel.run(lambda **callbacks: self.logic.segment(volume, bundle, device, **callbacks))

    def onSegmented(self, outcome, segmentationNode):
        if segmentationNode is None or self._parameterNode is None:
            return
        if self._parameterNode.inputVolume != self._segmented:
            return  # the user has gone on to another MRI; the result lies beside its own
        segments.replace(self._parameterNode.segmentation, segmentationNode)
        self._parameterNode.segmentation = segmentationNode
        nodes.showPlace(segmentationNode.GetSegmentCenterRAS(self._parameterNode.tumourSegment))
        if "NO_TUMOUR" in (segmentationNode.GetAttribute("NeoNet.Flags") or ""):
            self.panel.setMessage(_("No tumour was found. If you see one, draw it in Segment Editor."), AMBER)

    def onCorrect(self):
        parameters = self._parameterNode
        with slicer.util.tryWithErrorDisplay(_("Segment Editor cannot be opened.")):
            self.logic.correct(parameters.segmentation, parameters.tumourSegment, parameters.inputVolume)

    # --- the crop ------------------------------------------------------------------------------------------------

    def onCropBundleChosen(self, name):
        self._parameterNode.cropBundle = name

    def onPreviewClicked(self):
        if self.preview is not None and not self.preview.problem:
            nodes.showPlace(nodes.localToWorld(self.preview.volumeNode, self.preview.roiNode.GetCenter()))

    def onFollow(self):
        with slicer.util.tryWithErrorDisplay(_("The crop cannot be shown.")):
            self.preview.follow()

    def onCropLayerChosen(self, index):
        """Lay T1 or T2 over the MRI in all slice views, or take them away."""
        if self.preview is not None:
            shown = (None, self.preview.t1Node, self.preview.t2Node)[index]
            slicer.util.setSliceViewerLayers(background=self.preview.volumeNode, foreground=shown, foregroundOpacity=1)

    def updatePreview(self):
        """Show the crop of what is chosen, if it is to be shown, and say what it holds or what is missing."""
        parameters = self._parameterNode
        if self.cropModels.name != parameters.cropBundle:
            self.cropModels.select(parameters.cropBundle)
        bundle = self.cropModels.bundle
        self.ui.cropFactsLabel.text = cropFacts(bundle) if bundle else self.cropModels.problem
        ready = None not in (parameters.inputVolume, parameters.segmentation, bundle)
        self.ui.previewButton.enabled = ready
        wanted = None
        if ready and parameters.previewCrop:
            wanted = (parameters.inputVolume, parameters.segmentation, parameters.liverSegment,
                      parameters.tumourSegment, bundle.cropSize, bundle.cropSpacing, bundle.cropComponent)
        if wanted != self._previewed:
            if self.preview is not None:
                self.preview.remove()
            self.releasePreview()
            if wanted is not None:
                self.preview, self._previewed = CropPreview(*wanted), wanted
                self.preview.onChanged = self.showPreviewState
                if self.ui.cropLayerCombo.currentIndex > 0:  # of the preview before: its volumes are gone
                    self.onCropLayerChosen(self.ui.cropLayerCombo.currentIndex)
        self.showPreviewState()

    def releasePreview(self):
        """Follow nothing any more; the nodes stay."""
        if self.preview is not None:
            self.preview.release()
        self.preview = self._previewed = None

    def showPreviewState(self):
        preview = self.preview
        for shown in (self.ui.cropLabel, self.ui.followButton, self.ui.cropLayerLabel, self.ui.cropLayerCombo):
            shown.visible = preview is not None
        if preview is not None:
            self.ui.cropLabel.text = preview.summary
            self.ui.cropLabel.setStyleSheet(RED if preview.problem else AMBER if preview.coverage < 1 else "")
            self.ui.followButton.enabled = preview.center is not None


def cropFacts(bundle):
    """Size and place of a model's crop in words."""
    size = " × ".join(map(str, bundle.cropSize))
    around = _("around the largest tumour") if bundle.cropComponent == "largest" else _("around all tumours")
    if bundle.cropSpacing is None:
        return _("{size} voxels of the MRI, {around}").format(size=size, around=around)
    spacing = " × ".join(f"{length:.3g}" for length in bundle.cropSpacing)
    return _("{size} voxels of {spacing} mm, {around}").format(size=size, spacing=spacing, around=around)


class NeoNetSegLogic(ScriptedLoadableModuleLogic):
    """Segments a volume and hands the result over; knows no widgets."""

    def getParameterNode(self):
        return NeoNetSegParameters(super().getParameterNode())

    def segment(self, volumeNode, bundle, device, onProgress=None, onLog=None, onFinished=None):
        """Segment liver and tumour in the background.

        Parameters
        ----------
        volumeNode : vtkMRMLScalarVolumeNode
        bundle : NeoNetLib.catalogue.BundleInfo
        device : str
            "auto", "cpu", "cuda" or "mps".
        onProgress, onLog : callable, optional
            As of `NeoNetLib.job.Job`.
        onFinished : callable, optional
            ``onFinished(outcome, segmentationNode)``; None instead of the node unless all went well. The scene is
            touched only then. The node's attribute NeoNet.Flags holds DEMO_MODEL and NO_TUMOUR where they apply.

        Returns
        -------
        Job
            Started.
        """
        job = Job([], onProgress, onLog, lambda outcome: finish(outcome))
        image, labelMap = job.folder / "image.nrrd", job.folder / "label_map.nrrd"
        volumeId = volumeNode.GetID()

        def finish(outcome):
            segmentationNode = None
            if outcome.ok and slicer.mrmlScene.GetNodeByID(volumeId) is not volumeNode:
                outcome = replace(outcome, ok=False, message=_(
                    "The MRI was removed while it was being segmented; load it again, and repeat."))
            elif outcome.ok:
                try:
                    segmentationNode = self._show(labelMap, volumeNode, bundle, outcome.result)
                except Exception as error:
                    logging.exception("NeoNetSeg: the result could not be shown")
                    outcome = replace(outcome, ok=False, message=messages.explain(getattr(error, "code", "INTERNAL")))
            job.close()
            if onFinished:
                onFinished(outcome, segmentationNode)

        try:
            nodes.writeVolume(volumeNode, image)
        except BaseException:
            job.close()
            raise
        job.arguments = ["segment", image, "--out", labelMap, "--bundle", bundle.folder, "--device", device]
        job.start()
        return job

    @staticmethod
    def _show(labelMap, volumeNode, bundle, result):
        """The job's label map as a segmentation that says what made it."""
        flags = list(result.get("flags", ()))
        name = _("{volume} liver and tumour").format(volume=volumeNode.GetName())
        if bundle.isDemo:
            name += _(" (DEMONSTRATION MODEL)")
        node = nodes.showLabelMap(labelMap, volumeNode, name=name)
        liverId, tumourId = segments.findSegments(node)
        if not np.any(nodes.labelMapArray(node, liverId, tumourId, volumeNode) == TUMOUR):
            flags.append("NO_TUMOUR")
        node.SetAttribute("NeoNet.Bundle", f"{bundle.name} {bundle.version}".strip())
        node.SetAttribute("NeoNet.Flags", " ".join(flags))
        node.SetDescription(result.get("notice", ""))
        return node

    @staticmethod
    def correct(segmentationNode, segmentId, volumeNode):
        """Open Segment Editor with this segmentation, this segment and this source volume."""
        editor = slicer.mrmlScene.GetSingletonNode("SegmentEditor", "vtkMRMLSegmentEditorNode")
        if editor is None:  # it has not been open in this scene; it takes up a node of this tag
            editor = slicer.mrmlScene.CreateNodeByClass("vtkMRMLSegmentEditorNode")
            editor.UnRegister(None)
            editor.SetSingletonTag("SegmentEditor")
            editor = slicer.mrmlScene.AddNode(editor)
        editor.SetAndObserveSegmentationNode(segmentationNode)
        editor.SetAndObserveSourceVolumeNode(volumeNode)
        editor.SetSelectedSegmentID(segmentId)
        slicer.util.selectModule("SegmentEditor")


class NeoNetSegTest(ModuleTest):
    """What a radiologist does in the panel, on a small synthetic volume; needs no file and no network."""

    def test_existingSegmentation(self):
        """Liver and tumour are found by name in a segmentation of another source."""
        widget, volume = self.openWithVolume()
        segmentation = self.drawn(volume, {"spleen": (2, 2, 2), "Liver": (5, 9, 9), "ICC": (6, 9, 9)})
        widget.ui.segmentationSelector.setCurrentNode(segmentation)
        assert widget.ui.liverCombo.currentText == "Liver" and widget.ui.tumourCombo.currentText == "ICC"

    def test_previewFollowsTheTumour(self):
        """The preview says what the crop holds; Follow is offered only after the crop was moved."""
        widget, volume = self.openWithVolume()
        widget.ui.segmentationSelector.setCurrentNode(self.drawn(volume, {"liver": (5, 9, 9), "tumour": (6, 9, 9)}))
        before = slicer.mrmlScene.GetNumberOfNodes()
        widget.ui.previewButton.checked = True
        assert widget.ui.cropLabel.text.startswith("The crop holds") and not widget.ui.followButton.enabled
        widget.ui.previewButton.checked = False
        assert slicer.mrmlScene.GetNumberOfNodes() == before
        widget.ui.previewButton.checked = True
        for index, shown in ((1, widget.preview.t1Node), (2, widget.preview.t2Node), (0, None)):
            widget.ui.cropLayerCombo.currentIndex = index
            for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
                assert composite.GetForegroundVolumeID() == (shown.GetID() if shown else None)
                assert composite.GetBackgroundVolumeID() == volume.GetID()

    def test_correct(self):
        """Segment Editor opens with this segmentation on this volume."""
        widget, volume = self.openWithVolume()
        segmentation = self.drawn(volume, {"liver": (5, 9, 9), "tumour": (6, 9, 9)})
        widget.ui.segmentationSelector.setCurrentNode(segmentation)
        widget.ui.correctButton.click()
        editor = slicer.mrmlScene.GetSingletonNode("SegmentEditor", "vtkMRMLSegmentEditorNode")
        assert editor.GetSegmentationNode() is segmentation and editor.GetSourceVolumeNode() is volume
        assert slicer.util.selectedModule() == "SegmentEditor"

    def test_segment(self):
        """One click from a loaded volume to a segmentation, by a real job."""
        widget, volume = self.openWithVolume()
        self.needPackages()
        assert widget.ui.inputVolumeSelector.currentNode() is volume
        widget.panel.runButton.click()
        assert widget.panel.running
        self.waitFor(lambda: not widget.panel.running)
        segmentation = widget.ui.segmentationSelector.currentNode()
        assert segmentation is not None, widget.panel.messageLabel.text
        assert segmentation.GetNodeReference("referenceImageGeometryRef") is volume
        assert "DEMO_MODEL" in segmentation.GetAttribute("NeoNet.Flags")

    def test_cancel(self):
        """Cancel leaves the scene as it was, and no folder behind."""
        widget, _volume = self.openWithVolume()
        self.needPackages()
        before = slicer.mrmlScene.GetNumberOfNodes()
        widget.panel.runButton.click()
        folder = widget.panel.job.folder
        widget.panel.cancel()
        self.waitFor(lambda: not widget.panel.running, 2)
        assert slicer.mrmlScene.GetNumberOfNodes() == before and not folder.exists()

    def test_sceneCloseInAJob(self):
        """Closing the scene ends the job; nothing of it comes into the next scene."""
        widget, _volume = self.openWithVolume()
        self.needPackages()
        widget.panel.runButton.click()
        folder = widget.panel.job.folder
        slicer.mrmlScene.Clear()
        self.waitFor(lambda: not widget.panel.running, 2)
        assert not slicer.util.getNodesByClass("vtkMRMLSegmentationNode") and not folder.exists()

    # --- what the scenarios need ---------------------------------------------------------------------------------

    @staticmethod
    def openWithVolume():
        """The panel, and an MRI of 24 x 24 x 24 voxels of 3 mm in the scene: (widget, volume node)."""
        slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)  # made when first asked for
        k, j, i = np.indices((24, 24, 24))
        array = 100 + 500 * ((i - 12) ** 2 + (j - 12) ** 2 + (k - 12) ** 2 < 80) - 300 * (abs(i - 9) + abs(j - 12) < 4)
        volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "synthetic")
        slicer.util.updateVolumeFromArray(volume, array.astype(np.int16))
        volume.SetSpacing(3, 3, 3)
        volume.SetOrigin(-36, -36, -36)
        slicer.util.selectModule("NeoNetSeg")
        return slicer.util.getModuleWidget("NeoNetSeg"), volume

    @staticmethod
    def drawn(volume, cubes):
        """A segmentation with a cube of 4 voxels for each name, from a corner (k, j, i) on."""
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn")
        node.CreateDefaultDisplayNodes()
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        for name, (k, j, i) in cubes.items():
            mask = np.zeros(slicer.util.arrayFromVolume(volume).shape, np.uint8)
            mask[k:k + 4, j:j + 4, i:i + 4] = 1
            segmentId = node.GetSegmentation().AddEmptySegment("", name)
            slicer.util.updateSegmentBinaryLabelmapFromArray(mask, node, segmentId, volume)
        return node
