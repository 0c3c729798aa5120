"""What the panels of the four modules share: the .ui file, the scene's opening and closing, the parameter node."""

import slicer
import vtk
from slicer.ScriptedLoadableModule import ScriptedLoadableModuleWidget
from slicer.util import VTKObservationMixin


class ModuleWidget(ScriptedLoadableModuleWidget, VTKObservationMixin):
    """A module's panel. A module writes its own ``<Name>Widget`` with

    - ``build()``: make `logic` and the parts, connect the controls of `ui` (those of ``Resources/UI/<Name>.ui``),
    - ``attach(parameterNode)``: give the parameter node to the parts that keep choices in it; None detaches them,
    - ``propose()``: choose what is not chosen yet,
    - ``onParametersModified()``: show what is chosen, and say what is missing,
    - `panels`, and `scenePanels` where some jobs have nothing to do with the scene.
    """

    def __init__(self, parent=None):
        ScriptedLoadableModuleWidget.__init__(self, parent)
        VTKObservationMixin.__init__(self)
        self._parameterNode = None
        self._guiTag = None

    def setup(self):
        ScriptedLoadableModuleWidget.setup(self)
        uiWidget = slicer.util.loadUI(self.resourcePath(f"UI/{self.moduleName}.ui"))
        self.layout.addWidget(uiWidget)
        self.ui = slicer.util.childWidgetVariables(uiWidget)
        uiWidget.setMRMLScene(slicer.mrmlScene)
        self.build()
        scene = slicer.mrmlScene
        self.addObserver(scene, scene.StartCloseEvent, self.onSceneStartClose)
        self.addObserver(scene, scene.EndCloseEvent, self.onSceneEndClose)
        self.addObserver(scene, scene.StartImportEvent, self.onSceneStartImport)
        self.addObserver(scene, scene.EndImportEvent, self.onSceneEndImport)
        self.initializeParameterNode()

    @property
    def panels(self):
        """The `JobPanel` of each job."""
        return (self.panel,)

    @property
    def scenePanels(self):
        """Those whose jobs end with the scene."""
        return self.panels

    def propose(self):
        pass

    def onParametersModified(self, caller=None, event=None):
        pass

    def cleanup(self):
        for panel in self.panels:
            panel.close()
        self.setParameterNode(None)
        self.removeObservers()

    def enter(self):
        for panel in self.panels:
            panel.refresh()
        self.initializeParameterNode()

    def exit(self):
        pass  # a job goes on, and what is shown stays, while the user looks at other modules

    def onSceneStartClose(self, caller, event):
        for panel in self.scenePanels:
            panel.cancel()
        self.setParameterNode(None)

    def onSceneEndClose(self, caller, event):
        if self.parent.isEntered:
            self.initializeParameterNode()

    def onSceneStartImport(self, caller, event):
        self.setParameterNode(None)  # nodes come one by one: a selector would lose its reference to one still to come

    def onSceneEndImport(self, caller, event):
        if self.parent.isEntered or any(panel.running for panel in self.panels):
            self.initializeParameterNode()

    def initializeParameterNode(self):
        """Take up the scene's parameters; what is not chosen yet is proposed."""
        # the wrapper that there is: each observes its node for good, and the module may be entered a hundred times
        current = self._parameterNode
        self.setParameterNode(self.logic.getParameterNode() if current is None else current)
        self.propose()

    def setParameterNode(self, parameterNode):
        """Show the choices of this parameter node and keep them there; None: show none."""
        former = self._parameterNode
        if former is not None and former is not parameterNode:
            former.disconnectGui(self._guiTag)
            self.removeObserver(former, vtk.vtkCommand.ModifiedEvent, self._onParameterNodeModified)
        self._parameterNode = None  # while the parts take it up, nothing is shown of half of it
        self.attach(parameterNode)
        self._parameterNode = parameterNode
        if parameterNode is None:
            return
        if former is not parameterNode:  # each connection leaves an observer on the node, also when it is cut
            # not connectGui(): in older Slicers it returns no tag, and nothing is ever disconnected (their issue 7547)
            self._guiTag = parameterNode.connectParametersToGui(self._parameterWidgets())
            self.addObserver(parameterNode, vtk.vtkCommand.ModifiedEvent, self._onParameterNodeModified)
        self.onParametersModified()

    def _onParameterNodeModified(self, caller, event):
        if self._parameterNode is not None:
            self.onParametersModified(caller, event)

    def _parameterWidgets(self):
        """The widgets that the .ui file gives a parameter, by its name."""
        named = {widget.property("SlicerParameterName"): widget for widget in vars(self.ui).values()}
        return {name: widget for name, widget in named.items() if name}
