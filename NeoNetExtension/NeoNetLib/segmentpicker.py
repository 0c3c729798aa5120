"""Which segment is the liver and which the tumour: two combo boxes that follow a segmentation."""

import slicer
import vtk
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from NeoNetLib import segments

EVENTS = (
    slicer.vtkSegmentation.SegmentAdded,
    slicer.vtkSegmentation.SegmentRemoved,
    slicer.vtkSegmentation.SegmentModified,
)


class SegmentPicker(VTKObservationMixin):
    """Fills two combo boxes with the segments of a parameter node's segmentation and keeps what is chosen there.

    ``picker.attach(parameterNode)`` (None to detach) takes a parameter node with the fields `segmentation`,
    `liverSegment` and `tumourSegment` (segment IDs, "" for none). Where these name no segment of the segmentation,
    `segments.findSegments` proposes. Changes of the fields are announced by the parameter node itself.

    Parameters
    ----------
    liverCombo, tumourCombo : QComboBox
    """

    def __init__(self, liverCombo, tumourCombo):
        VTKObservationMixin.__init__(self)
        self._combos = {"liverSegment": liverCombo, "tumourSegment": tumourCombo}
        self._parameterNode = None
        self._segmentation = None
        self._ids = [""]
        for field, combo in self._combos.items():
            combo.connect("currentIndexChanged(int)", lambda index, field=field: self._onChosen(field, index))

    def attach(self, parameterNode):
        """Follow this parameter node; None: none."""
        self.removeObservers()
        self._parameterNode, self._segmentation = parameterNode, None
        if parameterNode is not None:
            self.addObserver(parameterNode, vtk.vtkCommand.ModifiedEvent, self._onParametersModified)
            self._onParametersModified()

    def _onParametersModified(self, caller=None, event=None):
        segmentation = self._parameterNode.segmentation
        if segmentation is not self._segmentation:
            self._observe(segmentation)
        self._show()

    def _observe(self, segmentation):
        self.removeObservers(self._onSegmentsModified)
        self._segmentation = segmentation
        if segmentation is not None:
            for event in EVENTS:
                self.addObserver(segmentation.GetSegmentation(), event, self._onSegmentsModified)
        self._propose()

    def _onSegmentsModified(self, caller, event):
        self._propose()
        self._show()

    def _propose(self):
        """Fill what names no segment."""
        ids = self._segmentation.GetSegmentation().GetSegmentIDs() if self._segmentation else ()
        found = dict(zip(self._combos, segments.findSegments(self._segmentation) if ids else ("", ""), strict=True))
        for field, proposed in found.items():
            if getattr(self._parameterNode, field) not in ids:
                setattr(self._parameterNode, field, proposed)

    def _show(self):
        segmentation = self._segmentation.GetSegmentation() if self._segmentation else None
        self._ids = ["", *(segmentation.GetSegmentIDs() if segmentation else ())]
        names = [_("(none)"), *(segmentation.GetSegment(segmentId).GetName() for segmentId in self._ids[1:])]
        for field, combo in self._combos.items():
            blocked = combo.blockSignals(True)
            if [combo.itemText(i) for i in range(combo.count)] != names:
                combo.clear()
                combo.addItems(names)
            chosen = getattr(self._parameterNode, field)
            combo.currentIndex = self._ids.index(chosen) if chosen in self._ids else 0
            combo.enabled = segmentation is not None
            combo.blockSignals(blocked)

    def _onChosen(self, field, index):
        if self._parameterNode is not None and 0 <= index < len(self._ids):
            setattr(self._parameterNode, field, self._ids[index])
