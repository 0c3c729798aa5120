"""The hepatobiliary phase is found in a tree of studies, explained, and overridable; nothing tells who a patient is."""

from __future__ import annotations

import csv
import json
import shutil
import stat
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from dicom_files import CT, HEPATOBILIARY, IDENTITY, PATIENT, STUDY, numbers, write_multiframe, write_series

from neonet_core.cli import main
from neonet_core.cohort import read_manifest
from neonet_core.dicom.from_dicom import _names_patient, read_choices, write_cases
from neonet_core.dicom.identity import KEY_FILE, Pseudonyms
from neonet_core.dicom.studies import Study, find_studies, scan_tree
from neonet_core.dicom_series import series_files
from neonet_core.errors import NeoNetError
from neonet_core.volume import read_volume

PLAIN = {**HEPATOBILIARY, "ContrastBolusAgent": None}


def study_of(folder: Path, *series: dict[str, Any]) -> Study:
    """The one study of these series; each differs from a hepatobiliary phase as it says."""
    for number, attributes in enumerate(series, start=1):
        shape = (9, 8, attributes.pop("slices", 18))
        write_series(folder / f"{number:02d}", numbers(shape), SeriesNumber=number, **attributes)
    studies = find_studies(folder)
    assert len(studies) == 1
    return studies[0]


def series_named(description: str, time: str = "104500", **attributes: Any) -> dict[str, Any]:
    return {"SeriesDescription": description, "AcquisitionTime": time, **attributes}


def number_of(study: Study) -> str | None:
    return None if study.chosen is None else study.chosen.number


# --- the choice -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("description", [
    "t1_vibe_fs_tra_bh_20min", "Ax LAVA HBP", "eTHRIVE hepatobiliary", "T1 VIBE DIXON 20 MIN_W",
    "AX LAVA-Flex 15min delay", "t1_vibe_fs_leberspezifisch", "dyn_eTHRIVE_20min"])
