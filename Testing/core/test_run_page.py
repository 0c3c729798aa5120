"""The report of a whole run: a page that stands alone, the same numbers in every form, reasons for what is missing."""

import html
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from made_results import add_classifier, add_segmentor, made_run, outcomes_of

from neonet_core.errors import NeoNetError
from neonet_core.experiment.reporting.charts import charts, curves
from neonet_core.experiment.reporting.checklist import TO_FILL_IN, checklists, facts
from neonet_core.experiment.reporting.checklist_items import CLAIM, TRIPOD_AI
from neonet_core.experiment.reporting.pictures import overlay_gallery
from neonet_core.experiment.reporting.report import write_report
from neonet_core.experiment.reporting.results import Results
from neonet_core.experiment.run import Run
from neonet_core.experiment.summary import summarise
from neonet_core.presets import load_preset
from neonet_core.training.files import read_json, write_json

TABLES = ("table1", "table2", "table2b", "table2c", "table3", "table4", "table5")


def copy_of(run, folder):
    shutil.copytree(run.folder, folder)
    return Run(folder)


@pytest.fixture(scope="module")
def run(tiny_run, tmp_path_factory):
    """A real run with segmentation, VAE and PattenNet of both folds, and made-up results beside them."""
    run = copy_of(tiny_run, tmp_path_factory.mktemp("page") / "run")
    outcomes = {row["case_id"]: row["outcome"] for fold in (0, 1)
                for row in run.current(fold, "cls-pattennet")["figures"]["predictions"]}
    for seed, (model, ratio) in enumerate((("PattenNet", 100), ("Swin", 0), ("Swin", 100), ("Volume", 0),
                                           ("PattenNet-channel", 100), ("DenseNet-121", 100))):
        add_classifier(run, model, ratio, seed=seed, outcomes=outcomes,
                       folds=(1,) if model == "DenseNet-121" else None,
                       patients={name: name for name in outcomes})
    add_segmentor(run, "DynUNet", folds=(0,))
    return run


@pytest.fixture(scope="module")
def out(run):
    path = write_report(run, device="cpu")
    assert path.name == "report.html"
    return path.parent


@pytest.fixture(scope="module")
def page(out):
    return (out / "report.html").read_text(encoding="utf-8")


