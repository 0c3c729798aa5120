"""Liver and tumour segments carry codes that Slicer knows, and are found however they came to be."""

import numpy as np
import pytest
import slicer
import vtk

from NeoNetLib import segments
from NeoNetLib.segments import LIVER, TUMOUR, applyKind, findSegments

TISSUE = ("Segmentation category and type - 3D Slicer General Anatomy list~SCT^85756007^Tissue~SCT^85756007^Tissue~^^"
          "~Anatomic codes - DICOM master list~^^~^^")  # what Slicer gives a segment that a user adds
LESION = ("Segmentation category and type - DICOM master list~SCT^49755003^Morphologically Altered Structure"
          "~SCT^{}~^^~{}")
IN_LIVER = "Anatomic codes - DICOM master list~SCT^10200004^Liver~^^"
IN_KIDNEY = "Anatomic codes - DICOM master list~SCT^64033007^Kidney~SCT^7771000^Left"
VESSEL = ("Segmentation category and type - DICOM master list~SCT^123037004^Anatomical Structure"
          "~SCT^59820001^Blood vessel~^^~" + IN_LIVER)


def make_segmentation(*described):
    """A segmentation of (name, terminology) with the IDs "0", "1", ..."""
    node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
    for number, (name, terminology) in enumerate(described):
        segment = slicer.vtkSegment()
        segment.SetName(name)
        if terminology:
            segment.SetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), terminology)
        node.GetSegmentation().AddSegment(segment, str(number))
    return node


@pytest.mark.parametrize(("kind", "category", "type_", "region"), [
    (LIVER, ("123037004", "Anatomical Structure"), ("10200004", "Liver"), ""),
    (TUMOUR, ("49755003", "Morphologically Altered Structure"), ("108369006", "Neoplasm"), "10200004"),
])
def test_slicer_reads_the_terminology(kind, category, type_, region):
    segment, entry, text = slicer.vtkSegment(), slicer.vtkSlicerTerminologyEntry(), vtk.reference("")
    applyKind(segment, kind)
    assert segment.GetName() == kind.name and segment.GetColor() == pytest.approx(kind.colour)
    assert segment.GetTag(slicer.vtkSegment.GetTerminologyEntryTagName(), text) and str(text) == kind.terminology
    logic = slicer.vtkSlicerTerminologiesModuleLogic()
    assert logic.DeserializeTerminologyEntry(kind.terminology, entry)
    assert entry.GetTerminologyContextName() == "Segmentation category and type - DICOM master list"
    for found, expected in ((entry.GetCategoryObject(), category), (entry.GetTypeObject(), type_)):
        assert found.GetCodingSchemeDesignator() == "SCT"
        assert (found.GetCodeValue(), found.GetCodeMeaning()) == expected
    assert (entry.GetRegionObject().GetCodeValue() or "") == region
    assert logic.SerializeTerminologyEntry(entry) == kind.terminology


def test_the_colours_are_told_apart():
    assert LIVER.colour == (221 / 255, 130 / 255, 101 / 255)  # of Slicer's GenericAnatomyColors
    assert max(abs(a - b) for a, b in zip(LIVER.colour, TUMOUR.colour, strict=True)) > 0.3


@pytest.mark.parametrize(("liver", "tumour"), [
    ("liver", "tumour"), ("Liver", "Tumor"), ("LIVER", "TUMOR"), ("liver_mask", "liver_tumor"),
    ("Liver parenchyma", "Lesion 1"), ("whole-liver", "lesions"), ("liver", "LiverTumor_1"), ("liver.nii", "mass"),
    ("Liver", "ICC"), ("Liver", "iCCA"), ("Liver", "cholangiocarcinoma (S4)"), ("label 1: liver", "label 2: tumour"),
])
def test_segments_are_found_by_name(liver, tumour):
    others = [(name, TISSUE) for name in ("liver_vessels", "Liver segment 4", "Segment_1", "massive", "delivery")]
    node = make_segmentation(*others, (tumour, TISSUE), (liver, None))
    assert findSegments(node) == ("6", "5")


def test_terminology_comes_before_names():
    node = make_segmentation(("liver", TISSUE), ("a", LIVER.terminology), ("tumour", VESSEL), ("b", TUMOUR.terminology))
    assert findSegments(node) == ("1", "3")


def test_total_segmentators_segments_are_found():
    kidney_cyst = LESION.format("367643001^Cyst", IN_KIDNEY)
    node = make_segmentation(("kidney_cyst_left", kidney_cyst), ("liver_vessels", VESSEL), ("liver", LIVER.terminology),
                             ("liver_tumor", LESION.format("108369006^Neoplasm", IN_LIVER)))
    assert findSegments(node) == ("2", "3")
    drawn = ("Segment_1", LESION.format("4147007^Mass", "~^^~^^"))
    body = make_segmentation(("spleen", None), ("liver", LIVER.terminology), drawn)
    assert findSegments(body) == ("1", "2")


def test_a_tumour_of_the_liver_comes_before_another():
    node = make_segmentation(*((name, LESION.format("4147007^Mass", place))
                               for name, place in (("x", IN_KIDNEY), ("y", IN_LIVER))))
    assert findSegments(node) == ("", "1")


def test_nothing_is_found_where_nothing_is():
    assert findSegments(None) == ("", "")
    assert findSegments(make_segmentation()) == ("", "")
    assert findSegments(make_segmentation(("Segment_1", TISSUE), ("liver_vessels", VESSEL))) == ("", "")
    assert findSegments(make_segmentation(("liver tumour", None))) == ("", "0")


def test_a_segmentation_made_again_takes_the_place_of_the_one_before_on_the_same_volume():
    volumes = [slicer.mrmlScene.AddNewNodeByClass("vtkMRMLScalarVolumeNode") for _ in range(2)]
    for volume in volumes:
        slicer.util.updateVolumeFromArray(volume, np.zeros((2, 3, 4)))
    made = []
    for volume in (volumes[0], volumes[0], volumes[1]):
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLSegmentationNode")
        node.CreateDefaultDisplayNodes()
        node.SetReferenceImageGeometryParameterFromVolumeNode(volume)
        made.append(node)
    first, second, other = made
    segments.replace(None, first)
    segments.replace(first, first)
    assert first.GetDisplayVisibility() and segments.latest(first) is first and segments.latest(None) is None
    segments.replace(first, second)
    assert not first.GetDisplayVisibility() and segments.latest(first) is second
    segments.replace(second, other)
    assert not second.GetDisplayVisibility() and segments.latest(first) is second
    first.SetDisplayVisibility(True)  # the user goes back to it
    assert segments.latest(first) is first
    slicer.mrmlScene.RemoveNode(second)
    first.SetDisplayVisibility(False)
    assert segments.latest(first) is first
