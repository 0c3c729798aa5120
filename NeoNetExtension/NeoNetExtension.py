"""NeoNet: one case from the MRI to the score in two clicks, many cases in one, and what this computer has for it."""

import contextlib
import html
import logging
import os
import platform
import shutil
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import ctk
import numpy as np
import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.parameterNodeWrapper import parameterNodeWrapper
from slicer.ScriptedLoadableModule import ScriptedLoadableModule, ScriptedLoadableModuleLogic

import neonet_core
from neonet_core.tlcr import LIVER, TUMOUR
from NeoNetLib import catalogue, dependencies, messages, nodes, results, segments
from NeoNetLib.croppreview import cropBox, cropOptions
from NeoNetLib.job import Job
from NeoNetLib.jobpanel import AMBER, RED, JobPanel, demoWarning, researchUseOnly
from NeoNetLib.moduletest import ModuleTest
from NeoNetLib.modulewidget import ModuleWidget

SAMPLES = "NeoNet"
PHANTOM = "NeoNetPhantom"
PHANTOM_CHECKSUM = "SHA256:b6d5cf7643e0de023c414283b19741461153a2c9f309986048324ae4effa4715"
MRI_SAMPLE = ("https://raw.githubusercontent.com/wasserth/TotalSegmentator/v2.18.0/tests/reference_files/"
              "example_mr_sm.nii.gz")
MRI_CHECKSUM = "SHA256:209b46efaff595dd54a9332872e17a722b62654bbb68dbd89acd5090701bbd4f"
SHOWN_PACKAGES = ("torch", "monai", "diffusers", "nibabel", "SimpleITK", "numpy", "highdicom")


class NeoNetExtension(ScriptedLoadableModule):
    def __init__(self, parent):
        ScriptedLoadableModule.__init__(self, parent)
        self.parent.title = "NeoNet"
        self.parent.categories = ["NeoNet"]
        self.parent.dependencies = ["NeoNetSeg", "NeoNetGen", "NeoNetCls"]
        self.parent.contributors = [_("The NeoNet engineers")]
        self.parent.helpText = _(
            "<p>Predicts perineural invasion (PNI) of cholangiocarcinoma from one T1-weighted MRI of the hepatobiliary "
            "phase. Load the MRI, click <b>Segment</b>, look at liver and tumour and correct them, click "
            "<b>Score</b>.</p>"
            "<p>NeoNetSeg, NeoNetGen and NeoNetCls have the single steps with all their choices. Before the first use, "
            "NeoNet asks to install PyTorch and other packages.</p>"
            "<p>No data leaves the computer. <b>Research use only. Not a medical device; not for diagnosis or "
            "treatment.</b></p>"
        )
        self.parent.acknowledgementText = _(
            "An implementation of the method of “NeoNet: An End-to-End 3D MRI-Based Deep Learning Framework for "
            "Non-Invasive Prediction of Perineural Invasion via Generation-Driven Classification”. Apache License 2.0."
        )
        slicer.app.connect("startupCompleted()", registerSampleData)


def registerSampleData():
    """Offer the simulated case and a public MRI in the Sample Data module."""
    import SampleData

    icons = Path(__file__).parent / "Resources" / "Icons"
    phantom = Path(__file__).resolve().parent / "Resources" / "SampleData" / f"{PHANTOM}.nii.gz"
    SampleData.SampleDataLogic.registerCustomSampleDataSource(  # its "download" is a copy of a file that lies here
        category=SAMPLES, sampleName=PHANTOM, uris=phantom.as_uri(), fileNames=phantom.name,
        nodeNames=_("Simulated case"), checksums=PHANTOM_CHECKSUM, thumbnailFileName=str(icons / "Phantom.png"))
    SampleData.SampleDataLogic.registerCustomSampleDataSource(
        category=SAMPLES, sampleName="NeoNetAbdomenMRI", uris=MRI_SAMPLE, fileNames="example_mr_sm.nii.gz",
        nodeNames=_("Abdominal MRI"), checksums=MRI_CHECKSUM, thumbnailFileName=str(icons / "AbdomenMRI.png"))


@parameterNodeWrapper
class NeoNetExtensionParameters:
    """What is chosen in the panel and not in those of the single steps; saved with the scene."""

    inputVolume: slicer.vtkMRMLScalarVolumeNode
    batchInput: str = ""
    batchOutput: str = ""
    bundle: str = "demo"
    device: str = "auto"