def test_it_is_found_by_name_among_all_that_a_liver_protocol_has(description: str, tmp_path: Path) -> None:
    study = study_of(
        tmp_path,
        series_named("localizer", "100000", slices=3, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
        series_named("t2_haste_cor", "100200", ScanningSequence="SE", MRAcquisitionType="2D", EchoTime=90),
        series_named("t1_vibe_dixon_tra_opp", "100300"), series_named("t1_vibe_dixon_tra_in", "100300"),
        series_named("t1_vibe_dixon_tra_F", "100300"),
        series_named("t1_vibe_fs_tra_native", "100400", ContrastBolusAgent=None),
        series_named("t1_vibe_fs_tra_arterial", "100600"), series_named("t1_vibe_fs_tra_portal venous", "100700"),
        series_named("t1_vibe_fs_tra_5min", "101000"), series_named("t1_vibe_fs_tra_SUB", "101000"),
        series_named("ep2d_diff_b50_400_800_ADC", "101500", ScanningSequence="EP"),
        series_named(description, "102600"),
        series_named("t1_vibe_fs_20min_MIP_cor", "102600", ImageType=["DERIVED", "SECONDARY", "MIP"]))
    assert number_of(study) == "12", study.reason
    excluded = {one.number: one.excluded for one in study.series if one.excluded}
    assert set(excluded) == {"1", "2", "3", "4", "5", "10", "11", "13"}
    assert "localiser" in excluded["1"] and "diffusion" in excluded["11"] and "projection" in excluded["13"]


def test_it_is_found_by_time_where_descriptions_are_all_the_same(tmp_path: Path) -> None:
    times = ("100000", "100130", "100200", "100500", "102200")
    study = study_of(tmp_path, *(series_named("eTHRIVE", time, ContrastBolusAgent=None) for time in times))
    assert number_of(study) == "5" and "22 min after the study’s first series" in study.reason


def test_the_time_of_injection_beats_the_order(tmp_path: Path) -> None:
    known = {"ContrastBolusStartTime": "100100", "ContrastBolusAgent": "Eovist"}
    study = study_of(tmp_path, series_named("LAVA", "100000", **known), series_named("LAVA", "100400", **known),
                     series_named("LAVA", "102100", **known))
    assert number_of(study) == "3" and "20 min after the injection (+4)" in study.reason
    assert "contrast agent gadoxetate (+2)" in study.reason


def test_gadobenate_is_late_at_another_time(tmp_path: Path) -> None:
    known = {"ContrastBolusStartTime": "100000", "ContrastBolusAgent": "MultiHance"}
    study = study_of(tmp_path, series_named("LAVA", "102000", **known), series_named("LAVA", "113000", **known))
    assert number_of(study) == "2" and "90 min after the injection (+4)" in study.reason


def test_a_name_of_the_agent_is_no_name_of_the_phase(tmp_path: Path) -> None:
    study = study_of(tmp_path, series_named("t1_vibe_primovist_art", "100200"),
                     series_named("t1_vibe_primovist_spaet", "102200"))
    assert number_of(study) == "2"


def test_a_protocol_s_name_stands_in_for_a_description(tmp_path: Path) -> None:
    study = study_of(tmp_path, series_named("eTHRIVE", "100200", ProtocolName="eTHRIVE_art"),
                     series_named("eTHRIVE", "100300", ProtocolName="eTHRIVE_HBP"))
    assert number_of(study) == "2" and "protocol named “hbp”" in study.reason


def test_the_only_t1_volume_is_taken_and_several_of_no_known_phase_are_not(tmp_path: Path) -> None:
    alone = study_of(tmp_path / "a", series_named("t1 vibe fs", ContrastBolusAgent=None))
    assert number_of(alone) == "1" and "the only one of its kind" in alone.reason
    several = study_of(tmp_path / "b", *[series_named("t1 vibe fs", ContrastBolusAgent=None)] * 2)
    assert several.chosen is None and "no series reaches 7 points" in several.reason
    arterial = study_of(tmp_path / "c", series_named("t1 vibe fs arterial"))
    assert arterial.chosen is None


@pytest.mark.parametrize(("change", "why"), [
    ({"Modality": "CT", "sop_class": CT}, "modality CT"), ({"slices": 12}, "12 slices only"),
    ({"MRAcquisitionType": "2D"}, "2D"), ({"ScanningSequence": "SE"}, "no gradient echo"),
    ({"DiffusionBValue": 400.0}, "diffusion"), ({"ImageType": ["DERIVED", "SECONDARY", "SUB"]}, "subtraction"),
    ({"SeriesDescription": "HBP 20min in-phase"}, "phase"), ({"SeriesDescription": "HBP MIP"}, "projection")])
def test_what_cannot_be_one_is_excluded_with_the_reason(change: dict[str, Any], why: str, tmp_path: Path) -> None:
    study = study_of(tmp_path, {**series_named("t1_vibe_20min"), **change})
    assert study.chosen is None and why in study.series[0].excluded and why in study.reason
    assert study.choose("1").chosen is study.series[0] and why in study.choose("1").reason


def test_several_phases_in_one_series_are_not_one_volume(tmp_path: Path) -> None:
    write_series(tmp_path, SeriesInstanceUID="1.2.9", SeriesDescription="t1 vibe dyn 20min")
    write_series(tmp_path / "b", SeriesInstanceUID="1.2.9", SeriesDescription="t1 vibe dyn 20min")
    assert "2 images at one position" in find_studies(tmp_path)[0].series[0].excluded


def test_a_tie_is_said_and_broken_the_same_way_each_time(tmp_path: Path) -> None:
    study = study_of(tmp_path, series_named("HBP", slices=18), series_named("HBP", slices=20))
    assert number_of(study) == "2" and "TIE with series 1, taken because it has more slices" in study.reason
    assert find_studies(tmp_path)[0].reason == study.reason


def test_an_enhanced_multiframe_series_is_found_and_read(tmp_path: Path) -> None:
    write_multiframe(tmp_path / "a" / "e.dcm", order=range(17, -1, -1))
    write_series(tmp_path / "b", SeriesDescription="t1 vibe native")
    study = find_studies(tmp_path)[0]
    assert number_of(study) == "5" and "T1-weighted by TE 1.7, TR 3.6 ms" in study.reason
    assert study.chosen is not None and study.chosen.slices == 18
    assert read_volume(study.chosen.path, study.chosen.uid).shape == (9, 8, 18)


def test_reasons_never_quote_a_description(tmp_path: Path) -> None:
    study = study_of(tmp_path, series_named("Jane Doe t1 vibe 20min"), series_named("DOE arterial t1"))
    for one in study.series:
        assert not any(part in one.explanation.lower() for part in IDENTITY)
    assert not any(part in repr(study).lower() for part in (*IDENTITY, STUDY["StudyInstanceUID"]))


# --- trees ------------------------------------------------------------------------------------------------------------


def other_study(number: int, patient: str = "SECRET-17") -> dict[str, Any]:
    return {"study": {**STUDY, "StudyInstanceUID": f"1.2.3.{number}"}, "patient": {**PATIENT, "PatientID": patient}}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Three studies of two patients, unpacked, in one folder with another series, and in a zip; and other files."""
    tree = tmp_path / "tree"
    write_series(tree / "Doe_Jane" / "1", **other_study(1))
    write_series(tree / "x2", SeriesNumber=7, names=[f"a{i:02d}" for i in range(18)], **other_study(2))
    write_series(tree / "x2", SeriesNumber=8, names=[f"b{i:02d}" for i in range(18)],
                 SeriesDescription="t1_vibe_fs_native", **other_study(2))
    packed = write_series(tmp_path / "packed", **other_study(3, "OTHER-99"))
    with zipfile.ZipFile(tree / "three.zip", "w") as archive:
        for file in packed.iterdir():
            archive.write(file, f"DICOM/{file.name}")
    (tree / "notes.txt").write_text("Jane Doe")
    (tree / "x5").mkdir()
    (tree / "x5" / "broken.dcm").write_bytes((tree / "x2" / "a00").read_bytes()[:300])
    (tree / "broken.zip").write_bytes(b"PK\3\4 no zip")
    (tree / ".hidden").write_bytes(b"x")
    return tree


def rows_of(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", encoding="utf-8") as stream:
        return list(csv.DictReader(stream))


def test_a_tree_becomes_a_manifest_of_readable_images(tree: Path, tmp_path: Path) -> None:
    scan = scan_tree(tree)
    assert (len(scan.studies), scan.not_dicom, scan.damaged) == (3, 1, 2)
    shutil.copytree(tree, tree / "out" / "ours")
    assert scan_tree(tree, but=tree / "out") == scan
    shutil.rmtree(tree / "out")
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "link").symlink_to(tree)  # as the images of CASES-images lie
    assert len(scan_tree(tmp_path / "elsewhere").studies) == 3
    written = write_cases(tree, tmp_path / "out" / "cases.csv")
    cohort, rows = read_manifest(written.cases), rows_of(written.cases)
    assert len(cohort) == written.count == 3 and {row["pni"] for row in rows} == {""}
    assert sorted(row["series"] for row in rows) == ["", "", "7"]
    assert all("20min" in row["explanation"] for row in rows)
    for case in cohort:
        image = read_volume(case.image, case.extra["series"] or None)
        assert image.shape == (9, 8, 18)
        with series_files(case.image, case.extra["series"] or None) as files:
            assert len(files) == 18
    assert len({case.patient_id for case in cohort}) == 2 and len({case.case_id for case in cohort}) == 3
    assert all(case.case_id.startswith(case.patient_id + "-") for case in cohort)
    assert len(rows_of(written.series)) == 4


def test_no_file_or_message_tells_who_a_patient_is(tree: Path, tmp_path: Path,
                                                   capfd: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out" / "cases.csv"
    assert main(["cohort", "from-dicom", str(tree), "--out", str(out), "--json"]) == 0
    shown = capfd.readouterr()
    files = {path.name: path.read_text(encoding="utf-8") for path in out.parent.iterdir() if path.is_file()}
    names = " ".join(path.relative_to(out.parent).as_posix() for path in out.parent.rglob("*")
                     if not path.parent.is_symlink())
    said = " ".join((shown.out, shown.err, names, *files.values())).lower()
    assert not any(part in said for part in (*IDENTITY, "other-99", STUDY["StudyInstanceUID"], "1.2.3."))
    result = json.loads(shown.out.splitlines()[-1])
    assert (result["count"], result["not_dicom"], result["damaged"]) == (3, 1, 2)
    assert stat.S_IMODE((out.parent / KEY_FILE).stat().st_mode) == 0o600


def test_what_was_filled_in_stays_and_choices_override(tree: Path, tmp_path: Path) -> None:
    out = tmp_path / "out" / "cases.csv"
    first = rows_of(write_cases(tree, out).cases)
    edited = first[0] | {"pni": "1", "label_map": "labels/a.nii.gz", "site": "B", "liver_label": "2",
                         "tumour_label": "1|3"}
    with open(out, "w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, list(edited), restval="")
        writer.writeheader()
        writer.writerows([edited, *first[1:]])
    other = next(row["case_id"] for row in first if row["series"] == "7")
    choice = tmp_path / "choice.csv"
    choice.write_text(f"case_id;series\n{other};8\n", encoding="utf-8")
    again = {row["case_id"]: row for row in rows_of(write_cases(tree, out, read_choices(choice)).cases)}
    kept = again[first[0]["case_id"]]
    assert (kept["pni"], kept["label_map"], kept["site"]) == ("1", "labels/a.nii.gz", "B")
    assert (kept["liver_label"], kept["tumour_label"]) == ("2", "1|3")
    assert again[other]["series"] == "8" and "chosen by the user, instead of series 7" in again[other]["explanation"]
    for text, code in (("case_id,series\nnobody,1\n", "UNKNOWN_CASE"), (f"case_id,series\n{other},99\n",
                       "SERIES_NOT_FOUND"), ("a,b\n1,2\n", "BAD_CHOICES"),
                       (f"case_id,series\n{other},7\n{other},8\n", "BAD_CHOICES")):
        choice.write_text(text, encoding="utf-8")
        with pytest.raises(NeoNetError) as caught:
            write_cases(tree, out, read_choices(choice))
        assert caught.value.code == code


def test_a_study_without_the_phase_is_listed_not_lost(tree: Path, tmp_path: Path) -> None:
    write_series(tree / "x4", SeriesDescription="t2 haste", **other_study(4, "NEW-1"))
    written = write_cases(tree, tmp_path / "out" / "cases.csv")
    assert written.count == 3 and len(written.left_out) == 1
    (case_id, reason), = written.left_out.items()
    assert "T2-weighted" in reason and case_id in {row["case_id"] for row in rows_of(written.series)}
    shutil.rmtree(tree)
    write_series(tree, SeriesDescription="t2 haste")
    with pytest.raises(NeoNetError, match="series-choice") as caught:
        write_cases(tree, tmp_path / "new" / "cases.csv")
    assert caught.value.code == "NO_SERIES" and (tmp_path / "new" / "cases-series.csv").is_file()


def test_a_tree_without_dicom_or_no_tree(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "notes.txt").write_text("x")
    for path, code in ((tmp_path / "a", "NO_DICOM"), (tmp_path / "none", "FILE_NOT_FOUND")):
        with pytest.raises(NeoNetError) as caught:
            scan_tree(path)
        assert caught.value.code == code


def test_a_series_in_pieces_is_not_taken_for_a_whole_one(tree: Path) -> None:
    packed = write_series(tree.parent / "pieces", **other_study(5))
    for name, wanted in (("a", range(9)), ("b", range(9, 18))):
        with zipfile.ZipFile(tree / f"{name}.zip", "w") as archive:
            for i in wanted:
                archive.write(packed / f"{i:03d}.dcm", f"{i}.dcm")
    study = next(study for study in find_studies(tree) if study.uid.endswith(".5"))
    assert study.chosen is None and "several zips" in study.reason


def test_paths_with_a_name_are_refused_where_there_are_no_links(tree: Path, tmp_path: Path,
                                                                monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(1, "no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    with pytest.raises(NeoNetError) as caught:
        write_cases(tree, tmp_path / "out" / "cases.csv")
    assert caught.value.code == "IDENTITY_IN_PATH" and "doe" not in str(caught.value).lower()
    assert not (tmp_path / "out" / "cases.csv").exists()


def test_without_pydicom_it_says_what_to_install(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(NeoNetError, match=r"neonet-core\[dicom\]") as caught:
        scan_tree(tree)
    assert caught.value.code == "MISSING_PACKAGE"


# --- pseudonyms -------------------------------------------------------------------------------------------------------


def test_pseudonyms_are_stable_with_a_secret_and_unlike_without(tmp_path: Path) -> None:
    first, again, other = Pseudonyms.in_folder(tmp_path), Pseudonyms.in_folder(tmp_path), Pseudonyms(b"x" * 32)
    assert first.case_id("1.2", "P1") == again.case_id("1.2", " P1 ") != other.case_id("1.2", "P1")
    assert first.case_id("1.2", "P1").split("-")[0] == first.case_id("1.3", "P1").split("-")[0] == first.patient("P1")
    assert first.patient("P1") != first.patient("P2")
    assert first.patient("", "1.2") != first.patient("", "1.3")  # unknown patients are not one patient
    (tmp_path / KEY_FILE).write_text("no key")
    with pytest.raises(NeoNetError) as caught:
        Pseudonyms.in_folder(tmp_path)
    assert caught.value.code == "BAD_KEY"
    with pytest.raises(ValueError, match="at least 32"):
        Pseudonyms(b"short")


@pytest.mark.parametrize("path", ["Schroeder/1", "SCHRÖDER^J/1", "schro\u0308der/1", "03.02.1961", "x/19610203/y",
                                  "02-03-1961"])
def test_a_name_is_known_in_other_spellings(path: str, tmp_path: Path) -> None:
    patient = PATIENT | {"PatientName": "Schröder^J", "SpecificCharacterSet": "ISO_IR 192"}
    write_series(tmp_path, patient=patient, **HEPATOBILIARY)
    study = find_studies(tmp_path)[0]
    assert _names_patient(path, study) and not _names_patient("series/0001", study)


def test_a_short_name_is_known_where_it_stands_whole(tmp_path: Path) -> None:
    for name, path in (("Li^Wu", "Li_Wu/1"), ("王^小东", "data/王小东")):
        write_series(tmp_path / name, patient=PATIENT | {"PatientName": name, "SpecificCharacterSet": "ISO_IR 192"})
        assert _names_patient(path, find_studies(tmp_path / name)[0])


def test_a_damaged_file_of_another_series_does_not_matter(tmp_path: Path) -> None:
    write_series(tmp_path / "in", names=[f"a{i:02d}.dcm" for i in range(18)])
    write_series(tmp_path / "in", SeriesNumber=5, names=[f"b{i:02d}.dcm" for i in range(18)])
    sound = read_volume(tmp_path / "in", "4")
    damaged = tmp_path / "in" / "b07.dcm"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:content.index(b"\x20\x00\x0e\x00UI") + 90])  # cut off after its series' UID
    assert (read_volume(tmp_path / "in", "4").array == sound.array).all()
    for series in ("5", None):
        with pytest.raises(NeoNetError) as caught:
            read_volume(tmp_path / "in", series)
        assert caught.value.code == "UNREADABLE_FILE" and "b07.dcm" in caught.value.message
