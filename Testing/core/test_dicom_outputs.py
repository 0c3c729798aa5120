"""DICOM objects of a result: they lie where the source lies, say what the result says, and keep to the standard."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import highdicom
import numpy as np
import pydicom
import pytest
from dicom_files import CT, IDENTITY, PATIENT, STUDY, rotation, write_multiframe, write_series

from neonet_core.bundle import RESEARCH_USE_ONLY, Bundle, load_bundle
from neonet_core.dicom.objects import SourceModel
from neonet_core.dicom.outputs import write_dicom_outputs
from neonet_core.dicom.seg import write_seg
from neonet_core.dicom_series import series_files, series_grid
from neonet_core.errors import NeoNetError
from neonet_core.flags import case_flags
from neonet_core.measurements import measure
from neonet_core.pipeline import CaseResult, Score, cut_patch
from neonet_core.volume import Volume, read_volume, to_canonical

ZIP = Path(__file__).parents[3] / "shared" / "data" / "abdomen_mr_dicom" / "adc_series.zip"
FILES = ["label.seg.dcm", "report.sr.dcm", "report.sc.dcm"]
needs_validator = pytest.mark.skipif(shutil.which("dciodvfy") is None,
                                     reason="dciodvfy (Debian: dicom3tools) is not installed")


def labels_of(shape: tuple[int, ...], tumour: bool = True) -> np.ndarray:
    """A liver and a tumour without any symmetry: no flip or turn of it looks the same."""
    labels = np.zeros(shape, np.uint8)
    x, y, z = (n // 2 for n in shape)
    labels[x - 2:x + 3, y - 3:y + 2, 2:z + 4] = 1
    labels[x - 2, y - 3, 2:5] = 0
    if tumour:
        labels[x:x + 2, y - 1:y + 1, z - 2:z + 1] = 2
    return labels


def result_of(image: Volume, labels: np.ndarray, *, demo: bool = True, source: str = "NeoSeg of bundle demo",
              members: tuple[float, ...] = (0.3, 0.4)) -> CaseResult:
    """A result as `predict_case` gives it, without the networks."""
    bundle: Bundle = load_bundle("demo")
    if not demo:
        card = bundle.record.card.model_copy(update={"only_phantoms": False})
        bundle = replace(bundle, record=bundle.record.model_copy(update={"card": card}))
    label_map, patch, score = Volume(labels, image.affine), None, None
    if (labels == 2).any():
        patch = cut_patch(image, label_map, bundle.record.preset.crop)
        attention = np.full(image.shape, 0.3, np.float32)
        score = Score(members, 0.5, {"negative": 0.6, "positive": 0.2}, Volume(attention, image.affine))
    measurements = measure(label_map)
    flags = case_flags(image, label_map, measurements, patch.crop if patch else None, bundle)
    return CaseResult("p-1", image, label_map, source, bundle, measurements, patch, score, flags)


def written(folder: Path, out: Path, labels: Any = None, **options: Any) -> dict[str, Any]:
    """The outputs for a source folder, read back, by file name."""
    image = read_volume(folder)
    labels = labels_of(image.shape) if labels is None else labels
    with series_files(folder) as files:
        paths = write_dicom_outputs(result_of(image, labels, **options), files, out)
    assert sorted(path.name for path in paths) == sorted(path.name for path in out.iterdir())
    return {path.name: pydicom.dcmread(path) for path in paths}


def in_each_frame(path: Path) -> Path:
    """Spacing and orientation said anew for every frame, as some scanners do."""
    data = pydicom.dcmread(path)
    shared = data.SharedFunctionalGroupsSequence[0]
    for frame in data.PerFrameFunctionalGroupsSequence:
        frame.PixelMeasuresSequence = shared.PixelMeasuresSequence
        frame.PlaneOrientationSequence = shared.PlaneOrientationSequence
    del shared.PixelMeasuresSequence, shared.PlaneOrientationSequence
    data.save_as(path)
    return path


def unequal(folder: Path) -> Path:
    """Orientations that differ by rounding, and a slice without frame of reference."""
    for number, path in enumerate(sorted(folder.iterdir())):
        data = pydicom.dcmread(path)
        data.ImageOrientationPatient = [f"{value + 1e-7 * number:.8f}" for value in data.ImageOrientationPatient]
        if number == 3:
            del data.FrameOfReferenceUID
        data.save_as(path)
    return folder


SOURCES: dict[str, Any] = {
    "axial": lambda folder: write_series(folder),
    "oblique": lambda folder: write_series(folder, matrix=rotation((12, -20, 31))),
    "coronal": lambda folder: write_series(folder, matrix=rotation((-90, 0, 0))),
    "left-handed": lambda folder: write_series(folder, matrix=np.diag([1.0, 1.0, -1.0])),
    "unsorted": lambda folder: write_series(folder, backwards=True,
                                            names=[f"IM{(7 * i) % 18:02d}" for i in range(18)]),
    "multi-frame": lambda folder: write_multiframe(folder / "e.dcm", matrix=rotation((12, -20, 31))).parent,
    "multi-frame, mixed": lambda folder: write_multiframe(
        folder / "e.dcm", order=np.random.default_rng(3).permutation(18).tolist()).parent,
    "multi-frame, all of it in each frame": lambda folder: in_each_frame(
        write_multiframe(folder / "e.dcm", matrix=rotation((12, -20, 31)))).parent,
    "slices that differ in the last digit": lambda folder: unequal(
        write_series(folder, matrix=rotation((12, -20, 31)))),
    "CT": lambda folder: write_series(folder, sop_class=CT, Modality="CT", template={}, KVP="", RescaleSlope=1,
                                      RescaleIntercept=-1024),
    "bare": lambda folder: write_series(folder, template={}, patient={}, study={"StudyInstanceUID": "1.2.3"},
                                        FrameOfReferenceUID=None),
}


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("sources")
    return {name: write(folder / str(number)) for number, (name, write) in enumerate(SOURCES.items())}


# --- segmentation -----------------------------------------------------------------------------------------------------


def voxels_of(seg_path: Path) -> dict[tuple[float, ...], int]:
    """Label by place (LPS, mm) of all voxels that are not background, as highdicom reads them."""
    seg = highdicom.seg.segread(seg_path)
    volume = seg.get_volume(combine_segments=True)
    index = np.argwhere(volume.array)
    places = (volume.affine @ np.c_[index, np.ones(len(index))].T)[:3].T
    return {tuple(np.round(place, 1).tolist()): int(volume.array[tuple(i)]) for place, i in zip(places, index,
                                                                                                strict=True)}


def places_of(label_map: Volume) -> dict[tuple[float, ...], int]:
    index = np.argwhere(label_map.array)
    places = (label_map.affine @ np.c_[index, np.ones(len(index))].T)[:3].T * (-1, -1, 1)
    return {tuple((np.round(place, 1) + 0.0).tolist()): int(label_map.array[tuple(i)])
            for place, i in zip(places, index, strict=True)}


def positive_zero(places: dict[tuple[float, ...], int]) -> dict[tuple[float, ...], int]:
    return {tuple(value + 0.0 for value in place): label for place, label in places.items()}


@pytest.mark.parametrize("name", SOURCES)
def test_the_segmentation_overlays_its_source_voxel_for_voxel(name: str, sources: dict[str, Path],
                                                              tmp_path: Path) -> None:
    image = read_volume(sources[name])
    labels = labels_of(image.shape)
    label_map = to_canonical(Volume(labels, image.affine))  # on the same voxels in another order
    with series_files(sources[name]) as files:
        model = SourceModel.of(result_of(image, labels))
        path = write_seg(label_map, files[::-1], tmp_path / "s.dcm", model=model)
        assert path is not None
        grid = series_grid(files)
    assert positive_zero(voxels_of(path)) == positive_zero(places_of(label_map))
    # and by reference: the frame that names a source image holds that image's pixels
    seg = highdicom.seg.segread(path)
    if len(grid.files) > 1:
        uids = [str(pydicom.dcmread(file).SOPInstanceUID) for file in grid.files]
        frames = seg.get_pixels_by_source_instance(uids, combine_segments=True,
                                                   assert_missing_frames_are_empty=True)
    else:
        frames = seg.get_pixels_by_source_frame(str(pydicom.dcmread(grid.files[0]).SOPInstanceUID),
                                                [frame + 1 for frame in grid.frames], combine_segments=True,
                                                assert_missing_frames_are_empty=True)
    np.testing.assert_array_equal(frames.T, labels)


@pytest.mark.skipif(not ZIP.is_file(), reason=f"the shared test data are not at {ZIP}")
def test_the_real_series_goes_all_the_way_through(tmp_path: Path) -> None:
    image = read_volume(ZIP)
    labels = np.zeros(image.shape, np.uint8)
    labels[60:150, 80:200, 8:28], labels[90:110, 120:150, 15:22] = 1, 2
    with series_files(ZIP) as files:
        write_dicom_outputs(result_of(image, labels), files, tmp_path)
        source = pydicom.dcmread(files[0])
    seg = highdicom.seg.segread(tmp_path / FILES[0])
    assert positive_zero(voxels_of(tmp_path / FILES[0])) == positive_zero(places_of(Volume(labels, image.affine)))
    assert seg.FrameOfReferenceUID == source.FrameOfReferenceUID
    for name in FILES:
        found = pydicom.dcmread(tmp_path / name, stop_before_pixels=True)
        assert (found.PatientID, found.StudyInstanceUID) == (source.PatientID, source.StudyInstanceUID)
        assert errors_of(tmp_path / name) == []


def test_segments_are_coded_and_name_their_model(sources: dict[str, Path], tmp_path: Path) -> None:
    objects = written(sources["axial"], tmp_path)
    seg, bundle = objects[FILES[0]], load_bundle("demo")
    source = pydicom.dcmread(next(sources["axial"].iterdir()))
    assert seg.SegmentationType == "BINARY" and seg.ContentQualification == "RESEARCH"
    assert seg.FrameOfReferenceUID == source.FrameOfReferenceUID
    types = [(one.SegmentedPropertyCategoryCodeSequence[0].CodeValue,
              one.SegmentedPropertyTypeCodeSequence[0].CodeValue) for one in seg.SegmentSequence]
    assert types == [("91723000", "10200004"), ("49755003", "108369006")]
    for one in seg.SegmentSequence:
        algorithm = one.SegmentationAlgorithmIdentificationSequence[0]
        assert one.SegmentAlgorithmType == "AUTOMATIC" and algorithm.AlgorithmVersion == bundle.record.version
        assert algorithm.AlgorithmName == "NeoSeg of bundle demo" and bundle.hash in algorithm.AlgorithmParameters
        assert one.TrackingUID and one.TrackingID
    referenced = {one.ReferencedSOPInstanceUID for one in seg.ReferencedSeriesSequence[0].ReferencedInstanceSequence}
    assert referenced == {pydicom.dcmread(file).SOPInstanceUID for file in sources["axial"].iterdir()}
    assert seg.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID
    by_hand = written(sources["axial"], tmp_path / "by-hand", source="given by the user")[FILES[0]]
    assert {one.SegmentAlgorithmType for one in by_hand.SegmentSequence} == {"MANUAL"}


def test_without_tumour_there_is_a_liver_and_without_both_no_segmentation(sources: dict[str, Path],
                                                                          tmp_path: Path) -> None:
    image = read_volume(sources["axial"])
    liver = written(sources["axial"], tmp_path, labels_of(image.shape, tumour=False))
    assert [one.SegmentLabel.split(" (")[0] for one in liver[FILES[0]].SegmentSequence] == ["Liver without tumour"]
    assert "No score" in text_of(liver[FILES[1]]) and "holds no tumour" in text_of(liver[FILES[1]])
    empty = written(sources["axial"], tmp_path, np.zeros(image.shape, np.uint8))
    assert sorted(empty) == sorted(FILES[1:]) and not (tmp_path / FILES[0]).exists()
    assert "there is no segmentation" in text_of(empty[FILES[1]])
    assert not numbers_of(empty[FILES[1]])


def test_a_result_of_another_series_or_a_series_with_a_gap_writes_nothing(tmp_path: Path) -> None:
    folder = write_series(tmp_path / "a")
    result = result_of(read_volume(folder), labels_of((9, 8, 18)))
    other = write_series(tmp_path / "b", matrix=rotation((30, 0, 0)))
    gap = write_series(tmp_path / "c", skip=(7,))
    for source, code in ((other, "GRID_MISMATCH"), (gap, "SLICE_GAP")):
        with pytest.raises(NeoNetError) as caught:
            write_dicom_outputs(result, list(source.iterdir()), tmp_path / "out")
        assert caught.value.code == code and not (tmp_path / "out").exists()


# --- report -----------------------------------------------------------------------------------------------------------


def items_of(dataset: Any) -> list[Any]:
    found = []
    for one in dataset.get("ContentSequence", []):
        found += [one, *items_of(one)]
    return found


def text_of(dataset: Any) -> str:
    return "\n".join(one.TextValue for one in items_of(dataset) if one.ValueType == "TEXT")


def numbers_of(dataset: Any) -> list[Any]:
    return [one for one in items_of(dataset) if one.ValueType == "NUM"]


def test_the_report_says_what_the_result_says(sources: dict[str, Path], tmp_path: Path) -> None:
    image = read_volume(sources["axial"])
    result = result_of(image, labels_of(image.shape))
    objects = written(sources["axial"], tmp_path)
    report = objects[FILES[1]]
    found = {(one.ConceptNameCodeSequence[0].CodeValue,
              *(part.ConceptCodeSequence[0].CodeMeaning for part in one.get("ContentSequence", []))):
             (float(one.MeasuredValueSequence[0].NumericValue),
              one.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue) for one in numbers_of(report)}
    assert result.score is not None and result.score.spread is not None
    assert found[("probability", "Mean")] == (pytest.approx(result.score.probability), "1")
    assert found[("probability", "Standard Deviation")] == (pytest.approx(result.score.spread), "1")
    assert found[("L0JK",)] == (pytest.approx(result.measurements.tumour_diameter_mm, rel=1e-5), "mm")
    volumes = [float(one.MeasuredValueSequence[0].NumericValue) for one in numbers_of(report)
               if one.ConceptNameCodeSequence[0].CodeValue == "118565006"]
    assert volumes == pytest.approx([result.measurements.liver_ml, result.measurements.tumour_ml], rel=1e-5)
    text = text_of(report)
    for expected in (RESEARCH_USE_ONLY, result.bundle.hash, result.bundle.record.version,
                     *(flag.message for flag in result.flags)):
        assert expected in text
    assert (report.CompletionFlag, report.PreliminaryFlag, report.VerificationFlag) == ("COMPLETE", "PRELIMINARY",
                                                                                       "UNVERIFIED")
    evidence = {one.ReferencedSOPInstanceUID for study in report.CurrentRequestedProcedureEvidenceSequence
                for series in study.ReferencedSeriesSequence for one in series.ReferencedSOPSequence}
    assert evidence == {objects[FILES[0]].SOPInstanceUID,
                        *(pydicom.dcmread(file).SOPInstanceUID for file in sources["axial"].iterdir())}
    groups = highdicom.sr.srread(tmp_path / FILES[1]).content.get_volumetric_roi_measurement_groups()
    assert [group.reference_type.meaning for group in groups] == ["Referenced Segment"] * 2


def test_a_single_member_has_no_spread(sources: dict[str, Path], tmp_path: Path) -> None:
    report = written(sources["axial"], tmp_path, members=(0.7,))[FILES[1]]
    values = [float(one.MeasuredValueSequence[0].NumericValue) for one in numbers_of(report)
              if one.ConceptNameCodeSequence[0].CodeValue == "probability"]
    assert values == [0.7]


# --- all three --------------------------------------------------------------------------------------------------------


def test_the_demonstration_model_is_named_everywhere_and_no_other_is(sources: dict[str, Path],
                                                                     tmp_path: Path) -> None:
    for demo in (True, False):
        objects = written(sources["axial"], tmp_path / str(demo), demo=demo, source="NeoSeg of bundle other")
        for dataset in objects.values():
            assert dataset.SeriesDescription.startswith("NeoNet research")
            assert ("DEMONSTRATION MODEL" in dataset.SeriesDescription) == demo
        for content in (text_of(objects[FILES[1]]), str(objects[FILES[0]].SegmentSequence),
                        objects[FILES[2]].ImageComments):
            assert ("DEMONSTRATION MODEL" in content) == demo and RESEARCH_USE_ONLY in content


def test_patient_and_study_are_the_source_s_in_any_script(tmp_path: Path) -> None:
    name = "Yamada^Tarou=山田^太郎=やまだ^たろう"
    folder = write_series(tmp_path / "s", SpecificCharacterSet=["", "ISO 2022 IR 87"], PatientName=name, PatientSex="X",
                          PatientBirthDate="unknown", OtherPatientIDs="77")
    for dataset in written(folder, tmp_path / "out").values():
        assert str(dataset.PatientName) == name and dataset.PatientID == PATIENT["PatientID"]
        assert (dataset.PatientSex or "", dataset.PatientBirthDate or "") == ("", "")  # what is no such value
        assert dataset.StudyInstanceUID == STUDY["StudyInstanceUID"]
        assert dataset.AccessionNumber == PATIENT["AccessionNumber"]


def test_the_page_names_nobody(sources: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[str] = []
    from matplotlib.text import Text

    original = Text.set_text
    monkeypatch.setattr(Text, "set_text", lambda self, text: (drawn.append(str(text)), original(self, text))[1])
    capture = written(sources["axial"], tmp_path)[FILES[2]]
    text = " ".join(drawn).lower()
    assert "research use only" in text and "0.35" in text and "demo_model" not in text
    assert not any(part in text for part in (*IDENTITY, "p-1"))
    assert (capture.BurnedInAnnotation, capture.PhotometricInterpretation, capture.Modality) == ("NO", "RGB", "OT")
    page = capture.pixel_array
    assert page.shape[2] == 3 and page.shape[1] == 1200 and page.min() < 50 and page.max() == 255


def test_equal_results_give_equal_files_and_other_results_other_uids(sources: dict[str, Path], tmp_path: Path) -> None:
    first = written(sources["axial"], tmp_path / "a")
    written(sources["axial"], tmp_path / "b")
    for name in FILES:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
        assert first[name].SOPInstanceUID.startswith("2.25.") and len(first[name].SOPInstanceUID) <= 64
    labels = labels_of((9, 8, 18))
    labels[0, 0, 0] = 1
    other = written(sources["axial"], tmp_path / "c", labels)
    for name in FILES:
        assert other[name].SOPInstanceUID != first[name].SOPInstanceUID
        assert other[name].SeriesInstanceUID == first[name].SeriesInstanceUID
    assert len({dataset.SeriesInstanceUID for dataset in first.values()}) == 3


def errors_of(path: Path) -> list[str]:
    """What dciodvfy calls an error."""
    run = subprocess.run(["dciodvfy", "-new", str(path)], capture_output=True, text=True, errors="replace", check=False)
    return [line for line in (run.stdout + run.stderr).splitlines() if line.startswith("Error")]


@needs_validator
@pytest.mark.parametrize("name", SOURCES)
def test_the_validator_finds_no_error(name: str, sources: dict[str, Path], tmp_path: Path) -> None:
    written(sources[name], tmp_path, demo=name != "axial")
    for file in FILES:
        assert errors_of(tmp_path / file) == []


@needs_validator
@pytest.mark.parametrize("labels", ["no tumour", "nothing"])
def test_the_validator_finds_no_error_without_a_score(labels: str, sources: dict[str, Path], tmp_path: Path) -> None:
    shape = read_volume(sources["axial"]).shape
    empty = np.zeros(shape, np.uint8) if labels == "nothing" else labels_of(shape, tumour=False)
    for name in written(sources["axial"], tmp_path, empty):
        assert errors_of(tmp_path / name) == []