class NeoNetExtensionWidget(ModuleWidget):
    def __init__(self, parent=None):
        super().__init__(parent)
        self._segParameters = self._clsParameters = None
        self._environmentJob = None
        self._report = None
        self._collecting = False  # changes that end in one update

    def build(self):
        for label in (self.ui.resultLabel, self.ui.chartLabel):
            label.setTextFormat(qt.Qt.RichText)
        self.ui.environmentLabel.setTextFormat(qt.Qt.PlainText)

        self.logic = NeoNetExtensionLogic()
        self.segmentPanel = self._panel(self.ui.segmentBox, _("Segment"), "canSegment", self.onSegment)
        self.segmentPanel.onFinished = self.onSegmented
        self.scorePanel = self._panel(self.ui.scoreFrame, _("Score"), "canClassify", self.onScore)
        self.scorePanel.onFinished = self.onScored
        self.batchPanel = self._panel(self.ui.batchFrame, _("Start"), "canClassify", self.onBatch)
        self.batchPanel.onFinished = self.onBatchFinished
        self.ui.researchUseLabel.text = researchUseOnly()
        self.ui.demoWarningLabel.text = demoWarning()
        self.ui.demoWarningLabel.setStyleSheet(AMBER)
        self.watch = results.InputWatch(self.onInputsEdited)

        for button, slot in (
            (self.ui.loadButton, slicer.util.openAddVolumeDialog), (self.ui.phantomButton, self.onPhantom),
            (self.ui.editButton, self.onEdit), (self.ui.cropButton, lambda: slicer.util.selectModule("NeoNetSeg")),
            (self.ui.detailsButton, lambda: slicer.util.selectModule("NeoNetCls")),
            (self.ui.openReportButton, self.onOpenReport), (self.ui.installButton, self.onInstall),
            (self.ui.offlineButton, self.onInstallFromFolder), (self.ui.selfTestButton, self.onSelfTest),
            (self.ui.importButton, self.onImport),
            (self.ui.segModuleButton, lambda: slicer.util.selectModule("NeoNetSeg")),
            (self.ui.genModuleButton, lambda: slicer.util.selectModule("NeoNetGen")),
            (self.ui.clsModuleButton, lambda: slicer.util.selectModule("NeoNetCls")),
        ):
            button.connect("clicked()", slot)
        for edit, name in self.pathEdits:
            edit.filters = ctk.ctkPathLineEdit.Dirs  # else its button asks for a file; one can be typed all the same
            edit.connect("currentPathChanged(QString)", lambda path, name=name: self.onPathChosen(name, path))
            # of a path that was cleared the signal above says nothing
            edit.connect("validInputChanged(bool)", lambda valid, name=name: valid or self.onPathChosen(name, ""))
        self.ui.environmentSection.connect("contentsCollapsed(bool)", self.onEnvironmentCollapsed)
        self.ui.environmentBar.visible = self.ui.environmentMessage.visible = False
        self.ui.openReportButton.enabled = False

    def _panel(self, box, text, ability, onRun):
        """A step's job. What stands above all is left out: "Research use only" and the demonstration's warning."""
        panel = JobPanel(box.layout(), text, ability, brief=True)
        panel.onRun, panel.onChanged = onRun, self.update
        return panel

    @property
    def pathEdits(self):
        """The choosers of paths, with the names of their parameters: "" is no path, which a pathlib.Path cannot say."""
        return (self.ui.batchInputEdit, "batchInput"), (self.ui.batchOutputEdit, "batchOutput")

    @property
    def panels(self):
        return self.segmentPanel, self.scorePanel, self.batchPanel

    @property
    def scenePanels(self):
        return self.segmentPanel, self.scorePanel  # a batch has nothing to do with the scene

    # --- the module's life ---------------------------------------------------------------------------------------

    def cleanup(self):
        self._endEnvironmentJob()
        super().cleanup()

    def enter(self):
        with self._oneUpdate():
            super().enter()

    def initializeParameterNode(self):
        with self._oneUpdate():
            super().initializeParameterNode()

    def propose(self):
        """Without a chosen MRI, the one that is shown; its newest segmentation."""
        if self._parameterNode.inputVolume is None:
            self._parameterNode.inputVolume = nodes.shownVolume()
        volume, parameters = self._parameterNode.inputVolume, self._clsParameters
        current = segments.latest(parameters.segmentation)
        if volume is not None and current is None:
            current = self.logic.step("NeoNetCls").proposedSegmentation(volume)
        if current is not parameters.segmentation:  # one of NeoNetSeg, or of another source
            parameters.segmentation = current
            self.logic.chooseSegments(parameters)

    def attach(self, parameterNode):
        """The steps' choices are those of their own modules, so that both show the same."""
        if self._clsParameters is not None:
            self.removeObserver(self._clsParameters, vtk.vtkCommand.ModifiedEvent, self.onStepModified)
            self.watch.release()
        if parameterNode is None:
            self._segParameters = self._clsParameters = None
        else:
            if self._clsParameters is None:
                self._segParameters = self.logic.step("NeoNetSeg").getParameterNode()
                self._clsParameters = self.logic.step("NeoNetCls").getParameterNode()
            self.addObserver(self._clsParameters, vtk.vtkCommand.ModifiedEvent, self.onStepModified)
        self.segmentPanel.attach(self._segParameters)
        self.scorePanel.attach(self._clsParameters)
        self.batchPanel.attach(parameterNode)

    def onParametersModified(self, caller=None, event=None):
        volume = self._parameterNode.inputVolume
        for parameters in (self._segParameters, self._clsParameters):
            if volume is not None and parameters.inputVolume is not volume:
                parameters.inputVolume = volume
        for edit, name in self.pathEdits:
            if edit.currentPath != getattr(self._parameterNode, name):
                edit.currentPath = getattr(self._parameterNode, name)
        self.update()

    def onStepModified(self, caller, event):
        """Of a step's module, say NeoNetCls's opacity: nobody sees this panel then, and `enter` updates it."""
        if self.parent.isEntered:
            self.update()

    def onPathChosen(self, name, path):
        if self._parameterNode is not None and getattr(self._parameterNode, name) != path:
            setattr(self._parameterNode, name, path)

    def onInputsEdited(self):
        """Voxels, segments or the crop may have changed. Elsewhere in Slicer nothing is compared: `enter` does it."""
        if self.parent.isEntered:
            self.update()

    @contextlib.contextmanager
    def _oneUpdate(self):
        """Comparing a score's inputs reads all voxels: once, whatever changes here."""
        outer, self._collecting = self._collecting, True
        try:
            yield
        finally:
            self._collecting = outer
        self.update()

    def update(self, caller=None, event=None):
        """Say what can be done, what is missing, and what there is."""
        if self._parameterNode is None or self._collecting:
            return
        volume, segmentation = self._parameterNode.inputVolume, self._clsParameters.segmentation
        if segmentation is not None and not self.logic.step("NeoNetCls").belong(segmentation, volume):
            segmentation = None
        self.segmentPanel.setProblem("" if volume else _("Load an MRI, or try the simulated case."))
        self.scorePanel.setProblem("" if segmentation and self._clsParameters.tumourSegment
                                   else _("Segment liver and tumour first."))
        self.batchPanel.setProblem(self.batchProblem())
        self.ui.demoWarningLabel.visible = any(panel.bundle and panel.bundle.isDemo for panel in self.panels)
        self.ui.reviewBox.enabled = segmentation is not None
        self.ui.reviewLabel.text = (
            self.logic.sizes(volume, segmentation, self._clsParameters) if segmentation else
            _("Liver and tumour are shown here once they are segmented."))
        self.watch.watch(volume, segmentation, cropBox(volume, segmentation))
        self.showResult(volume, segmentation)

    def showResult(self, volume, segmentation):
        table = results.tableOf(volume) if volume else None
        run = results.latest(table)
        for widget in (self.ui.resultLabel, self.ui.chartLabel, self.ui.detailsButton):
            widget.visible = run is not None
        if run is None:
            return
        stale = results.staleMessage(run.inputs, self.logic.inputs(self._clsParameters, self.scorePanel.bundle))
        lines = [*([demoWarning()] if run.isDemo else []), *([stale] if stale else []), *results.warnings(run)]
        doubts = "".join(_amberBox(text) for text in lines)
        self.ui.resultLabel.text = doubts + results.scoreHtml(run, bool(stale))
        self.ui.chartLabel.text = results.chartHtml(run, bool(stale)) if run.probability is not None else ""
        self.scorePanel.runButton.text = _("Score again") if stale else _("Score")

    # --- one case ------------------------------------------------------------------------------------------------

    def onPhantom(self):
        if not self.segmentPanel.running and dependencies.ensure(slicer.util.mainWindow()):
            self.segmentPanel.run(lambda **callbacks: self.logic.simulate(**callbacks))

    def onSegment(self):
        volume, bundle, device = self._parameterNode.inputVolume, self.segmentPanel.bundle, self.segmentPanel.device
        self.segmentPanel.run(
            lambda **callbacks: self.logic.step("NeoNetSeg").segment(volume, bundle, device, **callbacks))

    def onSegmented(self, outcome, node):
        """A segmentation of `onSegment`, or the volume of `onPhantom`."""
        if node is None or self._parameterNode is None:
            return
        if node.IsA("vtkMRMLSegmentationNode"):
            if not self.logic.step("NeoNetCls").belong(node, self._parameterNode.inputVolume):
                return  # the user has gone on to another MRI; the result lies beside its own
            for parameters in (self._segParameters, self._clsParameters):
                segments.replace(parameters.segmentation, node)
                parameters.segmentation = node
                self.logic.chooseSegments(parameters)
            nodes.showPlace(node.GetSegmentCenterRAS(self._clsParameters.tumourSegment))
            if "NO_TUMOUR" in (node.GetAttribute("NeoNet.Flags") or ""):
                self.segmentPanel.setMessage(_("No tumour was found. If you see one, draw it: Correct it…"), AMBER)
        else:
            self._parameterNode.inputVolume = node
        self.update()

    def onEdit(self):
        parameters = self._clsParameters
        self.logic.step("NeoNetSeg").correct(parameters.segmentation, parameters.tumourSegment, parameters.inputVolume)

    def onScore(self):
        parameters, bundle, device = self._clsParameters, self.scorePanel.bundle, self.scorePanel.device
        cls = self.logic.step("NeoNetCls")
        self.scorePanel.run(lambda **callbacks: cls.classify(
            parameters.inputVolume, parameters.segmentation, parameters.liverSegment, parameters.tumourSegment, bundle,
            cropOptions(parameters.inputVolume, parameters.segmentation), device, **callbacks))

    def onScored(self, outcome, table):
        if table is not None and self._parameterNode is not None and (
                results.tableOf(self._parameterNode.inputVolume) is table):  # else another MRI was chosen meanwhile
            cls, parameters = self.logic.step("NeoNetCls"), self._clsParameters
            cls.showAttention(table, parameters.attentionVisible, parameters.attentionOpacity)
            cls.jumpToCrop(table)
        self.update()

    # --- many cases ----------------------------------------------------------------------------------------------

    def batchProblem(self):
        source, out = Path(self._parameterNode.batchInput), Path(self._parameterNode.batchOutput)
        # os.path: pathlib raises where a folder above may not be read
        if not self._parameterNode.batchInput or not os.path.exists(source):
            return _("Choose a folder of images, or a manifest (CSV).")
        if not self._parameterNode.batchOutput:
            return _("Choose a folder for the results.")
        if os.path.isdir(source) and (source == out or source in out.parents):
            return _("Choose a folder for the results that does not lie among the images.")
        return ""

    def onBatch(self):
        parameters, bundle, device = self._parameterNode, self.batchPanel.bundle, self.batchPanel.device
        self.ui.openReportButton.enabled = False
        self.batchPanel.run(lambda **callbacks: self.logic.batch(
            parameters.batchInput, parameters.batchOutput, bundle, device, **callbacks))

    def onBatchFinished(self, outcome, report):
        self._report = report
        self.ui.openReportButton.enabled = report is not None
        failed = outcome.result.get("failed")
        if outcome.ok and failed:
            self.batchPanel.setMessage(_("Done. Cases that failed: {count}; the report says why.").format(count=failed),
                                       AMBER)
        elif outcome.cancelled:
            self.batchPanel.setMessage(_("Stopped. Start it again with the same folders to go on."))

    def onOpenReport(self):
        qt.QDesktopServices.openUrl(qt.QUrl.fromLocalFile(str(self._report)))

    # --- the environment -----------------------------------------------------------------------------------------

    def onEnvironmentCollapsed(self, collapsed):
        if not collapsed:
            self.ui.environmentLabel.text = self.logic.environment()
            self.ui.environmentBar.visible = self._environmentJob is not None
            self.ui.environmentMessage.visible = bool(self.ui.environmentMessage.text)

    def onInstall(self):
        if dependencies.ensure(slicer.util.mainWindow()):
            self._say(_("All packages are installed."))
        self.onEnvironmentCollapsed(False)

    def onInstallFromFolder(self):
        folder = qt.QFileDialog.getExistingDirectory(slicer.util.mainWindow(), _("Folder of wheels"))
        if folder and dependencies.ensure(slicer.util.mainWindow(), wheels=folder):
            self._say(_("All packages are installed."))
        self.onEnvironmentCollapsed(False)

    def onSelfTest(self):
        if dependencies.ensure(slicer.util.mainWindow()):
            self._startEnvironmentJob(dependencies.selfTestJob(), self.logic.selfTestText)

    def onImport(self):
        name = "pyliverlesionseg"
        question = _("“{name}” is fetched from the Python package index: published weights (Apache-2.0) that segment "
                     "the liver on CT and MRI, and often invent lesions on MRI. About 50 MB. Go on?").format(name=name)
        if slicer.util.confirmOkCancelDisplay(question, windowTitle=_("NeoNet: published weights")) and \
                dependencies.ensure(slicer.util.mainWindow(), more=dependencies.IMPORT_PACKAGES):
            self._startEnvironmentJob(catalogue.importArguments(name), self._imported)

    def _imported(self, result):
        for panel in self.panels:
            panel.refresh()
        return _("“{name}” can now be chosen as a model.").format(name=result["bundle"])

    def _startEnvironmentJob(self, arguments, say):
        """Run a command; `say` makes its result a sentence."""
        if self._environmentJob is not None:
            return

        def finished(outcome):
            job.close()
            self._environmentJob = None
            self.ui.environmentBar.visible = False
            if outcome.ok:
                self._say(say(outcome.result))
            else:
                self._say(outcome.message, RED)
            self.onEnvironmentCollapsed(False)

        job = Job(arguments, onFinished=finished)
        self._environmentJob = job
        self.ui.environmentBar.maximum = 0  # busy
        self.ui.environmentBar.visible = True
        self._say(_("Working…"))
        job.start()

    def _endEnvironmentJob(self):
        if self._environmentJob is not None:
            self._environmentJob.close()
            self._environmentJob = None

    def _say(self, text, style=""):
        self.ui.environmentMessage.text = text
        self.ui.environmentMessage.setStyleSheet(style)
        self.ui.environmentMessage.visible = bool(text)


