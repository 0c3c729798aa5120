"""Two volumes on one grid in two slice views, at the same place."""

import numpy as np
import slicer

from NeoNetLib import nodes

LAYERS = ("BackgroundVolumeID", "ForegroundVolumeID", "LabelVolumeID", "LinkedControl", "HotLinkedControl")


class SideBySide:
    """Shows one volume in the red slice view and another in the yellow one; `leave` puts the views back.

    Both views are axial and linked, so that they scroll and zoom together.
    """

    VIEWS = ("Red", "Yellow")

    def __init__(self):
        self._before = None  # layout and what each view showed

    @property
    def active(self):
        return self._before is not None

    def enter(self, left, right):
        """Change to the layout with two slice views.

        Parameters
        ----------
        left, right : vtkMRMLScalarVolumeNode
            On one grid.
        """
        layout = slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLayoutNode")
        if not self.active:
            self._before = layout.GetViewArrangement(), [_state(name) for name in self.VIEWS]
        layout.SetViewArrangement(slicer.vtkMRMLLayoutNode.SlicerLayoutSideBySideView)
        for name, node in zip(self.VIEWS, (left, right), strict=True):
            slice_, layers = viewNodes(name)
            layers.SetForegroundVolumeID(None)
            layers.SetLabelVolumeID(None)
            layers.SetBackgroundVolumeID(node.GetID())
            slice_.SetOrientation("Axial")
        if slicer.app.layoutManager() is not None:  # None without a main window
            slicer.util.resetSliceViews()
        for name in self.VIEWS:
            slice_, layers = viewNodes(name)
            slice_.JumpSliceByCentering(*_centre(left))
            layers.SetLinkedControl(True)
            layers.SetHotLinkedControl(True)

    def show(self, right):
        """Show another volume on the right, at the same place."""
        viewNodes(self.VIEWS[1])[1].SetBackgroundVolumeID(right.GetID())

    def leave(self):
        """Put back the layout and what the views showed."""
        if not self.active:
            return
        layout, states = self._before
        self._before = None
        for name, state in zip(self.VIEWS, states, strict=True):
            if state is None:
                continue
            (orientation, layers), (slice_, composite) = state, viewNodes(name)
            for layer, value in layers.items():
                getattr(composite, f"Set{layer}")(value)
            if orientation != "Reformat":  # a view turned by hand has no name to go back to
                slice_.SetOrientation(orientation)
        slicer.mrmlScene.GetFirstNodeByClass("vtkMRMLLayoutNode").SetViewArrangement(layout)

    def forget(self):
        """The scene is being closed: there is nothing to put back."""
        self._before = None


def viewNodes(name):
    """Slice node and slice composite node of a slice view."""
    return (
        slicer.mrmlScene.GetNodeByID(f"vtkMRMLSliceNode{name}"),
        slicer.mrmlScene.GetNodeByID(f"vtkMRMLSliceCompositeNode{name}"),
    )


def _state(name):
    """Orientation and layers of a slice view; None for a view that no layout has shown yet."""
    slice_, composite = viewNodes(name)
    if composite is None:
        return None
    return slice_.GetOrientation(), {layer: getattr(composite, f"Get{layer}")() for layer in LAYERS}


def _centre(volumeNode):
    """Centre of a volume in the world: ndarray (3,), RAS mm."""
    last = np.array(volumeNode.GetImageData().GetDimensions()) - 1
    return nodes.localToWorld(volumeNode, (nodes.localAffine(volumeNode) @ [*(last / 2), 1])[:3])
