"""What NeoNetSeg, NeoNetGen and NeoNetCls share: model, device, [Run] or [Cancel], progress, message and log."""

import html
import logging
import sys
import traceback

import ctk
import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from NeoNetLib import catalogue, dependencies

AMBER = "background: #ffe08a; color: #3a2e00; padding: 4px; border-radius: 3px;"  # dark on light: good in both themes
RED = "background: #f8d7da; color: #58151c; padding: 4px; border-radius: 3px;"
LOG_LINES = 1000
DOUBLE_CLICK_MS = 500  # Qt's own figure is a property of the application that PythonQt does not offer on the class


def researchUseOnly():
    """The sentence that stands in every panel."""
    return _("Research use only. Not a medical device; not for diagnosis or treatment.")


def demoWarning():
    """What a panel says while the demonstration model is chosen, or a result of it is shown."""
    return _(
        "DEMONSTRATION MODEL, trained on simulated images only: what it finds in a real image means nothing. "
        "No statement here is about a patient."
    )


class BundleCombo:
    """A combo box of the models that can do one thing.

    Parameters
    ----------
    combo : QComboBox
    ability : str
        Flag of `catalogue.BundleInfo`: "canSegment", "canGenerate", "canClassify".
    onChosen : callable
        ``onChosen(name)`` when the user chooses a model.
    """

    def __init__(self, combo, ability, onChosen):
        self.combo = combo
        self.name = "demo"  # the model asked for, which may not be on this computer
        self._ability, self._onChosen = ability, onChosen
        self._all, self._bundles = {}, []  # by name; those with the ability
        self.refresh()
        combo.connect("currentIndexChanged(int)", self._onIndexChanged)

    @property
    def bundle(self):
        """`catalogue.BundleInfo`, or None if the model asked for is not on this computer."""
        index = self.combo.currentIndex
        return self._bundles[index] if 0 <= index < len(self._bundles) else None

    @property
    def problem(self):
        """Why there is no bundle, as a sentence; "" if there is one."""
        if self.bundle is not None:
            return ""
        if self.name in self._all:
            reason = self._all[self.name].problem or _("It cannot do this; choose another one.")
            return _("Model “{name}”: {reason}").format(name=self.name, reason=reason)
        return _("The model “{name}” is not on this computer. Choose another one, or add its folder.").format(
            name=self.name
        )

    def refresh(self):
        """Read the catalogue again: a model may have been added elsewhere."""
        self._all = {bundle.name: bundle for bundle in catalogue.bundles()}
        self._bundles = [bundle for bundle in self._all.values() if getattr(bundle, self._ability)]
        blocked = self.combo.blockSignals(True)
        self.combo.clear()
        for bundle in self._bundles:
            self.combo.addItem(f"{bundle.name} ({bundle.version})" if bundle.version else bundle.name)
        self.combo.blockSignals(blocked)
        self.select(self.name)

    def select(self, name):
        """Show this model; none, if it is not on this computer."""
        self.name = name
        names = [bundle.name for bundle in self._bundles]
        blocked = self.combo.blockSignals(True)
        self.combo.currentIndex = names.index(name) if name in names else -1
        self.combo.blockSignals(blocked)

    def _onIndexChanged(self, index):
        if 0 <= index < len(self._bundles):
            self.name = self._bundles[index].name
            self._onChosen(self.name)