def words(page):
    text = re.sub(r"<style>.*?</style>", "", re.sub(r"base64,[A-Za-z0-9+/=]*", "", page), flags=re.S)
    return html.unescape(re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", text))).replace("\xa0", " ")


def numbers(text):
    return set(re.findall(r"\d+\.\d{3}", text))


# --- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_stands_alone_and_names_no_case(run, page):
    sources = re.findall(r"(?:src|href|srcset|action|data)\s*=\s*\"([^\"]{0,22})", page)
    assert len(sources) >= 5 and all(source.startswith("data:image/png;base64,") for source in sources)
    for forbidden in ("<script", "url(", "@import", "http://", "https://", "<link", str(run.folder)):
        assert forbidden not in page
    assert not any(name in page for name in read_json(run.folder / "quality.json")["included"])
    assert page.count("<img ") == len(re.findall(r"<img [^>]*alt=\"[^\"]+\"", page))


def test_the_page_is_well_formed(page):
    class Checker(HTMLParser):
        def __init__(self):
            super().__init__()
            self.open = []

        def handle_starttag(self, tag, attrs):
            if tag not in ("meta", "img", "br"):
                self.open.append(tag)

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

    checker = Checker()
    checker.feed(page)
    assert not checker.open


def test_notice_protocol_and_all_tables_stand_in_the_page(page):
    text = words(page)
    assert "Research use only" in text and "protocol rigorous" in text and "Preset tiny" in text
    for title in ("Table 1:", "Table 2:", "Table 2b:", "Table 2c:", "Table 3:", "Table 4:", "Table 5:", "TRIPOD+AI",
                  "CLAIM 2024", "ROC curves", "Calibration", "Decision curve", "Label maps"):
        assert title in text
    assert "0.7903" in text and "0.9516" in text, "the paper's figures stand beside ours"


def test_every_file_holds_the_same_numbers(out, page):
    markdown, latex = ((out / f"report.{suffix}").read_text(encoding="utf-8") for suffix in ("md", "tex"))
    tables_of_page = words(page).split("Segmentation (NeoSeg)")[1].split("Reporting checklists")[0]
    assert len(numbers(latex)) > 30
    assert numbers(latex) == numbers(markdown) == numbers(tables_of_page)


def test_every_table_has_a_csv_with_more_than_its_header(out):
    for name in TABLES:
        lines = (out / f"{name}.csv").read_text(encoding="utf-8").splitlines()
        assert len(lines) > 1 and {"protocol", "missing"} - ({"missing"} if name in ("table2b", "table2c") else set()) \
            <= set(lines[0].split(","))


def test_missing_cells_say_why(out):
    text = (out / "report.md").read_text(encoding="utf-8")
    assert "| SegResNet | not run | not run | not run |" in text
    assert "DynUNet: fold 1 not run." in text
    assert "DenseNet-121, R+S 100 %: fold 0 not run." in text
    assert "No picture: no synthetic patches" in text


def test_pictures_are_files_and_in_the_page(out, page):
    drawn = {path.stem for path in out.glob("*.png")}
    assert drawn == {"labels", "reconstructions", "roc", "reliability", "decision"}
    assert page.count("data:image/png") == len(drawn)
    assert all(f"]({name}.png)" in (out / "report.md").read_text(encoding="utf-8") for name in drawn)


def test_a_picture_of_an_earlier_report_does_not_stay(run, tmp_path):
    copy = copy_of(run, tmp_path / "run")
    out = tmp_path / "out"
    out.mkdir()
    (out / "patches.png").write_bytes(b"of before")
    write_report(copy, out, device="cpu")
    assert not (out / "patches.png").exists()


def test_a_name_with_special_characters_is_escaped(tmp_path):
    run = made_run(tmp_path / "run", load_preset("paper"), outcome="a_<b>|$x$ & 100%")
    add_classifier(run, "PattenNet", outcomes=outcomes_of(run))
    out = write_report(run, device="cpu").parent
    page, markdown, latex = ((out / f"report.{suffix}").read_text(encoding="utf-8") for suffix in ("html", "md", "tex"))
    assert "<b>|" not in page and "a_&lt;b&gt;|$x$ &amp; 100%" in page
    assert r"a\_\<b>\|$x$ & 100%" in markdown
    assert r"a\_\textless{}b\textgreater{}\textbar{}\$x\$ \& 100\%" in latex


def test_the_papers_protocol_is_called_optimistic_in_plain_words(tmp_path):
    run = made_run(tmp_path / "run", load_preset("paper"))
    add_classifier(run, "PattenNet", outcomes=outcomes_of(run))
    page = words(write_report(run, device="cpu").read_text(encoding="utf-8"))
    below_table_2 = page.split("Table 2: AUC")[1].split("Table 2b")[0]
    assert "picked on the very fold whose figures stand here: they are optimistic" in below_table_2


# --- runs that hold only a part ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kept", ["seg", "cls"])
def test_a_part_of_a_run_has_its_report(tiny_run, tmp_path, kept):
    run = copy_of(tiny_run, tmp_path / "run")
    for fold in (0, 1):
        for folder in (run.folder / f"fold-{fold}").iterdir():
            if folder.is_dir() and not folder.name.startswith(kept):
                shutil.rmtree(folder)
        done = run.stage_folder(fold, "cls-pattennet") / "inputs.json"
        if done.is_file():  # a classifier that needs no autoencoder would remain: make this one such
            inputs = read_json(done)
            inputs.pop("after", None)
            write_json(done, inputs)
    text = write_report(run, device="cpu").with_name("report.md").read_text(encoding="utf-8")
    assert "| VAE | – |" in text and "VQ-VAE, VAE: not run." in text
    assert ("| UNet | not run |" in text) == (kept == "cls")
    assert ("| PattenNet | not run" in text) == (kept == "seg")


@pytest.mark.parametrize(("network", "changes"), [
    ("TwoStep", ["seg.network=TwoStep", "seg.spacing=[1, 1, 3]"]), ("SwinUNETR", ["seg.network=UNet"])])
def test_a_run_reports_the_segmentation_network_that_it_has(tmp_path, network, changes):
    """TwoStep is not in the paper, and ``--models`` may name another network than the preset does."""
    run = made_run(tmp_path / "run", load_preset("paper", changes))
    add_segmentor(run, network)
    page = write_report(run, device="cpu")
    mean = np.mean([run.current(fold, f"seg-{network.lower()}")["figures"]["dice"] for fold in range(5)])
    assert f"Dice, {network}" in words(page.read_text(encoding="utf-8"))
    row = next(line for line in page.with_name("report.md").read_text(encoding="utf-8").splitlines()
               if line.startswith(f"| {network} |"))
    assert f"{mean:.3f}" in row and ("not in the paper" in row) == (network == "TwoStep")
    assert summarise(run).metrics["dice"]["mean"] == pytest.approx(mean)


def test_a_run_without_prepared_images_still_has_its_tables(run, out, tmp_path):
    copy = copy_of(run, tmp_path / "run")
    shutil.rmtree(copy.folder / "prepared")
    text = write_report(copy, device="cpu").with_name("report.md").read_text(encoding="utf-8")
    assert "lacks the prepared images" in text and "prepared images that it needs are not in the run" in text
    assert "| UNet | 0." in text


def test_nothing_trained_is_refused(tmp_path):
    with pytest.raises(NeoNetError) as caught:
        write_report(made_run(tmp_path / "run", load_preset("paper")), device="cpu")
    assert caught.value.code == "NOTHING_TRAINED"


# --- charts and pictures ----------------------------------------------------------------------------------------------


def test_the_best_baselines_are_drawn(tmp_path):
    run = made_run(tmp_path / "run", load_preset("paper"))
    outcomes = outcomes_of(run)
    for seed, (model, signal) in enumerate((("ResNet-50", 0.1), ("Swin", 3), ("DenseNet-121", 2), ("PattenNet", 1),
                                            ("Volume", 0.2))):
        add_classifier(run, model, 100 if model != "Volume" else 0, signal, seed, outcomes=outcomes)
    names = [curve.name for curve in curves(Results(run))]
    assert names == ["PattenNet, R+S 100 %", "Swin Transformer, R+S 100 %", "DenseNet-121, R+S 100 %",
                     "Tumour volume alone"]
    assert all(picture.data.startswith(b"\x89PNG") for picture in charts(Results(run)))


def test_charts_without_classifiers_say_so(tmp_path):
    run = made_run(tmp_path / "run", load_preset("paper"))
    assert all(picture.data is None and "not run" in picture.caption for picture in charts(Results(run)))


def test_an_overlay_shows_truth_and_prediction_in_radiological_convention():
    image, truth, predicted = np.zeros((20, 16, 8), np.float32), *np.zeros((2, 20, 16, 8), np.uint8)
    truth[2:18, 2:14, 3], truth[14:17, 10:13, 3] = 1, 2
    predicted[4:16, 4:12, 3] = 1
    figure = overlay_gallery([image], [truth], [predicted], [(1.0, 2.0, 3.0)], ["Dice $x$"], "U_$Net")
    left, right = figure.axes
    orange = left.collections[1].get_paths()[0].vertices.mean(axis=0)
    liver = left.collections[0].get_paths()[0].vertices.mean(axis=0)
    assert orange[0] < liver[0] and orange[1] < liver[1]  # right anterior: up and left
    assert len(right.collections) == 1, "no tumour is predicted"


# --- LaTeX and checklists ---------------------------------------------------------------------------------------------


def test_latex_is_balanced_and_compiles_where_it_can(out, tmp_path):
    text = (out / "report.tex").read_text(encoding="utf-8")
    bare = re.sub(r"\\[\\{}&%$#_]", "", text)
    assert bare.count("{") == bare.count("}") and bare.count("$") % 2 == 0
    for environment in ("table", "tabular", "adjustbox", "itemize"):
        assert text.count(rf"\begin{{{environment}}}") == text.count(rf"\end{{{environment}}}") == len(TABLES)
    for tabular in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, flags=re.S):
        rows = [line for line in tabular[1].splitlines() if line.endswith(r"\\")]
        assert len(rows) > 1 and all(len(re.findall(r"(?<!\\)&", row)) == len(tabular[0]) - 1 for row in rows)
    if shutil.which("pdflatex"):
        subprocess.run(["pdflatex", "-interaction=nonstopmode", "-halt-on-error", out / "report.tex"], cwd=tmp_path,
                       check=True, capture_output=True)


