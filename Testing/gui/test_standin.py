"""The stand-in: what held in a running Slicer holds here, and what Slicer punishes is punished here."""

import importlib.util
import os
from pathlib import Path

import ctk
import pytest
import qt
import slicer
import slicer_standin

REPOSITORY = Path(__file__).resolve().parents[2]
SHARED = Path(os.environ.get("NEONET_CONFORMANCE", REPOSITORY.parent / "shared" / "slicer_conformance"))
OWN = REPOSITORY / "Testing" / "conformance"


def statements(folder):
    """(name, function) of every statement about Slicer in a folder."""
    found = []
    for path in sorted(folder.glob("test_*.py")):
        spec = importlib.util.spec_from_file_location("conformance_" + path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found += [pytest.param(f, id=f"{path.stem}::{n}") for n, f in vars(module).items() if n.startswith("test_")]
    return found or [pytest.param(None, id="none", marks=pytest.mark.skip(f"no statements in {folder}"))]


@pytest.mark.parametrize("statement", statements(SHARED))
def test_statement_that_held_in_slicer(statement):
    statement()
    slicer_standin.slotErrors.clear()  # one of them raises in a slot on purpose


@pytest.mark.parametrize("statement", statements(OWN))
def test_statement_of_our_own(statement):
    statement()


# --- strictness -----------------------------------------------------------------------------------------------------


def test_names_that_slicer_has_not_raise():
    for owner, name in [
        (qt, "Signal"),
        (qt, "Slot"),
        (qt, "pyqtSignal"),
        (qt, "QNoSuchWidget"),
        (ctk, "ctkNoSuchWidget"),
        (slicer, "getNode"),
        (slicer, "qMRMLNoSuchWidget"),
        (slicer.app, "noSuchThing"),
        (qt.QPushButton(), "exec"),
        (qt.QDialog(), "exec"),
        (slicer.qMRMLNodeComboBox(), "nodes"),
        (slicer.qMRMLNodeComboBox(), "currentIndex"),
    ]:
        assert not hasattr(owner, name), name


def test_a_property_is_no_method_anywhere():
    for widget, name in [
        (qt.QSpinBox(), "value"),
        (qt.QLabel(), "text"),
        (qt.QComboBox(), "count"),
        (ctk.ctkSliderWidget(), "value"),
        (slicer.qMRMLNodeComboBox(), "currentNodeID"),
        (qt.QTimer(), "interval"),
        (qt.QAction("a", None), "text"),
    ]:
        with pytest.raises(TypeError):
            getattr(widget, name)()


def test_wrong_arguments_and_read_only_properties_raise():
    with pytest.raises(ValueError):
        qt.QLabel().setText(5)
    with pytest.raises(ValueError):
        qt.QSpinBox().value = "five"
    with pytest.raises(AttributeError):
        qt.QComboBox().count = 3
    with pytest.raises(AttributeError):
        qt.QPushButton().click = 3
    with pytest.raises(TypeError):
        qt.QLabel(text="a")


def test_a_wrong_signature_of_a_node_signal_is_false():
    selector = slicer.qMRMLNodeComboBox()
    assert selector.connect("currentNodeChanged(vtkMRMLNode*)", lambda node: None) is True
    assert selector.connect("currentNodeChanged(vtkMRMLScene*)", lambda node: None) is False
    assert selector.connect("currentNodeChanged", lambda node: None) is False
    assert selector.connect("currentNodeChanged(PyObject)", lambda node: None) is False


def test_a_decorated_slot_receives_everything():
    """PythonQt counts the wrapper's arguments: the well-known trap of a bool in a default parameter."""
    import functools

    got = []

    def decorator(function):
        @functools.wraps(function)
        def wrapper(*arguments):
            got.append(arguments)

        return wrapper

    button = qt.QPushButton()
    button.connect("clicked(bool)", decorator(lambda: None))
    button.click()
    assert got == [(False,)]


def test_errors_in_slots_observers_and_events_are_kept_for_tests():
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode")

    def broken(*_):
        raise ValueError("broken")

    class Widget(qt.QWidget):
        def resizeEvent(self, event):
            raise ValueError("in event")

    node.AddObserver("ModifiedEvent", broken)
    node.Modified()
    qt.QTimer.singleShot(0, broken)
    slicer_standin.spin(5)
    count = len(slicer_standin.slotErrors)
    widget = Widget()
    widget.show()
    widget.resize(50, 60)
    assert count == 2 and len(slicer_standin.slotErrors) > count
    slicer_standin.slotErrors.clear()
    widget.delete()


def test_overridden_methods_are_called_by_qt_and_reach_their_base():
    seen = []

    class Own(qt.QWidget):
        def __init__(self, parent=None):
            super().__init__(parent)
            self.note = "n"

        def resizeEvent(self, event):
            seen.append((self.note, event.size().width()))
            super().resizeEvent(event)

    class Filter(qt.QObject):
        def eventFilter(self, watched, event):
            seen.append(event.type() == qt.QEvent.MouseButtonPress)
            return False

    own, events = Own(), Filter()
    own.resize(123, 45)
    own.show()
    assert ("n", 123) in seen
    button = qt.QPushButton()
    button.installEventFilter(events)
    seen.clear()
    qt.QTest.mouseClick(button, qt.Qt.LeftButton)
    assert True in seen
    own.deleteLater()


def test_a_destroyed_object_is_false_and_raises():
    button = qt.QPushButton("x")
    button.delete()
    assert not button
    with pytest.raises(ValueError):
        button.text  # noqa: B018


# --- parameters and widgets -----------------------------------------------------------------------------------------


def parameters(**annotations):
    from slicer.parameterNodeWrapper import parameterNodeWrapper

    wrapped = parameterNodeWrapper(type("P", (), {"__annotations__": annotations}))
    return wrapped(slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScriptedModuleNode"))


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        (int, ctk.ctkSliderWidget),
        (float, qt.QSpinBox),
        (float, ctk.ctkDoubleSpinBox),
        (float, slicer.qMRMLSliderWidget),
        (str, ctk.ctkPathLineEdit),
        (str, qt.QPlainTextEdit),
        (str, ctk.ctkComboBox),
        (bool, qt.QRadioButton),
        (slicer.vtkMRMLSegmentationNode, slicer.qMRMLSegmentSelectorWidget),
    ],
)
def test_a_type_and_a_widget_that_do_not_fit_raise(kind, make):
    with pytest.raises(RuntimeError, match="Unable to create GUI connector"):
        parameters(value=kind).connectParametersToGui({"value": make()})