class JobPanel(VTKObservationMixin):
    """Box with a model, a device and a job that runs in the background.

    In the module's ``build()``, with an empty layout (or the module's own) as the parent::

        self.panel = JobPanel(self.ui.jobFrame.layout(), _("Segment"), ability="canSegment")
        self.panel.onRun = self.segment          # [Segment] was clicked and the packages are there
        self.panel.onChanged = self.checkInputs  # model or device changed: panel.setProblem("" or a sentence)

        def segment(self):                       # what `run` is given returns the started Job
            self.panel.run(lambda **callbacks: self.logic.segment(
                volume, self.panel.bundle, self.panel.device, **callbacks))  # onProgress, onLog, onFinished

    What the logic gives to `onFinished` goes on to ``panel.onFinished(outcome, *results)``; the panel has then shown
    how the job ended. ``panel.attach(parameterNode)`` (None to detach) keeps the choices in its strings `bundle` and
    `device`; `ModuleWidget` refreshes, cancels and closes it.

    Children for tests, by objectName: bundleCombo, addBundleButton, demoLabel, cardLabel, deviceCombo, runButton,
    cancelButton, progressBar, messageLabel, researchUseLabel, logSection, logText. [Cancel] takes the place of the run
    button and is disabled for a double click's time, so that a double click on Run does not cancel at once.

    Parameters
    ----------
    layout : QLayout
        Where the box goes.
    runText : str
        Words on the run button.
    ability : str
        Which models are offered, as a flag of `catalogue.BundleInfo`: "canSegment", "canGenerate", "canClassify".
    form : QFormLayout, optional
        Of the module: the choices are added to it, so that they stand in one column with the module's own. By default
        they are in the box.
    brief : bool
        Leave out what stands elsewhere in the panel: the model's card, its warning and "Research use only".
    """

    def __init__(self, layout, runText, ability, form=None, brief=False):
        VTKObservationMixin.__init__(self)
        self.onRun = self.onChanged = lambda: None
        self.onFinished = lambda outcome, *results: None
        self._parameterNode = None
        self._job = None
        self._starting = False
        self._problem = ""
        self._progressText = ""
        self._brief = brief
        self._build(layout, runText, form)
        self._models = BundleCombo(self.bundleCombo, ability, self._onBundleChosen)
        self._update()

    # --- what is chosen ------------------------------------------------------------------------------------------

    @property
    def bundle(self):
        """`catalogue.BundleInfo` of the chosen model; None if the one asked for is not on this computer."""
        return self._models.bundle

    @property
    def device(self):
        """ "auto", "cpu", "cuda" or "mps", for ``--device``."""
        return self.deviceCombo.itemData(self.deviceCombo.currentIndex)

    @property
    def running(self):
        return self._starting or self._job is not None

    @property
    def job(self):
        """The job that runs, or None."""
        return self._job

    def attach(self, parameterNode):
        """Show and keep the choices in the strings `bundle` and `device` of this parameter node; None detaches."""
        if self._parameterNode is not None:
            self.removeObserver(self._parameterNode, vtk.vtkCommand.ModifiedEvent, self._onParametersModified)
        self._parameterNode = parameterNode
        if parameterNode is None:
            self.setMessage("")  # it was about a scene that is gone
        else:
            self._onParametersModified()
            self.addObserver(parameterNode, vtk.vtkCommand.ModifiedEvent, self._onParametersModified)

    def refresh(self):
        """Read the catalogue again: a model may have been added elsewhere."""
        self._models.refresh()
        self._update()
        self.onChanged()

    def selectBundle(self, name):
        """Choose a model by its name. If it is not on this computer, none is chosen and the panel says so."""
        self._models.select(name)
        self._store("bundle", name)
        self._update()
        self.onChanged()

    # --- running -------------------------------------------------------------------------------------------------

    def setProblem(self, text):
        """What keeps the job from being started, as a sentence; "" if nothing does."""
        if text and text != self._problem and not self._messageStyle:
            self._message = ""  # how the last job ended well says nothing of what is wrong now
        self._problem = text
        self._update()

    def setMessage(self, text, style=""):
        """Say something under the button; `style` is "", AMBER or RED."""
        self._message, self._messageStyle = text, style
        self._update()

    def run(self, start):
        """Start a job.

        Parameters
        ----------
        start : callable
            ``start(onProgress=..., onLog=..., onFinished=...) -> Job``, already started. What it raises is shown.

        Returns
        -------
        Job or None
            None if a job runs already or `start` raised.
        """
        if self.running:
            return None
        self.logText.setPlainText("")
        self._starting = True
        self._showProgress(_("Preparing the input…"))
        self.setMessage("")
        try:
            job = start(onProgress=self._onProgress, onLog=self._onLog, onFinished=self._onFinished)
        except Exception as error:
            self._starting = False
            self._onLog(traceback.format_exc())
            self.setMessage(_sentence(error), RED)
            return None
        if self._starting:  # else it has ended already
            self._starting, self._job = False, job
            self._showProgress(_("Starting…"))
            self._update()
            self.cancelButton.enabled = False
            self._doubleClick.start(DOUBLE_CLICK_MS)
        return job

    def cancel(self):
        """End the running job, if any."""
        if self._job is not None:
            self._job.cancel()

    def close(self):
        """For the module's cleanup(): end the job and observe nothing any more."""
        if self._job is not None:
            self._job.close()  # its end is told to nobody: the widgets may be gone by then
            self._job = None
        self.attach(None)

    def _onProgress(self, stage, done, total, secondsLeft):
        text = stage[:1].upper() + stage[1:]
        if secondsLeft:
            text = _("{stage}, about {time} left").format(stage=text, time=duration(secondsLeft))
        self._showProgress(text, done / total if total and done else None)

    def _onLog(self, text):
        self.logText.appendPlainText(text.rstrip())

    def _onFinished(self, outcome, *results):
        self._starting, self._job = False, None
        if outcome.cancelled:
            self.setMessage(outcome.message)
        elif outcome.ok:
            self.setMessage(_("Done."))
        else:
            self.setMessage(outcome.message, RED)
            if outcome.details and not self.logText.plainText:
                self._onLog(outcome.details)
        self.onFinished(outcome, *results)

    def _onRunClicked(self):
        # Asking for packages is part of the click and of nothing else: opening a module never installs.
        if not self.running and dependencies.ensure(slicer.util.mainWindow()):
            self.onRun()

    def _allowCancel(self):
        self.cancelButton.enabled = self._job is not None

    def _onCancelClicked(self):
        self.cancelButton.enabled = False
        self._showProgress(_("Cancelling…"))
        self.cancel()

    # --- what is seen --------------------------------------------------------------------------------------------

    def _build(self, layout, runText, form):
        self._message, self._messageStyle = "", ""
        self.widget = qt.QWidget()
        box = qt.QVBoxLayout(self.widget)
        box.setContentsMargins(0, 0, 0, 0)
        if form is None:
            form = qt.QFormLayout()
            box.addLayout(form)

        self.bundleCombo = _named(qt.QComboBox(), "bundleCombo", _("The trained model that does the work."))
        self.addBundleButton = _named(qt.QToolButton(), "addBundleButton", _("Add a model from its folder."))
        self.addBundleButton.text = _("Add…")
        row = qt.QHBoxLayout()
        row.addWidget(self.bundleCombo, 1)
        row.addWidget(self.addBundleButton)
        form.addRow(_("Model:"), row)
        self.demoLabel = _wrapped("demoLabel", AMBER)
        self.demoLabel.text = demoWarning()
        form.addRow(self.demoLabel)
        self.cardLabel = _wrapped("cardLabel")
        form.addRow(self.cardLabel)
        self.deviceCombo = _named(qt.QComboBox(), "deviceCombo", _("Automatic: a graphics card where one is usable."))
        for text, name in devices():
            self.deviceCombo.addItem(text, name)
        form.addRow(_("Compute on:"), self.deviceCombo)

        self.runButton = _named(qt.QPushButton(runText), "runButton")
        self.cancelButton = _named(qt.QPushButton(_("Cancel")), "cancelButton", _("The scene stays as it is."))
        self.progressBar = _named(qt.QProgressBar(), "progressBar")
        self.messageLabel = _wrapped("messageLabel")
        self.researchUseLabel = _wrapped("researchUseLabel", "font-weight: bold;")
        self.researchUseLabel.text = researchUseOnly()
        for widget in (self.runButton, self.cancelButton, self.progressBar, self.messageLabel, self.researchUseLabel):
            box.addWidget(widget)

        self.logSection = _named(ctk.ctkCollapsibleButton(), "logSection")
        self.logSection.text, self.logSection.collapsed = _("Log"), True
        inside = qt.QVBoxLayout(self.logSection)
        self.logText = _named(qt.QPlainTextEdit(), "logText")
        self.logText.readOnly = True
        self.logText.maximumBlockCount = LOG_LINES
        inside.addWidget(self.logText)
        box.addWidget(self.logSection)
        layout.addWidget(self.widget)

        self.deviceCombo.connect("currentIndexChanged(int)", self._onDeviceChosen)
        self.addBundleButton.connect("clicked()", self._onAddBundle)
        self.runButton.connect("clicked()", self._onRunClicked)
        self.cancelButton.connect("clicked()", self._onCancelClicked)
        self._doubleClick = qt.QTimer(self.widget)  # it ends with the widget
        self._doubleClick.setSingleShot(True)
        self._doubleClick.connect("timeout()", self._allowCancel)

    def _showDevice(self, name):
        names = [data for _text, data in devices()]
        blocked = self.deviceCombo.blockSignals(True)
        self.deviceCombo.currentIndex = names.index(name) if name in names else 0  # a scene of another computer
        self.deviceCombo.blockSignals(blocked)

    def _showProgress(self, text, share=None):
        """`share` 0 to 1; None: busy, for how long nobody knows."""
        self.progressBar.maximum = 0 if share is None else 1000
        self.progressBar.value = 0 if share is None else round(1000 * share)
        self._progressText = self.messageLabel.text = text  # a busy bar shows no text of its own

    def _update(self):
        bundle = self.bundle
        self.demoLabel.visible = bundle is not None and bundle.isDemo and not self._brief
        self.cardLabel.visible = bundle is not None and not self._brief
        self.researchUseLabel.visible = not self._brief
        if bundle is not None:
            self.cardLabel.text = " ".join(filter(None, map(bundle.card.get, ("training_data", "limits"))))
            self.cardLabel.toolTip = self.bundleCombo.toolTip = cardAsHtml(bundle)
        problem = self._models.problem or self._problem
        for widget in (self.bundleCombo, self.addBundleButton, self.deviceCombo):
            widget.enabled = not self.running
        self.runButton.enabled = not problem
        self.runButton.toolTip = problem
        self.runButton.visible = not self.running
        self.cancelButton.visible = self.progressBar.visible = self.running
        if self.running:
            text, style = self._progressText, ""
        else:
            text, style = "\n".join(filter(None, (self._message, problem))), self._messageStyle
        self.messageLabel.text = text
        self.messageLabel.setStyleSheet(style)
        self.messageLabel.visible = bool(text)

    # --- what the user does --------------------------------------------------------------------------------------

    def _onBundleChosen(self, name):
        self.setMessage("")
        self.selectBundle(name)

    def _onDeviceChosen(self, index):
        self._store("device", self.device)
        self.onChanged()

    def _onAddBundle(self):
        folder = qt.QFileDialog.getExistingDirectory(self.widget, _("Folder of the model (it holds bundle.json)"))
        if folder:
            self.addFolder(folder)

    def addFolder(self, folder):
        """Add the bundle in this folder to the catalogue and choose it; where it cannot be, the user is told why."""
        try:
            added = catalogue.addFolder(folder)
        except ValueError as error:  # the user's fault or the folder's, in words
            slicer.util.errorDisplay(str(error), windowTitle=_("This model cannot be added"), parent=self.widget)
            return
        self.refresh()
        self.selectBundle(added.name)

    def _onParametersModified(self, caller=None, event=None):
        if self._parameterNode.bundle != self._models.name or caller is None:
            self.selectBundle(self._parameterNode.bundle)
        if self._parameterNode.device != self.device:
            self._showDevice(self._parameterNode.device)

    def _store(self, name, value):
        if self._parameterNode is not None and getattr(self._parameterNode, name) != value:
            setattr(self._parameterNode, name, value)