def test_checklists_have_every_item_once_and_each_an_answer(run, out):
    tripod, claim = checklists(Results(run))
    assert [row[0] for row in claim.rows] == [str(number) for number in range(1, 45)]
    mains = list(dict.fromkeys(re.match(r"\d+", row[0])[0] for row in tripod.rows))
    assert mains == [str(number) for number in range(1, 28)]
    assert len({row[0] for row in tripod.rows}) == len(tripod.rows) == 52
    for row in (*tripod.rows, *claim.rows):
        assert row[1] and row[2]
    text = (out / "checklist.md").read_text(encoding="utf-8")
    assert "TRIPOD+AI" in text and "CLAIM 2024" in text and TO_FILL_IN in text


def test_every_fact_is_used_and_every_key_is_known(run):
    keys = {key for *_, key in (*TRIPOD_AI, *CLAIM) if key}
    assert keys == set(facts(Results(run)))


def test_the_checklist_tells_what_was_done_about_unequal_classes(tmp_path):
    run = made_run(tmp_path / "run", load_preset("paper"))
    assert facts(Results(run))["imbalance"].startswith("Nothing was done about it. Nothing is recalibrated")
    add_classifier(run, "PattenNet", 50, outcomes=outcomes_of(run))
    assert facts(Results(run))["imbalance"].startswith(
        "Synthetic cases of the rarer outcome (1) are added (R+S 50 %; 100 %: classes even). Nothing is")
    more = made_run(tmp_path / "more", load_preset("paper"), positives=26)
    add_classifier(more, "PattenNet-duplicated", outcomes=outcomes_of(more))
    assert facts(Results(more))["imbalance"].startswith("Control: cases of the rarer outcome (0) are repeated. Nothing")
    add_classifier(more, "PattenNet-weighted", outcomes=outcomes_of(more))
    assert "Control: classes are weighted." in facts(Results(more))["imbalance"]


