"""The liver and the tumour as segments: their names, colours and SNOMED codes, and finding them in a segmentation."""

import re
from dataclasses import dataclass

import slicer
import vtk
from slicer.i18n import tr as _


@dataclass(frozen=True)
class SegmentKind:
    """What a segment is.

    Attributes
    ----------
    name : str
        As the user sees it.
    terminology : str
        Slicer's serialised terminology entry: context, category, type, modifier, anatomic context, region, modifier.
    colour : (float, float, float)
        Red, green, blue, 0 to 1.
    """

    name: str
    terminology: str
    colour: tuple


# Codes of Slicer's "DICOM master list", which every Slicer loads; SlicerTotalSegmentator gives a liver and its tumour
# the same ones. Colours: the liver's of GenericAnatomyColors; that list has none for a neoplasm, and the green of its
# "mass" would be hard to tell from the default green of new segments.
LIVER = SegmentKind(
    _("liver"),
    "Segmentation category and type - DICOM master list~SCT^123037004^Anatomical Structure~SCT^10200004^Liver~^^"
    "~Anatomic codes - DICOM master list~^^~^^",
    (221 / 255, 130 / 255, 101 / 255))
TUMOUR = SegmentKind(
    _("tumour"),
    "Segmentation category and type - DICOM master list~SCT^49755003^Morphologically Altered Structure"
    "~SCT^108369006^Neoplasm~^^~Anatomic codes - DICOM master list~SCT^10200004^Liver~^^",
    (255 / 255, 214 / 255, 10 / 255))

LIVER_CODE = "10200004"
TUMOUR_CODES = (
    "108369006", "86049000", "14799000",  # neoplasm; primary; secondary
    "4147007", "27925004", "52988006",  # mass; nodule; lesion
    "70179006", "312104005",  # cholangiocarcinoma as a morphology, as a disorder
)
TUMOUR_WORDS = frozenset((
    "tumor", "tumors", "tumour", "tumours", "lesion", "lesions", "mass", "masses", "nodule", "nodules", "neoplasm",
    "cancer", "carcinoma", "cholangiocarcinoma", "icc", "icca", "cca", "hcc", "metastasis", "metastases",
))
LIVER_WORDS = frozenset(("liver", "hepar"))
REPLACED_BY = "NeoNet.ReplacedBy"  # role of the reference from a segmentation to the one made in its place
WORDS_BESIDE_LIVER = frozenset(("whole", "entire", "mask", "label", "seg", "segmentation", "parenchyma", "nii",
                                "nrrd", "gz"))


def applyKind(segment, kind):
    """Give a segment the name, colour and terminology of its kind.

    Parameters
    ----------
    segment : vtkSegment
    kind : SegmentKind
    """
    segment.SetName(kind.name)
    segment.SetColor(*kind.colour)
    segment.SetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), kind.terminology)


def findSegments(segmentationNode):
    """Find the liver and the tumour by their terminology, else by their names.

    Parameters
    ----------
    segmentationNode : vtkMRMLSegmentationNode or None

    Returns
    -------
    liverId, tumourId : str
        Segment IDs, "" where there is none. Of several the first in the segmentation's order; a tumour in the liver
        comes before one elsewhere.
    """
    segmentation = segmentationNode.GetSegmentation() if segmentationNode else None
    segments = [(id_, segmentation.GetSegment(id_)) for id_ in segmentation.GetSegmentIDs()] if segmentation else []
    liverId = _first(segments, lambda segment: _isLiverByCode(segment) and _isLiverByName(segment), _isLiverByCode,
                     _isLiverByName)
    tumourId = _first([(id_, segment) for id_, segment in segments if id_ != liverId],
                      lambda segment: _isTumourByCode(segment) and _codes(segment)[2] == LIVER_CODE,
                      _isTumourByCode, _isTumourByName)
    return liverId, tumourId


def replace(old, new):
    """Hide a segmentation, which may be None, in whose place another one was made; who used it can follow."""
    if old is None or old is new:
        return
    old.SetDisplayVisibility(False)  # else both lie on top of each other
    volume = old.GetReferenceImageGeometryReferenceRole()
    if old.GetNodeReferenceID(volume) == new.GetNodeReferenceID(volume):  # that of another MRI keeps its place there
        old.SetNodeReferenceID(REPLACED_BY, new.GetID())


def latest(segmentationNode):
    """What was made in place of a segmentation (or None), unless the user shows that one again; else itself."""
    while segmentationNode is not None and not segmentationNode.GetDisplayVisibility():
        newer = segmentationNode.GetNodeReference(REPLACED_BY)
        if newer is None:
            break
        segmentationNode = newer
    return segmentationNode


def _first(segments, *tests):
    """ID of the first segment that passes the first test that any passes."""
    return next((id_ for test in tests for id_, segment in segments if test(segment)), "")


def _isLiverByCode(segment):
    return _codes(segment)[1] == LIVER_CODE and not _words(segment) & TUMOUR_WORDS


def _isTumourByCode(segment):
    return _codes(segment)[1] in TUMOUR_CODES


def _isLiverByName(segment):
    """Such as "Liver" or "liver_mask", but not "liver_vessels"."""
    words = _words(segment)
    return bool(words & LIVER_WORDS) and words <= LIVER_WORDS | WORDS_BESIDE_LIVER


def _isTumourByName(segment):
    return bool(_words(segment) & TUMOUR_WORDS)


def _words(segment):
    """Words of a segment's name in lower case: "LiverTumor_1" gives liver, tumor."""
    spaced = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", segment.GetName() or "")
    return frozenset(re.findall(r"[a-z]+", spaced.lower()))


def _codes(segment):
    """Code values of a segment's category, type and anatomic region, "" where it has none."""
    entry = vtk.reference("")
    segment.GetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), entry)
    parts = str(entry).split("~")
    values = [(part.split("^") + ["", ""])[1] for part in parts] + [""] * 6
    return values[1], values[2], values[5]
