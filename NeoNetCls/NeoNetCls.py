"""NeoNetCls: the probability of perineural invasion, its spread, its place among the training scores, its doubts."""

import dataclasses
import json
import logging
import sys
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import qt
import slicer
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import WithinRange, parameterNodeWrapper
from slicer.ScriptedLoadableModule import ScriptedLoadableModule, ScriptedLoadableModuleLogic

try:
    import NeoNetLib  # noqa: F401 - beside this file in an installed extension
except ModuleNotFoundError:
    sys.path.append(str(Path(__file__).resolve().parents[1] / "NeoNetExtension"))

from neonet_core.errors import NeoNetError
from NeoNetLib import croppreview, nodes, results, segments
from NeoNetLib.job import Job
from NeoNetLib.jobpanel import AMBER, JobPanel, demoWarning, researchUseOnly
from NeoNetLib.moduletest import ModuleTest
from NeoNetLib.modulewidget import ModuleWidget
from NeoNetLib.segmentpicker import SegmentPicker

DEMO_STYLE = "background: #ffc53d; color: #1c1400; border: 3px solid #1c1400; padding: 6px; font-weight: bold;"


class NeoNetCls(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = "NeoNetCls"
        self.parent.categories = ["NeoNet"]
        self.parent.dependencies = []
        self.parent.contributors = [_("The NeoNet engineers")]
        self.parent.helpText = _(
            "<p>Predicts perineural invasion of a cholangiocarcinoma from a T1-weighted MRI of the hepatobiliary phase "
            "and a segmentation of liver and tumour.</p>"
            "<p>Choose the MRI and its segmentation and click <b>Score</b>. You get the probability with its spread "
            "over the model's networks, its place among the scores of the training cohort, a map of what the networks "
            "weighted, and every reason for doubt. After an edit the score is marked; <b>Score again</b> renews it.</p>"
            "<p>No data leaves the computer. <b>Research use only. Not a medical device; not for diagnosis or "
            "treatment.</b></p>"
        )
        self.parent.acknowledgementText = _(
            "An implementation of the method of “NeoNet: An End-to-End 3D MRI-Based Deep Learning Framework for "
            "Non-Invasive Prediction of Perineural Invasion via Generation-Driven Classification”. Apache License 2.0."
        )


@parameterNodeWrapper
class NeoNetClsParameters:
    """What is chosen in the panel; saved with the scene."""

    inputVolume: slicer.vtkMRMLScalarVolumeNode
    segmentation: slicer.vtkMRMLSegmentationNode
    liverSegment: str = ""
    tumourSegment: str = ""
    bundle: str = "demo"
    device: str = "auto"
    attentionVisible: bool = True
    attentionOpacity: Annotated[float, WithinRange(0, 1)] = 0.5


class NeoNetClsWidget(ModuleWidget):
    def __init__(self, parent=None):
        super().__init__(parent)
        self._inputsShown = None
        self._runShown = None

    def build(self):
        self.ui.demoResultLabel.text = demoWarning()
        self.ui.demoResultLabel.setStyleSheet(DEMO_STYLE)
        self.ui.staleLabel.setStyleSheet(AMBER)
        self.ui.warningsLabel.setStyleSheet(AMBER)
        self.ui.researchUseResultLabel.text = researchUseOnly()
        self.ui.researchUseResultLabel.setStyleSheet("font-weight: bold;")
        for label in (self.ui.scoreLabel, self.ui.chartLabel, self.ui.factsLabel):
            label.setTextFormat(qt.Qt.RichText)
        for label in (self.ui.warningsLabel, self.ui.standingLabel):
            label.setTextFormat(qt.Qt.PlainText)
        for label in (self.ui.scoreLabel, self.ui.factsLabel, self.ui.warningsLabel):
            label.setTextInteractionFlags(qt.Qt.TextSelectableByMouse)

        self.logic = NeoNetClsLogic()
        self.watch = results.InputWatch(self.onInputsEdited)
        self.panel = JobPanel(self.ui.jobFrame.layout(), _("Score"), "canClassify", self.ui.inputLayout)
        self.panel.onRun = self.onScore
        self.panel.onFinished = self.onScored
        self.panel.onChanged = self.onParametersModified
        self.picker = SegmentPicker(self.ui.liverCombo, self.ui.tumourCombo)

        self.ui.renewButton.connect("clicked()", self.onRenew)
        self.ui.attentionCheck.connect("toggled(bool)", self.showAttention)
        self.ui.attentionSlider.connect("valueChanged(double)", self.showAttention)
        self.ui.exportReportButton.connect("clicked()", self.onExportReport)
        self.ui.exportCsvButton.connect("clicked()", self.onExportCsv)
        self.addObserver(slicer.mrmlScene, slicer.mrmlScene.NodeRemovedEvent, self.onNodeRemoved)

    # --- the module's life ---------------------------------------------------------------------------------------

    def onNodeRemoved(self, caller, event):
        """The table, an attention map or a crop's box may be gone."""
        if self.parent.isEntered and self._parameterNode is not None:
            self.onParametersModified()
            if self.table is None:
                self.updateResult()

    def propose(self):
        """The case that is shown, so that opening the module and one click give a score."""
        parameters = self._parameterNode
        if parameters.inputVolume is None:
            parameters.inputVolume = self.logic.proposedVolume()
        current = segments.latest(parameters.segmentation) or self.logic.proposedSegmentation(parameters.inputVolume)
        if current is not parameters.segmentation:
            parameters.segmentation = current

    def attach(self, parameterNode):
        self._inputsShown = self._runShown = None
        self.panel.attach(parameterNode)
        self.picker.attach(parameterNode)
        if parameterNode is None:
            self.watch.release()

    def onParametersModified(self, caller=None, event=None):
        parameters = self._parameterNode
        if parameters is None:
            return
        chosen = self.inputs()
        if chosen == self._inputsShown:
            return  # the opacity, say: comparing contents takes longer than a slider may
        volumeChanged = self._inputsShown is None or chosen[0] is not self._inputsShown[0]
        self._inputsShown = chosen
        if volumeChanged and caller is not None and not self.logic.belong(parameters.segmentation, chosen[0]):
            parameters.segmentation = self.logic.proposedSegmentation(chosen[0]) or parameters.segmentation
        self.watch.watch(parameters.inputVolume, parameters.segmentation,
                         croppreview.cropBox(parameters.inputVolume, parameters.segmentation))
        self.ui.cropLabel.text = (
            _("moved by hand, see the crop preview of NeoNetSeg") if chosen[-1] else _("follows the tumour"))
        self.panel.setProblem(self.problem())
        if not self.panel.running:
            self.panel.setMessage("")  # how the last job ended says nothing of what is chosen now
        self.updateResult()

    def onInputsEdited(self):
        """Voxels, segments or the crop may have changed. Elsewhere in Slicer nothing is compared: `enter` does it."""
        if self.parent.isEntered:
            self.onParametersModified()
            self.updateStale()

    def problem(self):
        """What is missing for a score, as a sentence; "" if nothing is."""
        parameters = self._parameterNode
        if parameters.inputVolume is None:
            return _("Load a T1-weighted MRI of the hepatobiliary phase.")
        if parameters.segmentation is None:
            return _("Choose a segmentation, or make one with NeoNetSeg.")
        if not parameters.tumourSegment:
            return _("Choose the segment that is the tumour, or draw one in Segment Editor.")
        return ""

    # --- scoring -------------------------------------------------------------------------------------------------

    def inputs(self):
        """What the next score would rest on: the arguments of `results.inputsOf`."""
        parameters = self._parameterNode
        return (parameters.inputVolume, parameters.segmentation, parameters.liverSegment, parameters.tumourSegment,
                self.panel.bundle, croppreview.cropOptions(parameters.inputVolume, parameters.segmentation))

    def onScore(self):
        self.panel.run(lambda **callbacks: self.logic.classify(*self.inputs(), self.panel.device, **callbacks))

    def onRenew(self):
        self.panel.runButton.click()

    def onScored(self, outcome, table):
        if table is not None and table is self.table:  # else another MRI has been chosen meanwhile
            self.updateResult()
            self.showAttention()
            self.logic.jumpToCrop(table)

    # --- the result ----------------------------------------------------------------------------------------------

    @property
    def table(self):
        """The results of the chosen volume, or None."""
        return results.tableOf(self._parameterNode.inputVolume) if self._parameterNode is not None else None

    def updateResult(self):
        """Show the latest run on the chosen volume, and whether it still holds."""
        run = results.latest(self.table)
        self.ui.noResultLabel.visible = run is None
        self.ui.resultFrame.visible = run is not None
        if run is None:
            return
        self.ui.demoResultLabel.visible = run.isDemo
        doubts = results.warnings(run)
        self.ui.warningsLabel.text = "\n".join(doubts)
        self.ui.warningsLabel.visible = bool(doubts)
        hasMap = results.attentionOf(self.table) is not None
        self.ui.attentionCheck.enabled = self.ui.attentionSlider.enabled = hasMap
        self.updateStale()

    def updateStale(self):
        """Compare what was scored with what is there now: by content, so that an undone edit leaves no mark."""
        run = results.latest(self.table)
        if run is None:
            return
        message = results.staleMessage(run.inputs, results.inputsOf(*self.inputs()))
        if (run, message) != self._runShown:  # drawing takes longer than comparing
            self._runShown = (run, message)
            self._showRun(run, message)

    def _showRun(self, run, message):
        stale = bool(message)
        self.ui.staleLabel.text = message
        self.ui.staleFrame.visible = stale
        self.ui.scoreLabel.text = results.scoreHtml(run, stale)
        self.ui.chartLabel.text = results.chartHtml(run, stale)
        self.ui.chartLabel.visible = run.probability is not None
        self.ui.standingLabel.text = results.standing(run)
        self.ui.standingLabel.visible = run.probability is not None
        self.ui.standingLabel.enabled = not stale
        self.ui.scoreLabel.toolTip = "" if run.probability is None else repr(run.probability)
        used = self.table.GetNodeReference(results.SEGMENTATION)
        self.ui.factsLabel.text = results.factsHtml(run, used.GetName() if used is not None else "", stale)

    def showAttention(self, _value=None):
        """Show or hide the attention map of the chosen volume, as checked."""
        if self.table is not None:
            self.logic.showAttention(self.table, self.ui.attentionCheck.checked, self.ui.attentionSlider.value)

    def onExportReport(self):
        self._export(results.exportReport, "neonet-report.html", _("Web page (*.html)"))

    def onExportCsv(self):
        self._export(results.exportCsv, "neonet-scores.csv", _("Table (*.csv)"))

    def _export(self, write, name, kind):
        path = qt.QFileDialog.getSaveFileName(slicer.util.mainWindow(), _("Save as"), name, kind)
        if path:
            with slicer.util.tryWithErrorDisplay(_("The file cannot be written.")):
                write(self.table, path)


class NeoNetClsLogic(ScriptedLoadableModuleLogic):
    """Scores a segmented volume and hands the result over; knows no widgets."""

    def getParameterNode(self):
        return NeoNetClsParameters(super().getParameterNode())

    # --- what is likely meant ------------------------------------------------------------------------------------

    @staticmethod
    def proposedVolume():
        """The volume of the newest segmentation with a tumour, else the one shown, else the only one, else None."""
        for segmentationNode in reversed(_withTumour()):
            volume = _referenceVolume(segmentationNode)
            if volume is not None:
                return volume
        return nodes.shownVolume()

    def proposedSegmentation(self, volumeNode):
        """The newest segmentation with a tumour on this volume's grid, else the only one with a tumour, else None."""
        found = _withTumour()
        own = [node for node in found if self.belong(node, volumeNode)]
        return own[-1] if own else found[0] if len(found) == 1 else None

    @staticmethod
    def belong(segmentationNode, volumeNode):
        """Whether the segmentation was made on this volume."""
        return segmentationNode is not None and _referenceVolume(segmentationNode) is volumeNode

    # --- the score -----------------------------------------------------------------------------------------------

    def classify(self, volumeNode, segmentationNode, liverId, tumourId, bundle, cropOptions=(), device="auto",
                 onProgress=None, onLog=None, onFinished=None):
        """Score a volume in the background, with ``neonet predict --label``.

        Parameters
        ----------
        volumeNode : vtkMRMLScalarVolumeNode
        segmentationNode : vtkMRMLSegmentationNode
        liverId, tumourId : str
            Segment IDs; the liver's may be "".
        bundle : NeoNetLib.catalogue.BundleInfo
        cropOptions : list of str
            ``["--crop-center=R,A,S"]``; empty: the crop follows the tumour.
        device : str
            "auto", "cpu", "cuda" or "mps".
        onProgress, onLog : callable, optional
            As of `NeoNetLib.job.Job`.
        onFinished : callable, optional
            ``onFinished(outcome, resultTableNode)``; None instead of the node unless all went well. The scene is
            touched only then.

        Returns
        -------
        Job
            Started.

        Raises
        ------
        NeoNetError
            ``EMPTY_TUMOUR``.
        """
        job = Job([], onProgress, onLog, lambda outcome: finish(outcome))
        image, label, out = (job.folder / name for name in ("image.nrrd", "label.nrrd", "out"))

        def finish(outcome):
            table = None
            if outcome.ok and not all(map(slicer.mrmlScene.IsNodePresent, (volumeNode, segmentationNode))):
                outcome = dataclasses.replace(outcome, ok=False, message=_(
                    "The MRI or its segmentation was removed meanwhile, so the score was not kept; score again."))
            elif outcome.ok:
                try:
                    table = self._load(out, volumeNode, segmentationNode, inputs, bundle)
                except Exception as error:
                    logging.exception("NeoNet: a score could not be loaded")
                    outcome = dataclasses.replace(outcome, ok=False, details=str(error), message=_(
                        "The score was made but could not be read back; free some memory and disk space, and score "
                        "again."))
            job.close()
            if onFinished:
                onFinished(outcome, table)

        try:
            if not (nodes.labelMapArray(segmentationNode, liverId, tumourId, volumeNode) == 2).any():
                raise NeoNetError("EMPTY_TUMOUR", _("The tumour segment is empty within the MRI."),
                                  _("Draw the tumour in Segment Editor, or choose another segment."))
            inputs = results.inputsOf(volumeNode, segmentationNode, liverId, tumourId, bundle, cropOptions)
            nodes.writeVolume(volumeNode, image)
            nodes.writeLabelMap(segmentationNode, liverId, tumourId, volumeNode, label)
        except BaseException:
            job.close()
            raise
        job.arguments = ["predict", image, "--label", label, "--bundle", bundle.folder, *cropOptions,
                         "--device", device, "--out", out]
        job.start()
        return job

    @staticmethod
    def _load(folder, volumeNode, segmentationNode, inputs, bundle):
        score = json.loads((folder / "score.json").read_text(encoding="utf-8"))
        report = (folder / "report.html").read_text(encoding="utf-8")
        attention = None
        if score["probability"] is not None:
            name = _("Demonstration attention map") if bundle.isDemo else _("Attention map")
            attention = nodes.loadResultVolume(folder / "attention.nii.gz", volumeNode, name)
            _colour(attention)
        return results.addRun(volumeNode, segmentationNode, inputs, score, bundle.outOfFold, attention, report)

    # --- the attention map ---------------------------------------------------------------------------------------

    @staticmethod
    def showAttention(table, visible, opacity):
        """Lay the attention map of the latest run over its volume in all slice views, or take it away.

        `opacity` 0 to 1.
        """
        attention, volume = results.attentionOf(table), table.GetNodeReference(results.VOLUME)
        if attention is None or volume is None:
            return
        for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
            if visible:
                composite.SetBackgroundVolumeID(volume.GetID())
                composite.SetForegroundVolumeID(attention.GetID())
                composite.SetForegroundOpacity(opacity)
            elif composite.GetForegroundVolumeID() == attention.GetID():
                composite.SetForegroundVolumeID(None)

    @staticmethod
    def jumpToCrop(table):
        """Move all slice views to the centre of the crop."""
        run, volume = results.latest(table), table.GetNodeReference(results.VOLUME)
        if run.score["crop"] and volume is not None:
            center = nodes.localToWorld(volume, run.score["crop"]["center_ras_mm"])
            slicer.vtkMRMLSliceNode.JumpAllSlices(slicer.mrmlScene, *center, slicer.vtkMRMLSliceNode.OffsetJumpSlice)


def _withTumour():
    return [node for node in slicer.util.getNodesByClass("vtkMRMLSegmentationNode") if segments.findSegments(node)[1]]


def _referenceVolume(segmentationNode):
    return segmentationNode.GetNodeReference(segmentationNode.GetReferenceImageGeometryReferenceRole())


def _colour(attention):
    """Colours as in the report: from the lowest to the highest weight inside the crop, nothing where there is none."""
    attention.CreateDefaultDisplayNodes()
    display = attention.GetDisplayNode()
    values = slicer.util.arrayFromVolume(attention)
    inside = values[values > 0]
    low, high = (float(inside.min()), float(inside.max())) if inside.size else (0.0, 1.0)
    display.SetAndObserveColorNodeID("vtkMRMLColorTableNodeFileViridis.txt")
    display.AutoWindowLevelOff()
    display.SetWindowLevelMinMax(low, high)
    display.AutoThresholdOff()
    display.SetThreshold(low, high)
    display.ApplyThresholdOn()
    display.SetInterpolate(True)


class NeoNetClsTest(ModuleTest):
    """Scenarios through the panel; those that need a job are left out where NeoNet's packages are not installed."""

    def test_oneClickFromACaseToItsScore(self):
        widget, volume, segmentation = self.openWithCase()
        assert widget.ui.inputVolumeSelector.currentNode() is volume
        assert widget.ui.segmentationSelector.currentNode() is segmentation
        assert widget.ui.noResultLabel.visible and not widget.ui.resultFrame.visible
        self.needPackages()
        widget.panel.runButton.click()
        self.waitFor(lambda: not widget.panel.running)
        run = results.latest(widget.table)
        assert run is not None, widget.panel.messageLabel.text + widget.panel.logText.plainText
        assert 0 <= run.probability <= 1 and len(run.score["members"]) == 2 and run.isDemo
        assert widget.ui.resultFrame.visible and widget.ui.demoResultLabel.visible
        assert "DEMONSTRATION MODEL" in widget.ui.demoResultLabel.text
        assert results.probabilityText(run.probability) in widget.ui.scoreLabel.text.replace("&lt;", "<")
        assert not widget.ui.staleFrame.visible
        attention = results.attentionOf(widget.table)
        assert slicer.util.arrayFromVolume(attention).shape == slicer.util.arrayFromVolume(volume).shape
        assert np.allclose(nodes.localAffine(attention), nodes.localAffine(volume))
        for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
            assert composite.GetForegroundVolumeID() == attention.GetID()
            assert composite.GetBackgroundVolumeID() == volume.GetID()
        widget.ui.attentionCheck.checked = False
        for composite in slicer.util.getNodesByClass("vtkMRMLSliceCompositeNode"):
            assert not composite.GetForegroundVolumeID()

    def test_anEditMarksTheScoreAndUndoingItUnmarksIt(self):
        widget, volume, segmentation = self.openWithCase()
        self.addMadeUpRun(widget)
        assert not widget.ui.staleFrame.visible
        tumour = widget.ui.tumourCombo.currentText
        before = self.mask(segmentation, "tumour", volume)
        edited = before.copy()
        edited[2, 2, 2] = 1
        for mask, stale in ((edited, True), (before, False), (edited, True)):
            slicer.util.updateSegmentBinaryLabelmapFromArray(mask, segmentation, "tumour", volume)
            self.waitFor(lambda stale=stale: widget.ui.staleFrame.visible == stale, 10)
        assert "segmentation was edited" in widget.ui.staleLabel.text and tumour == "tumour"
        self.addMadeUpRun(widget)
        assert not widget.ui.staleFrame.visible

    def test_aChangedVolumeMarksTheScoreAndANewNameDoesNot(self):
        widget, volume, segmentation = self.openWithCase()
        self.addMadeUpRun(widget)
        volume.SetName("renamed")
        segmentation.GetSegmentation().GetSegment("tumour").SetColor(0, 0, 1)
        end = time.monotonic() + 1
        self.waitFor(lambda: time.monotonic() > end)
        assert not widget.ui.staleFrame.visible
        slicer.util.arrayFromVolume(volume)[0, 0, 0] += 1
        slicer.util.arrayFromVolumeModified(volume)
        self.waitFor(lambda: widget.ui.staleFrame.visible, 10)
        assert "volume was changed" in widget.ui.staleLabel.text

    def test_aSavedSceneComesBackWithItsScore(self):
        widget, _volume, _segmentation = self.openWithCase()
        table = self.addMadeUpRun(widget)
        run, facts = results.latest(table), widget.ui.factsLabel.text
        path = str(Path(slicer.util.tempDirectory()) / "case.mrb")
        assert slicer.util.saveScene(path)
        slicer.mrmlScene.Clear()
        assert not widget.ui.resultFrame.visible
        assert slicer.util.loadScene(path)
        self.waitFor(lambda: widget.ui.resultFrame.visible, 10)
        assert results.latest(widget.table) == run and widget.ui.factsLabel.text == facts
        assert widget.table.GetNodeReference(results.REPORT).GetText() == "<html>é</html>"
        assert not widget.ui.staleFrame.visible, widget.ui.staleLabel.text

    def test_anEmptyTumourIsSaidBeforeAJob(self):
        widget, volume, segmentation = self.openWithCase()
        slicer.util.updateSegmentBinaryLabelmapFromArray(
            np.zeros_like(self.mask(segmentation, "tumour", volume)), segmentation, "tumour", volume)
        self.needPackages()
        widget.panel.runButton.click()
        assert not widget.panel.running and "empty" in widget.panel.messageLabel.text

    def test_cancelLeavesTheScene(self):
        widget, _volume, _segmentation = self.openWithCase()
        self.needPackages()
        before = slicer.mrmlScene.GetNumberOfNodes()
        widget.panel.runButton.click()
        folder = widget.panel.job.folder
        widget.panel.cancel()
        self.waitFor(lambda: not widget.panel.running, 2)
        assert slicer.mrmlScene.GetNumberOfNodes() == before and not folder.exists()

    def test_sceneCloseInAJob(self):
        widget, _volume, _segmentation = self.openWithCase()
        self.needPackages()
        widget.panel.runButton.click()
        slicer.mrmlScene.Clear()
        self.waitFor(lambda: not widget.panel.running, 2)
        assert not slicer.util.getNodesByClass("vtkMRMLTableNode")

    # --- what the scenarios need ---------------------------------------------------------------------------------

    @staticmethod
    def openWithCase():
        """The panel, and a case of 24 x 24 x 24 voxels of 3 mm: (widget, volume node, segmentation node)."""
        slicer.util.selectModule("Data")
        k, j, i = np.indices((24, 24, 24))
        liver = (i - 12) ** 2 + (j - 12) ** 2 + (k - 12) ** 2 < 80
        tumour = (i - 9) ** 2 + (j - 12) ** 2 + (k - 12) ** 2 < 12
        volume = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode", "synthetic")
        slicer.util.updateVolumeFromArray(volume, (100 + 500 * liver - 300 * tumour + 5 * (i % 3)).astype(np.int16))
        volume.SetSpacing(3, 3, 3)
        volume.SetOrigin(-36, -36, -36)
        segmentation = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode", "drawn")
        segmentation.CreateDefaultDisplayNodes()
        segmentation.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        for name, mask in (("liver", liver), ("tumour", tumour)):
            segmentation.GetSegmentation().AddEmptySegment(name, name)
            slicer.util.updateSegmentBinaryLabelmapFromArray(mask.astype(np.uint8), segmentation, name, volume)
        slicer.util.selectModule("NeoNetCls")
        return slicer.util.getModuleWidget("NeoNetCls"), volume, segmentation

    @staticmethod
    def mask(segmentation, segmentId, volume):
        return np.array(slicer.util.arrayFromSegmentBinaryLabelmap(segmentation, segmentId, volume))

    @staticmethod
    def addMadeUpRun(widget):
        """A result of what is chosen, without a job: the table node."""
        chosen = widget.inputs()
        table = results.addRun(chosen[0], chosen[1], results.inputsOf(*chosen), MADE_UP_SCORE, chosen[4].outOfFold,
                               None, "<html>é</html>")
        widget.updateResult()
        return table


MADE_UP_SCORE = {
    "format": 1, "case": "case", "notice": "Made up for a test.", "outcome": "pni",
    "bundle": {"name": "demo", "version": "1.0", "hash": "0" * 64},
    "probability": 0.7177012345678901, "spread": 0.0612, "members": [0.6565, 0.7789], "threshold": 0.62,
    "share_of_training_scores_below": {"all": 0.6, "positive": 0.3, "negative": 0.9},
    "label_source": "given by the user", "measurements": {
        "liver_ml": 40.5, "tumour_ml": 1.5, "tumour_share": 0.04, "tumour_diameter_mm": 18.0, "tumours": 1},
    "crop": {"center_ras_mm": [-9.0, 0.0, 0.0], "coverage": 1.0},
    "flags": [{"code": "DEMO_MODEL", "message": "DEMONSTRATION MODEL"},
              {"code": "WRONG_BODY_PART", "message": "The liver measures 40 ml."}],
    "seconds": {},
}
