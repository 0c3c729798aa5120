"""`neonet report`: tables 3 and 4 of a run, each number with the name of what measured it, and its pictures."""

import csv
import json
import math
import shutil

import numpy as np
import pytest
import torch
from made_results import made_run

from neonet_core.cli import main
from neonet_core.cohort import read_manifest
from neonet_core.errors import NeoNetError
from neonet_core.events import Silent
from neonet_core.experiment.images import label_patch, measure_images, move_tumour, real_patches
from neonet_core.experiment.reporting.gallery import patches
from neonet_core.experiment.reporting.image_tables import generation_table, reconstruction_table
from neonet_core.experiment.reporting.paper import TABLE_3, TABLE_4
from neonet_core.experiment.reporting.report import copies_lines, write_report
from neonet_core.experiment.reporting.results import Results
from neonet_core.experiment.reporting.tables import Table
from neonet_core.experiment.run import Run
from neonet_core.experiment.train import train
from neonet_core.presets import load_preset
from neonet_core.volume import Volume, read_volume, write_volume

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def run(generator_run, tmp_path_factory):
    """A copy that may be written into."""
    folder = tmp_path_factory.mktemp("report") / "run"
    shutil.copytree(generator_run.folder, folder)
    return Run(folder)


@pytest.fixture(scope="module")
def report(run):
    return write_markdown(run)


def write_markdown(run):
    return write_report(run, device="cpu").with_name("report.md")


def figures_of(run):
    return json.loads((run.folder / "fold-0" / "images.json").read_text(encoding="utf-8"),
                      parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))["figures"]


def test_all_rows_of_both_tables_come_from_one_command(run, report):
    figures = figures_of(run)
    assert set(figures["reconstruction"]) == set(TABLE_3)
    assert set(figures["samples"]) == set(TABLE_4)
    for name, rows in (("table3", 2), ("table4", 4)):
        with open(report.parent / f"{name}.csv", encoding="utf-8", newline="") as stream:
            table = list(csv.DictReader(stream))
        assert len(table) == rows
        for row in table:
            assert (row["protocol"], row["folds_done"], row["folds"]) == ("rigorous", "1", "2")
            assert row["missing"].startswith("fold 1 not run")
            measure = "ssim" if name == "table3" else "frechet_mean"
            assert math.isfinite(float(row[f"{measure}_mean_of_folds"]))
            assert row[f"{measure}_fold_0"] == row[f"{measure}_mean_of_folds"]
            assert row[f"{measure}_sd_of_folds"] == row[f"{measure}_fold_1"] == ""
            assert "NeoSeg" in row["perceptual_name" if name == "table3" else "frechet_name"]


def test_numbers_stand_with_their_protocol_and_their_judge(report):
    text = report.read_text(encoding="utf-8")
    assert "protocol rigorous" in text and "folds 0 of 2" in text
    assert "Frechet distance on NeoSeg" in text and "FID ↓" not in text, "only Inception's features make a FID"
    assert "Perceptual distance on NeoSeg" in text
    assert "Research use only" in text
    assert "floor" in text
    assert (report.parent / "patches.png").read_bytes().startswith(b"\x89PNG")


def test_samples_and_real_patches_are_counted_equally(run, report):
    for row in figures_of(run)["samples"].values():
        assert row["patches"] == min(2, len(real_patches(run, 0, "vae").held_out))
        assert set(row["frechet"]) == {"axial", "sagittal", "coronal", "mean"}


def test_each_row_of_the_picture_is_one_patient(run, monkeypatch, tmp_path):
    """Also where the generators' samples lie in different orders."""
    shown = {}
    monkeypatch.setattr("neonet_core.experiment.reporting.gallery.patch_gallery",
                        lambda real, cases, columns, outcome_name: shown.update(
                            real=real, cases=cases, columns=columns, outcome_name=outcome_name))
    copy = tmp_path / "run"
    shutil.copytree(run.folder, copy)
    folder = copy / "fold-0" / "synth-vqvae" / "evaluation"
    for suffix in (".json", ".nii.gz", "_mask.nii.gz"):
        first, second = folder / f"sample-0000{suffix}", folder / f"sample-0001{suffix}"
        first.rename(folder / "kept")
        second.rename(first)
        (folder / "kept").rename(second)
    assert isinstance(patches(Results(Run(copy))), tuple)
    assert set(shown["columns"]) == {"NeoGen", "QNeoGen"} and len(shown["cases"]) == 2
    assert shown["outcome_name"] == "pni", "the cohort's own outcome, not always PNI"
    for samples in shown["columns"].values():
        assert np.array_equal(samples.masks, shown["real"].masks[shown["cases"]])