def test_a_slider_needs_a_range_and_a_combo_box_choices():
    with pytest.raises(RuntimeError):
        parameters(value=float).connectParametersToGui({"value": ctk.ctkSliderWidget()})
    with pytest.raises(RuntimeError):
        parameters(value=str).connectParametersToGui({"value": qt.QComboBox()})


def test_an_unknown_parameter_name_in_a_panel_raises():
    edit = qt.QLineEdit()
    edit.setProperty("SlicerParameterName", "misspelt")
    holder = qt.QWidget()
    edit.setParent(holder)
    with pytest.raises(ValueError, match="misspelt"):
        parameters(value=str).connectGui(holder)


def test_ui_files_with_unknown_widgets_or_connections_raise(tmp_path):
    text = """<ui version="4.0"><class>P</class><widget class="qMRMLWidget" name="P"><layout class="QVBoxLayout"><item>
        <widget class="{cls}" name="w"/></item></layout></widget><connections><connection><sender>P</sender>
        <signal>{signal}</signal><receiver>w</receiver><slot>setMRMLScene(vtkMRMLScene*)</slot></connection></connections>
        </ui>"""
    right = {"cls": "qMRMLNodeComboBox", "signal": "mrmlSceneChanged(vtkMRMLScene*)"}
    for change in ({}, {"cls": "qMRMLNoSuchWidget"}, {"signal": "mrmlSceneSet(vtkMRMLScene*)"}):
        path = tmp_path / "P.ui"
        path.write_text(text.format(**{**right, **change}))
        if change:
            with pytest.raises(RuntimeError, match="no such"):
                slicer.util.loadUI(str(path))
        else:
            widget = slicer.util.loadUI(str(path))
            widget.setMRMLScene(slicer.mrmlScene)
            assert widget.w.mrmlScene() is slicer.mrmlScene


def nodeSelector(**properties):
    selector = slicer.qMRMLNodeComboBox()
    selector.nodeTypes = ["vtkMRMLTextNode"]
    for name, value in properties.items():
        setattr(selector, name, value)
    selector.setMRMLScene(slicer.mrmlScene)
    return selector