def devices():
    """(words, name for ``--device``) of what a computer of this kind may have."""
    mac = sys.platform == "darwin"
    card = (_("Graphics card (Metal)"), "mps") if mac else (_("Graphics card (CUDA)"), "cuda")
    return [(_("Automatic"), "auto"), card, (_("Processor (CPU)"), "cpu")]


def duration(seconds):
    """Seconds in words, as exact as a guess deserves."""
    if seconds < 60:
        return _("{n} s").format(n=max(round(seconds), 1))
    if seconds < 3600:
        return _("{n} min").format(n=round(seconds / 60))
    return _("{hours} h {minutes} min").format(hours=int(seconds // 3600), minutes=round(seconds % 3600 / 60))


def cardAsHtml(bundle):
    """A model card as a tool tip; a bundle's words are text, never markup."""
    lines = [
        (_("Intended use"), bundle.card.get("intended_use")),
        (_("Trained on"), bundle.card.get("training_data")),
        (_("Limits"), bundle.card.get("limits")),
        (_("Licence"), bundle.card.get("licence")),
        (_("Outcome"), bundle.outcome),
        (_("Folder"), str(bundle.folder)),
    ]
    return "".join(f"<p><b>{name}:</b> {html.escape(str(text))}</p>" for name, text in lines if text)


def _sentence(error):
    """What went wrong before the job began: a NeoNetError's own words, else that it is a fault of ours."""
    if hasattr(error, "hint"):
        return f"{error.message} {error.hint}".strip()
    logging.exception("NeoNet")
    return _("The input could not be prepared ({error}). The log below has the details.").format(error=error)


def _named(widget, name, toolTip=""):
    widget.objectName = name
    widget.toolTip = toolTip
    return widget


def _wrapped(name, style=""):
    label = _named(qt.QLabel(), name)
    label.wordWrap = True
    label.setTextFormat(qt.Qt.PlainText)
    label.setStyleSheet(style)
    return label