class NeoNetExtensionLogic(ScriptedLoadableModuleLogic):
    """Brings the three steps together; knows no widgets."""

    def getParameterNode(self):
        return NeoNetExtensionParameters(super().getParameterNode())

    @staticmethod
    def step(name):
        """The logic of one of the three modules."""
        return slicer.util.getModuleLogic(name)

    @staticmethod
    def chooseSegments(parameters):
        """Choose the liver and the tumour of a new segmentation."""
        parameters.liverSegment, parameters.tumourSegment = segments.findSegments(parameters.segmentation)

    @staticmethod
    def sizes(volumeNode, segmentationNode, parameters):
        """Volumes of liver and tumour in words."""
        labels = nodes.labelMapArray(segmentationNode, parameters.liverSegment, parameters.tumourSegment, volumeNode)
        millilitres = abs(np.linalg.det(nodes.localAffine(volumeNode)[:3, :3])) / 1000
        liver, tumour = (np.count_nonzero(labels == label) * millilitres for label in (LIVER, TUMOUR))
        return _("Liver {liver:.0f} ml, tumour {tumour:.1f} ml. Look at both in the slices before you score.").format(
            liver=liver, tumour=tumour)

    def inputs(self, parameters, bundle):
        """What a score of the present choices would rest on."""
        return results.inputsOf(parameters.inputVolume, parameters.segmentation, parameters.liverSegment,
                                parameters.tumourSegment, bundle,
                                cropOptions(parameters.inputVolume, parameters.segmentation))

    def simulate(self, onProgress=None, onLog=None, onFinished=None):
        """Simulate one case with PNI and load its MRI; ``onFinished(outcome, volumeNode or None)``."""
        job = Job([], onProgress, onLog, lambda outcome: finish(outcome))
        job.arguments = ["phantom", job.folder / "phantom", "--cases", "1", "--positives", "1", "--seed", "1"]

        def finish(outcome):
            volume = None
            if outcome.ok:
                try:
                    image = next((job.folder / "phantom" / "images").glob("*.nii.gz"))
                    volume = slicer.util.loadVolume(str(image), {"name": _("Simulated case"), "singleFile": True})
                    slicer.mrmlScene.RemoveNode(volume.GetStorageNode())  # the file goes with the job
                except Exception as error:
                    logging.exception("NeoNet: the simulated case could not be loaded")
                    outcome = replace(outcome, ok=False, details=str(error), message=messages.explain("INTERNAL"))
            job.close()
            if onFinished:
                onFinished(outcome, volume)

        job.start()
        return job

    def batch(self, source, out, bundle, device, onProgress=None, onLog=None, onFinished=None):
        """Run ``neonet batch``; ``onFinished(outcome, path of the cohort page or None)``. Cancel keeps what is done."""
        job = Job([], onProgress, onLog, lambda outcome: finish(outcome))
        job.arguments = ["batch", Path(source).absolute(), "--bundle", bundle.folder, "--out", Path(out).absolute(),
                         "--device", device]

        def finish(outcome):
            job.close()
            report = Path(out) / "report.html"
            if onFinished:
                onFinished(outcome, report if outcome.ok and report.is_file() else None)

        job.start()
        return job

    # --- the environment -----------------------------------------------------------------------------------------

    @staticmethod
    def environment():
        """Versions, packages and models on this computer: lines of text."""
        lines = [f"NeoNet {neonet_core.__version__}, 3D Slicer {slicer.app.applicationVersion}, "
                 f"Python {platform.python_version()}, {platform.system()} {platform.machine()}"]
        lines.append(", ".join(f"{name} {_version(name)}" for name in SHOWN_PACKAGES))
        missing = dependencies.missing()
        lines.append(_("Missing: {names}").format(names=", ".join(missing)) if missing else
                     _("All packages that NeoNet needs are installed."))
        free = shutil.disk_usage(slicer.app.temporaryPath).free / 1e9
        lines.append(_("Free disk space for temporary files: {free:.0f} GB").format(free=free))
        lines.append(_("Models:"))
        for bundle in catalogue.bundles():
            lines.append(f"  {bundle.name} {bundle.version} {bundle.hash[:12]} {bundle.problem}".rstrip())
        return "\n".join(lines)

    @staticmethod
    def selfTestText(result):
        """What the self-test found, in a sentence or two."""
        text = _("Computing works on {device}, with {memory:.1f} GB of memory free.").format(
            device=result["device_name"], memory=result["free_memory_gb"])
        return f"{text} {result['reason']}".strip() if result["fell_back"] else text