def textNodes(*names):
    return [slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode", name) for name in names]


def test_a_node_selector_of_nothing_but_nodes_always_has_one():
    selector = nodeSelector(addEnabled=False, removeEnabled=False)
    a, b, hidden = textNodes("a", "b", "hidden")
    hidden.SetHideFromEditors(True)
    assert selector.currentNode() == a and selector.nodeCount() == 2
    slicer.mrmlScene.RemoveNode(a)
    assert selector.currentNode() == b
    slicer.mrmlScene.Clear(0)
    assert selector.currentNode() is None and selector.nodeCount() == 0


def test_a_node_selector_with_further_entries_waits_for_a_choice():
    assert (
        textNodes("a") and nodeSelector().currentNode() is None and nodeSelector(noneEnabled=True).currentNode() is None
    )


def test_when_the_current_node_is_removed_its_neighbour_is_current_though_none_is_allowed():
    selector = nodeSelector(noneEnabled=True)
    _a, b, c = textNodes("a", "b", "c")
    selector.setCurrentNode(b)
    slicer.mrmlScene.RemoveNode(b)
    assert selector.currentNode() == c


def test_a_node_chosen_before_the_scene_is_set_is_current_after():
    (node,) = textNodes("a")
    selector = slicer.qMRMLNodeComboBox()
    selector.nodeTypes = ["vtkMRMLTextNode"]
    selector.setCurrentNode(node)
    assert selector.currentNode() is None
    selector.setMRMLScene(slicer.mrmlScene)
    assert selector.currentNode() == node


def test_segment_selector_follows_the_segmentation():
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    selector, seen = slicer.qMRMLSegmentSelectorWidget(), []
    selector.setMRMLScene(slicer.mrmlScene)
    selector.connect("currentSegmentChanged(QString)", seen.append)
    selector.setCurrentNode(node)
    node.GetSegmentation().AddEmptySegment("liver", "Liver")
    node.GetSegmentation().AddEmptySegment("tumour", "Tumour")
    selector.setCurrentSegmentID("tumour")
    assert selector.currentSegmentID() == "tumour" and seen == ["liver", "tumour"]
    node.GetSegmentation().RemoveSegment("tumour")
    assert selector.currentSegmentID() == "liver"


# --- application ----------------------------------------------------------------------------------------------------


def test_messages_are_recorded_and_answered():
    slicer.util.errorDisplay("it failed", detailedText="because")
    assert slicer.util.confirmYesNoDisplay("sure?") is True
    slicer_standin.answers.append(qt.QMessageBox.No)
    assert slicer.util.confirmYesNoDisplay("sure?") is False
    slicer_standin.answers.append("/folder")
    assert qt.QFileDialog.getExistingDirectory(None, "Folder") == "/folder"
    assert qt.QFileDialog.getExistingDirectory(None, "Folder") == ""
    assert [s.text for s in slicer_standin.shown[:3]] == ["it failed", "sure?", "sure?"]
    assert slicer_standin.shown[0].details == "because"
    box = qt.QMessageBox()
    box.addButton("Install", qt.QMessageBox.AcceptRole)
    box.addButton("Later", qt.QMessageBox.RejectRole)
    slicer_standin.answers.append("Later")
    box.exec_()
    assert box.clickedButton().text == "Later"
    with pytest.raises(ZeroDivisionError), slicer.util.tryWithErrorDisplay("Failed."):
        1 / 0  # noqa: B018
    assert slicer_standin.shown[-1].text.startswith("Failed.")


def test_file_dialogs_of_slicer_can_load_in_an_answer():
    slicer_standin.answers.append(lambda dialog: slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode") is not None)
    assert slicer.util.openAddVolumeDialog() and slicer.util.getNodesByClass("vtkMRMLTextNode")
    assert not slicer.util.openAddVolumeDialog() and len(slicer_standin.shown) == 2


def test_the_application_tells_its_version_and_folders():
    assert slicer.app.applicationVersion.startswith("5.13") and slicer.app.applicationName == "Slicer"
    assert slicer.app.revision.isdigit() and os.path.isdir(slicer.app.slicerHome)


def test_the_application_says_that_it_quits():
    seen = []

    def quitting():
        seen.append(1)

    assert slicer.app.connect("aboutToQuit()", quitting) and slicer.app.disconnect("aboutToQuit()", quitting)
    slicer.util.exit(3)  # nothing ends here
    assert seen == []


def test_views_show_what_is_selected():
    import numpy as np

    volume = slicer.util.addVolumeFromArray(np.zeros((4, 5, 6), np.int16))
    slicer.util.setSliceViewerLayers(background=volume, fit=True)
    slicer.util.resetSliceViews()
    slicer.util.resetThreeDViews()
    manager = slicer.app.layoutManager()
    manager.setLayout(slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalView)
    assert manager.layout == slicer.vtkMRMLLayoutNode.SlicerLayoutConventionalView
    for name in manager.sliceViewNames():
        assert manager.sliceWidget(name).sliceLogic().GetSliceCompositeNode().GetBackgroundVolumeID() == volume.GetID()
    slicer.mrmlScene.Clear(0)
    assert manager.sliceWidget("Red").mrmlSliceNode().GetScene() is slicer.mrmlScene


def test_packages_are_recorded_not_installed():
    import slicer.packaging

    slicer.packaging.pip_ensure("no-such-package-of-neonet>=1")
    slicer.util.pip_install("numpy --upgrade")
    assert slicer_standin.installs == [["no-such-package-of-neonet>=1"], ["numpy", "--upgrade"]]
    slicer_standin.answers.append(qt.QMessageBox.Cancel)
    with pytest.raises(RuntimeError):
        slicer.packaging.pip_ensure("no-such-package-of-neonet>=1")


def test_screenshot_of_a_panel(tmp_path):
    widget = qt.QWidget()
    box = qt.QVBoxLayout(widget)
    section = ctk.ctkCollapsibleButton()
    section.text = "Inputs"
    inner = qt.QVBoxLayout(section)
    for text in ("a", "b"):
        inner.addWidget(qt.QLabel(text))
    box.addWidget(section)
    path = slicer_standin.screenshot(widget, tmp_path / "panel.png", width=300)
    picture = qt.QImage(path)
    assert picture.width() == 300 and picture.height() > 60
    section.collapsed = True
    assert qt.QImage(slicer_standin.screenshot(widget, tmp_path / "closed.png", width=300)).height() < picture.height()