def test_samples_of_other_settings_are_neither_measured_nor_shown(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run.folder, copy)
    settings = json.loads((copy / "settings.json").read_text(encoding="utf-8"))
    settings["preset"]["ldm"]["epochs"] += 1
    (copy / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    text = write_markdown(Run(copy)).read_text(encoding="utf-8")
    assert "patches.png" not in text and "Copies" not in text
    assert "NeoGen DM, NeoGen: fold 0 trained with other settings" in text and "| VAE | –" not in text


def test_black_samples_cost_their_distance_and_not_the_report(run, report, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run.folder, copy)
    for path in (copy / "fold-0" / "synth-vae" / "evaluation-dm").glob("sample-????.nii.gz"):
        image = read_volume(path)
        write_volume(Volume(np.zeros_like(image.array), image.affine), path)
    (copy / "fold-0" / "images.json").unlink()
    text = write_markdown(Run(copy)).read_text(encoding="utf-8")
    assert "NeoGen DM: fold 1 not run; fold 0 without distances: its samples are empty." in text
    assert "| NeoGen DM<br>1 of 2 folds | – | – |" in text and "| NeoGen<br>1 of 2 folds | – |" not in text


def test_missing_prepared_images_are_said_and_come_back(run, unequal_cohort, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run.folder, copy)
    shutil.rmtree(copy / "prepared")
    with pytest.raises(NeoNetError) as caught:
        real_patches(Run(copy), 0, "vae")
    assert caught.value.code == "NOT_PREPARED"
    train(read_manifest(unequal_cohort), load_preset("tiny"), copy, folds=(0,), stages=("vae",), device="cpu")
    again = real_patches(Run(copy), 0, "vae").learning
    assert np.array_equal(again.images, real_patches(run, 0, "vae").learning.images)


def test_the_share_of_neighbours_is_left_out_where_the_masks_draw_it(run):
    """Samples on held-out masks lie nearer to held-out patients, copies or not."""
    check = {**figures_of(run)["copies"], "part": "evaluation"}
    assert "Share nearer" not in copies_lines([check])[0] and "held-out patients" in copies_lines([check])[0]


def test_held_out_patches_are_held_out(run):
    real = real_patches(run, 0, "vae")
    folds = json.loads((run.folder / "folds.json").read_text(encoding="utf-8"))
    assert set(real.held_out_ids) == set(folds["validation"][0])
    assert not set(real.held_out_ids) & set(real.learning_ids)
    assert len(real.held_out) == len(real.held_out_ids) and len(real.learning) == len(real.learning_ids)


def test_measured_once(run, report, monkeypatch):
    monkeypatch.setattr("neonet_core.experiment.images._reconstruction",
                        lambda *_: pytest.fail("was measured already"))
    assert measure_images(run, 0, CPU, Silent()) == figures_of(run)


def test_what_is_not_trained_is_said(tmp_path):
    results = Results(made_run(tmp_path / "run", load_preset("paper")))
    table = generation_table(results, {})
    assert all(cell is None for row in table.rows for cell in row[1:-1])
    assert "QNeoGen DM, QNeoGen, NeoGen DM, NeoGen: not run." in table.notes
    assert "VQ-VAE, VAE: not run." in reconstruction_table(results, {}).notes
    assert all(record["missing"] == "not run" and record["folds_done"] == 0 for record in table.records)


def two_folds(run):
    """The figures of fold 0, twice."""
    return {0: figures_of(run), 1: figures_of(run)}


def test_every_judge_is_named(run, report):
    folds, results = two_folds(run), Results(run)
    folds[1]["judges"] = {"features": "x", "perceptual": "another distance", "segmentor": "another network"}
    assert any("another distance" in note for note in reconstruction_table(results, folds).notes)
    assert any("another network" in note for note in generation_table(results, folds).notes)


def test_a_row_with_fewer_folds_says_so(run, report):
    """VQ-VAE and QNeoGen lack fold 1, and one sample set of NeoGen its distances there."""
    folds = two_folds(run)
    del folds[1]["reconstruction"]["vqvae"], folds[1]["samples"]["QNeoGen"]
    for measure in ("frechet", "kernel", "frechet_floor"):
        del folds[1]["samples"]["NeoGen"][measure]
    folds[1]["reconstruction"]["vae"]["ssim"] = folds[0]["reconstruction"]["vae"]["ssim"] + 0.2
    table3, table4 = (table(Results(run), folds) for table in (reconstruction_table, generation_table))
    vqvae, vae = table3.rows
    assert vqvae[0] == ("VQ-VAE", "1 of 2 folds") and vae[0] == "VAE"
    record = table3.records[1]
    assert record["ssim_mean_of_folds"] == pytest.approx(folds[0]["reconstruction"]["vae"]["ssim"] + 0.1)
    assert record["ssim_sd_of_folds"] == pytest.approx(0.2 / math.sqrt(2)) and record["folds_done"] == 2
    rows = {table4.lines(row[0])[0]: row for row in table4.rows}
    assert rows["QNeoGen"][0] == ("QNeoGen", "1 of 2 folds") and rows["NeoGen"][0] == "NeoGen"
    assert rows["NeoGen"][1][1] == "1 of 2 folds" and len(rows["NeoGen"][1][0]) == 1
    assert isinstance(rows["NeoGen"][8], list), "the Dice is there in both folds"
    assert "fold 1 without distances" in next(one for one in table4.records if one["name"] == "NeoGen")["missing"]


def test_the_papers_protocol_is_told_as_it_is_for_generators(tmp_path):
    """No epoch of theirs is picked on held-out patients; the AUC's simulation has no place here."""
    results = Results(made_run(tmp_path / "run", load_preset("paper")))
    notes = [" ".join(table(results, {}).notes) for table in (reconstruction_table, generation_table)]
    assert all("true AUC" not in text and "optimistic" not in text for text in notes)
    assert all(text.count("Autoencoder, diffusion model and ControlNet keep their last epoch") == 1 for text in notes)


def test_a_cell_of_several_folds_is_mean_and_spread():
    table = Table("t", "T", ["name", "x"], [["a", [1.0, 2.0, 3.0]], ["b", None], ["c", [0.25]]])
    text = table.markdown()
    assert "| a | 2 ± 1 |" in text and "| b | – |" in text and "| c | 0.25 |" in text
    assert table.csv().splitlines() == ["name,x", "a,2.0", "b,", "c,0.25"]


def test_a_run_of_which_nothing_is_done_has_nothing_to_report(tmp_path, run):
    copy = tmp_path / "run"
    shutil.copytree(run.folder, copy)
    for stage in (copy / "fold-0").iterdir():
        if stage.is_dir():
            shutil.rmtree(stage)
    with pytest.raises(NeoNetError) as caught:
        write_report(Run(copy), device="cpu")
    assert caught.value.code == "NOTHING_TRAINED"


@pytest.mark.parametrize("option", ["--weights", "--lpips"])
def test_weights_that_are_no_safetensors_are_refused(run, tmp_path, capsys, option):
    weights = tmp_path / "weights.pth"
    weights.write_bytes(b"\x80\x02cos\nsystem\n")
    rc = main(["report", str(run.folder), "--out", str(tmp_path / "out"), "--device", "cpu", "--json", option,
               str(weights)])
    assert rc == 2
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["code"] in {"BAD_WEIGHTS", "MISSING_PACKAGE"}


def test_a_patch_is_segmented_with_the_intensities_of_its_image():
    """A patch of one organ must not be stretched to the range of a whole image; and grids may differ."""
    from neonet_core.segmentation.inference import Segmentor

    class Threshold(torch.nn.Module):
        def forward(self, image):
            return torch.cat([0.5 - image, image - 0.5, torch.full_like(image, -9)], dim=1) * 50

    segmentor = Segmentor(Threshold(), load_preset("tiny").seg, (4.0, 4.0, 4.0))
    patch = np.full((32, 32, 16), 0.4, np.float32)
    patch[16:] = 0.6
    labels = label_patch(patch, (2.0, 2.0, 4.0), segmentor, CPU)
    assert labels.shape == patch.shape
    assert not labels[:14].any() and (labels[18:-1, 1:-1, 1:-1] == 1).all()


def test_a_moved_tumour_stays_a_valid_mask():
    masks = np.zeros((2, 32, 32, 16), np.uint8)
    masks[0, 4:28, 4:28, 2:14] = 1
    masks[1, 10:18, 12:20, 5:10] = 1
    moved = move_tumour(masks)
    assert moved[1].sum() == masks[1].sum() and not np.array_equal(moved, masks)
    assert (moved[1] <= moved[0]).all() and (masks[0] <= moved[0]).all()


def test_a_tumour_at_the_patchs_edge_does_not_leave_it():
    masks = np.zeros((2, 32, 32, 16), np.uint8)
    masks[:, 31:, 12:20, 5:10] = 1
    assert move_tumour(masks)[1].any()