def _amberBox(text):
    """A warning inside rich text, which knows colours and paddings of tables alone."""
    cell = f"<td bgcolor='#ffe08a'><font color='#3a2e00'>{html.escape(text)}</font></td>"
    return f"<table width='100%' cellspacing='2' cellpadding='5'><tr>{cell}</tr></table>"


def _version(name):
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return _("not installed")


class NeoNetExtensionTest(ModuleTest):
    """What a radiologist and a data manager do in the panel; needs no file and no network."""

    def test_twoClicksToAScore(self):
        """From a loaded volume to a score: Segment, Score."""
        widget = self.opened()
        self.needPackages()
        widget.ui.phantomButton.click()
        self.waitFor(lambda: not widget.segmentPanel.running)
        volume = widget.ui.volumeSelector.currentNode()
        assert volume is not None, widget.segmentPanel.messageLabel.text
        widget.segmentPanel.runButton.click()
        self.waitFor(lambda: not widget.segmentPanel.running)
        assert widget.scorePanel.runButton.enabled, widget.scorePanel.messageLabel.text
        assert "ml" in widget.ui.reviewLabel.text
        widget.scorePanel.runButton.click()
        self.waitFor(lambda: not widget.scorePanel.running)
        assert results.latest(results.tableOf(volume)).probability is not None
        assert "DEMONSTRATION" in widget.ui.resultLabel.text

    def test_environment(self):
        """The environment page names versions and models."""
        widget = self.opened()
        widget.ui.environmentSection.collapsed = False
        assert neonet_core.__version__ in widget.ui.environmentLabel.text and "demo" in widget.ui.environmentLabel.text

    def test_sceneCloseInAJob(self):
        """Closing the scene ends the job; nothing of it comes into the next scene."""
        widget = self.opened()
        self.needPackages()
        widget.ui.phantomButton.click()
        slicer.mrmlScene.Clear()
        self.waitFor(lambda: not widget.segmentPanel.running, 2)
        assert not slicer.util.getNodesByClass("vtkMRMLScalarVolumeNode")

    # --- what the scenarios need ---------------------------------------------------------------------------------

    @staticmethod
    def opened():
        slicer.util.selectModule("NeoNetExtension")
        return slicer.util.getModuleWidget("NeoNetExtension")