def test_the_checklist_names_no_command_that_is_not_there_and_says_whose_masks_are_used(run):
    known = facts(Results(run))
    assert "neonet evaluate" not in " ".join(known.values())
    assert "annotated ones, for training and for held-out patients" in known["predictors"]


def test_at_a_glance_counts_only_folds_with_an_auc(tmp_path):
    run = made_run(tmp_path / "run", load_preset("paper"))
    split = read_json(run.folder / "folds.json")["validation"]
    for ratio in (0, 100):
        add_classifier(run, "PattenNet", ratio, outcomes=outcomes_of(run) | dict.fromkeys(split[1], 0),
                       synthetic={2: 0})
    glance = words(write_report(run, device="cpu").read_text(encoding="utf-8")).split("Protocol paper")[0]
    assert glance.count("mean of 4 of 5 folds") == 2 and "mean of 5 of 5 folds" not in glance
    assert glance.count("no synthetic case in fold 2") == 1


def test_checklists_hold_what_the_run_knows_and_no_case(tmp_path):
    run = made_run(tmp_path / "run", load_preset("paper"), cases=40, positives=14, seed=5)
    add_classifier(run, "PattenNet", 100, outcomes=outcomes_of(run))
    known = facts(Results(run))
    assert known["flow"] == ("42 cases listed, 2 left out (2 NO_TUMOUR), 40 used: 14 with outcome 1, 26 with outcome "
                             "0; 40 patients.")
    assert "seed 5" in known["split"] and "5-fold" in known["split"] and "optimistic" in known["split"]
    assert "torch 2.8" in known["software"] and "PattenNet" in known["model"]
    assert "R+S 100 %: pooled AUC 0." in known["performance"] and "Protocol paper" in known["performance"]
    assert "secret" not in json.dumps(known) and "case-0" not in json.dumps(known)
