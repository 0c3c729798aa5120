"""Scores in the scene: one table a volume, with all that the panel, the CSV file and the report need.

The table has a row a run. What was found, and a digest of what it was found on, is kept as JSON in an attribute of the
table (exact, and it survives an .mrb file); the columns are made from it. The attention map and the report of the
latest run are nodes that the table refers to. No name of a node, file or patient goes into the table or the CSV file.
"""

import base64
import csv
import datetime
import hashlib
import html
import json
import math
import struct
import zlib
from dataclasses import dataclass

import numpy as np
import qt
import slicer
import vtk
from slicer.i18n import tr as _
from slicer.util import VTKObservationMixin

from NeoNetLib import nodes

ATTRIBUTE = "NeoNet.Results"
VOLUME, SEGMENTATION, ATTENTION, REPORT = "volume", "segmentation", "attention", "report"  # what the table refers to
SETTLING_MS = 300
"""A stroke of the brush is many events; the content is compared when they have ended."""
CLOSE_MM = 1e-3
"""Two geometries nearer than this are one: files keep fewer digits than memory does."""

DEMO_FLAG = "DEMO_MODEL"
NO_SCORE_FLAGS = ("NO_TUMOUR", "NO_PNI_MODEL")

POSITIVE, NEGATIVE, CASE, QUIET = (224, 102, 10), (40, 130, 195), (146, 108, 214), (128, 128, 128)
"""Colours that can be read on a light and on a dark ground."""
STRIP_WIDTH, STRIP_HEIGHT, SCALE = 250, 30, 2


@dataclass(frozen=True)
class Run:
    """One scoring of a volume.

    Attributes
    ----------
    time : str
        When, ISO 8601, local.
    score : dict
        The content of ``score.json``.
    inputs : dict
        Digest of what was scored, see `inputsOf`.
    training : dict
        The training cohort's out-of-fold scores, in [0, 1]: ``{"negative": [...], "positive": [...]}``.
    """

    time: str
    score: dict
    inputs: dict
    training: dict

    @property
    def probability(self):
        return self.score["probability"]

    @property
    def isDemo(self):
        return any(flag["code"] == DEMO_FLAG for flag in self.score["flags"])


# --- the table -------------------------------------------------------------------------------------------------------


def tableOf(volumeNode):
    """The results table of a volume, or None."""
    if volumeNode is None:
        return None
    for table in slicer.util.getNodesByClass("vtkMRMLTableNode"):
        if table.GetAttribute(ATTRIBUTE) and table.GetNodeReferenceID(VOLUME) == volumeNode.GetID():
            return table
    return None


def runs(table):
    """All runs in a results table, the oldest first."""
    content = _content(table)
    return [
        Run(run["time"], run["score"], run["inputs"], content["training"].get(run["score"]["bundle"]["hash"], {}))
        for run in content["runs"]
    ]


def latest(table):
    """The last run in a results table; None without table or run."""
    found = runs(table) if table is not None else []
    return found[-1] if found else None


def addRun(volumeNode, segmentationNode, inputs, score, outOfFold, attentionNode, report):
    """Add a run to the volume's table, which is made where there is none.

    Parameters
    ----------
    volumeNode, segmentationNode : MRML nodes
        What was scored.
    inputs : dict
        `inputsOf` these, taken when the job began.
    score : dict
        The content of ``score.json``.
    outOfFold : list of (outcome, score)
        The training cohort's scores, as `catalogue.BundleInfo` has them.
    attentionNode : vtkMRMLScalarVolumeNode or None
        Replaces the one of the run before.
    report : str
        The HTML page.

    Returns
    -------
    vtkMRMLTableNode
    """
    table = tableOf(volumeNode)
    if table is None:
        table = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTableNode", _("NeoNet results"))
        table.SetNodeReferenceID(VOLUME, volumeNode.GetID())
        nodes.placeBeside(table, volumeNode)
    content = _content(table)
    content["runs"].append(
        {"time": datetime.datetime.now().isoformat(timespec="seconds"), "score": score, "inputs": inputs}
    )
    content["training"][score["bundle"]["hash"]] = {
        name: sorted(round(value, 4) for outcome, value in outOfFold if outcome == number)
        for name, number in (("negative", 0), ("positive", 1))
    }
    modified = table.StartModify()
    table.SetAttribute(ATTRIBUTE, json.dumps(content))
    table.SetNodeReferenceID(SEGMENTATION, segmentationNode.GetID())
    _replaceAttention(table, attentionNode)
    _setReport(table, volumeNode, report)
    _fillColumns(table)
    table.EndModify(modified)
    return table


def attentionOf(table):
    """The attention map of the latest run, or None."""
    return table.GetNodeReference(ATTENTION) if table is not None else None


def _content(table):
    text = table.GetAttribute(ATTRIBUTE)
    return json.loads(text) if text else {"runs": [], "training": {}}


def _replaceAttention(table, attentionNode):
    old = table.GetNodeReference(ATTENTION)
    table.SetNodeReferenceID(ATTENTION, attentionNode.GetID() if attentionNode is not None else None)
    if old is not None and old != attentionNode:
        nodes.remove(old)


def _setReport(table, volumeNode, report):
    node = table.GetNodeReference(REPORT)
    if node is None:
        node = slicer.mrmlScene.AddNewNodeByClass("vtkMRMLTextNode", _("NeoNet report"))
        nodes.placeBeside(node, volumeNode)
        table.SetNodeReferenceID(REPORT, node.GetID())
    node.SetText(report)


def _fillColumns(table):
    rows = [row(run) for run in runs(table)]
    table.RemoveAllColumns()
    for name in rows[0]:
        values = [one[name] for one in rows]
        numbers = not any(isinstance(value, str) for value in values)
        column = vtk.vtkDoubleArray() if numbers else vtk.vtkStringArray()
        column.SetName(name)
        for value in values:
            column.InsertNextValue(math.nan if value is None else value)
        table.AddColumn(column)


def row(run):
    """A run as a row of the table and of the CSV file: names of the columns and str, float or None."""
    score, measured, crop = run.score, run.score["measurements"], run.score["crop"] or {}
    center = crop.get("center_ras_mm") or [None] * 3
    return {
        "time": run.time,
        "outcome": score["outcome"],
        "probability": score["probability"],
        "spread": score["spread"],
        "members": " ".join(map(repr, score["members"])),
        "threshold": score["threshold"],
        "bundle": score["bundle"]["name"],
        "version": score["bundle"]["version"],
        "hash": score["bundle"]["hash"],
        "tumour_ml": measured["tumour_ml"],
        "tumour_diameter_mm": measured["tumour_diameter_mm"],
        "tumours": float(measured["tumours"]),
        "liver_ml": measured["liver_ml"],
        "tumour_share": measured["tumour_share"],
        "crop_r_mm": center[0],
        "crop_a_mm": center[1],
        "crop_s_mm": center[2],
        "crop_coverage": crop.get("coverage"),
        "flags": " ".join(flag["code"] for flag in score["flags"]),
        "notice": score["notice"],
    }


def exportCsv(table, path):
    """Write all runs of a results table as a CSV file, every number with all its digits."""
    rows = [row(run) for run in runs(table)]
    with open(path, "w", newline="", encoding="utf-8-sig") as file:  # the mark tells Excel that it is UTF-8
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def exportReport(table, path):
    """Write the HTML report of the latest run. Raises ValueError if its node was deleted."""
    node = table.GetNodeReference(REPORT)
    if node is None or not node.GetText():
        raise ValueError(_("The report was deleted from the scene: score again to make it anew."))
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        file.write(node.GetText())


# --- is the score still that of what is seen? ------------------------------------------------------------------------


def inputsOf(volumeNode, segmentationNode, liverId, tumourId, bundle, cropOptions):
    """Digest of what a score rests on: equal content gives equal digests, in another session and scene, too.

    Parameters
    ----------
    bundle : catalogue.BundleInfo
    cropOptions : list of str
        As for the command; empty while the crop follows the tumour.

    Returns
    -------
    dict
        ``volume``, ``affine``, ``labels``, ``bundle`` and ``crop``; an entry is None where its node is None.
    """
    return {
        "volume": volumeDigest(volumeNode),
        "affine": nodes.localAffine(volumeNode).tolist() if volumeNode is not None else None,
        "labels": labelDigest(segmentationNode, liverId, tumourId, volumeNode),
        "bundle": bundle.hash if bundle is not None else None,
        "crop": list(cropOptions),
    }


def volumeDigest(volumeNode):
    """Digest of a volume's voxels; None without voxels."""
    if volumeNode is None or volumeNode.GetImageData() is None:
        return None
    return _digest(slicer.util.arrayFromVolume(volumeNode))


def labelDigest(segmentationNode, liverId, tumourId, volumeNode):
    """Digest of liver and tumour on the volume's grid; None where one of the nodes is missing."""
    if segmentationNode is None or volumeNode is None or volumeNode.GetImageData() is None:
        return None
    return _digest(nodes.labelMapArray(segmentationNode, liverId, tumourId, volumeNode))


def _digest(array):
    array = np.ascontiguousarray(array)
    return f"{array.dtype.str}{array.shape}{hashlib.sha256(array).hexdigest()}"


def staleMessage(then, now):
    """What has changed since a run, as one sentence that says what to do; "" if nothing has.

    Parameters
    ----------
    then, now : dict
        See `inputsOf`.
    """
    if then["volume"] != now["volume"] or not _sameGeometry(then["affine"], now["affine"]):
        return _("The volume was changed: score again.")
    if then["labels"] != now["labels"]:
        return _("The segmentation was edited: score again.")
    if then["crop"] != now["crop"]:
        return _("The crop was moved: score again.")
    if then["bundle"] != now["bundle"]:
        return _("Another model is chosen: score again.")
    return ""


def _sameGeometry(one, other):
    return None not in (one, other) and np.allclose(one, other, rtol=0, atol=CLOSE_MM)


class InputWatch(VTKObservationMixin):
    """Watches what a score rests on, and says when it may have changed: once the user's hand rests.

    Parameters
    ----------
    onChanged : callable
        Called from the event loop, `SETTLING_MS` after the last event.
    """

    def __init__(self, onChanged):
        VTKObservationMixin.__init__(self)
        self._watched = ()
        self._timer = qt.QTimer()
        self._timer.setSingleShot(True)
        self._timer.setInterval(SETTLING_MS)
        self._timer.connect("timeout()", onChanged)

    def watch(self, *watched):
        """Watch these nodes (volume, segmentation, markups; each may be None) and no others."""
        if watched == self._watched:
            return
        self.release()
        self._watched = watched
        for node in watched:
            for event in _eventsOf(node):
                self.addObserver(node, event, self._heard)

    def release(self):
        """Watch nothing any more."""
        self._timer.stop()
        self.removeObservers()
        self._watched = ()

    def _heard(self, caller=None, event=None):
        self._timer.start()


def _eventsOf(node):
    """The events by which a node says that its content, or its place in the world, may have changed."""
    if node is None:
        return ()
    events = [slicer.vtkMRMLTransformableNode.TransformModifiedEvent]
    if node.IsA("vtkMRMLSegmentationNode"):
        edited = slicer.vtkSegmentation
        return [
            *events,
            edited.SourceRepresentationModified,
            edited.SegmentAdded,
            edited.SegmentRemoved,
            edited.SegmentModified,
        ]
    if node.IsA("vtkMRMLVolumeNode"):
        return [*events, vtk.vtkCommand.ModifiedEvent, slicer.vtkMRMLVolumeNode.ImageDataModifiedEvent]
    return [*events, vtk.vtkCommand.ModifiedEvent, slicer.vtkMRMLMarkupsNode.PointModifiedEvent]


# --- in words --------------------------------------------------------------------------------------------------------


def probabilityText(value):
    """Two decimals, but never a 0 or 1 that the network did not give."""
    return "< 0.01" if value < 0.005 else "> 0.99" if value > 0.995 else f"{value:.2f}"


def meaning(run):
    """What the large number is; why there is none."""
    members = run.score["members"]
    if run.probability is None:
        return " ".join(_messages(run, NO_SCORE_FLAGS)) or _("No score was made.")
    if run.isDemo:
        text = _("Demonstration score for {outcome}: no statement about a patient.")
    else:
        text = _("Probability of {outcome}.")
    if len(members) > 1:
        text += " " + _("Mean and standard deviation of {count} networks: {members}.")
    name = run.score["outcome"]
    return text.format(
        outcome=_("perineural invasion (PNI)") if name == "pni" else name,
        count=len(members),
        members=", ".join(map(probabilityText, members)),
    )


def againstThreshold(run):
    """On which side of the operating threshold the score lies; "" without score."""
    threshold, members = run.score["threshold"], run.score["members"]
    if run.probability is None:
        return ""
    if threshold is None:
        return _("The model names no operating threshold.")
    if run.probability >= threshold:
        text = _("At or above the operating threshold of {threshold:.2f}.")
    else:
        text = _("Below the operating threshold of {threshold:.2f}.")
    above = sum(member >= threshold for member in members)
    if 0 < above < len(members):
        text += " " + _("The networks disagree: {above} of {count} lie at or above it.")
    return text.format(threshold=threshold, above=above, count=len(members))


def standing(run):
    """Where the score lies among the training cohort's out-of-fold scores; "" without score."""
    shares = run.score["share_of_training_scores_below"]
    if run.probability is None:
        return ""
    if not (shares.get("negative") is not None and shares.get("positive") is not None):
        return _("The model keeps no training scores to compare with.")
    if run.isDemo:
        text = _("Higher than {negative:.0f} % of the scores of the simulated negative training cases and "
                 "{positive:.0f} % of those of the positive ones, each by a network that had not seen the case.")
    else:
        text = _("Higher than {negative:.0f} % of the scores of the negative training cases and {positive:.0f} % of "
                 "those of the positive ones, each by a network that had not seen the case.")
    return text.format(negative=100 * shares["negative"], positive=100 * shares["positive"])


def warnings(run):
    """Reasons for doubt in words, but that the model is for demonstration and why there is no score."""
    shown = (DEMO_FLAG, *NO_SCORE_FLAGS)
    return [flag["message"] for flag in run.score["flags"] if flag["code"] not in shown]


def facts(run, segmentationName=""):
    """What was used and what was measured, as (name, value) in words.

    `segmentationName` is shown and kept nowhere: node names may hold a patient's name.
    """
    score, measured, crop = run.score, run.score["measurements"], run.score["crop"]
    lines = [
        (_("Tumour volume"), _("{value:.1f} ml").format(value=measured["tumour_ml"])),
        (_("Largest diameter"), _("{value:.1f} mm").format(value=measured["tumour_diameter_mm"])),
        (_("Number of tumours"), str(measured["tumours"])),
        (_("Liver without tumour"), _("{value:.0f} ml").format(value=measured["liver_ml"])),
    ]
    if crop:
        right, anterior, superior = crop["center_ras_mm"]
        where = _("moved by hand") if run.inputs["crop"] else _("follows the tumour")
        lines += [
            (
                _("Crop"),
                _("{where}; centre R {r:.1f}, A {a:.1f}, S {s:.1f} mm").format(
                    where=where, r=right, a=anterior, s=superior
                ),
            ),
            (_("Tumour inside the crop"), f"{math.floor(1000 * crop['coverage']) / 10:.1f} %"),  # all of it, or less
        ]
    bundle = score["bundle"]
    lines += [
        (_("Segmentation"), segmentationName or _("deleted from the scene")),
        (_("Model"), _("{name}, version {version}").format(**bundle)),
        (_("Model hash"), bundle["hash"][:16]),
        (_("Scored"), run.time.replace("T", " ")),
    ]
    return lines


def _messages(run, codes):
    return [flag["message"] for flag in run.score["flags"] if flag["code"] in codes]


# --- rich text for a label; what a bundle says is text there, never markup -------------------------------------------


def scoreHtml(run, stale=False):
    """The score, large, with its spread, what it is and where the threshold lies; grey where it is stale."""
    number = _("No score") if run.probability is None else probabilityText(run.probability)
    spread = run.score["spread"]
    beside = f"<span style='font-size:15pt'> ± {spread:.2f}</span>" if spread is not None else ""
    lines = "<br/>".join(html.escape(text) for text in (meaning(run), againstThreshold(run)) if text)
    large = f"<span style='font-size:32pt; font-weight:600'>{html.escape(number)}</span>"
    return f"<div{_grey(stale)}>{large}{beside}<br/>{lines}</div>"


def factsHtml(run, segmentationName="", stale=False):
    """`facts` as a table."""
    lines = "".join(
        f"<tr><td>{html.escape(name)}&nbsp;&nbsp;</td><td>{html.escape(value)}</td></tr>"
        for name, value in facts(run, segmentationName)
    )
    return f"<table{_grey(stale)} cellspacing='0' cellpadding='1'>{lines}</table>"


def chartHtml(run, stale=False):
    """The score on a line from 0 to 1 over the training cohort's out-of-fold scores, by outcome; "" without score.

    For a label without word wrap, whose height is then that of the picture.
    """
    if run.probability is None:
        return ""
    lines = [
        (_("negative"), run.training.get("negative", []), NEGATIVE),
        (_("positive"), run.training.get("positive", []), POSITIVE),
        (_("this case"), run.score["members"], CASE),
    ]
    caption = html.escape(_("Scores of the training cases, a dot each, and of this case"))
    text = ""
    for name, scores, colour in lines:
        label = html.escape(f"{name} ({len(scores)})" if colour != CASE else name)
        picture = _pngAddress(strip(scores, colour, run, faint=stale))
        text += (
            f"<tr><td align='right' valign='middle'><font color='{_hex(QUIET if stale else colour)}'>{label}</font>"
            f"&nbsp;</td><td><img src='{picture}' width='{STRIP_WIDTH}' height='{STRIP_HEIGHT}'/></td></tr>"
        )
    axis = "<td align='left'>0</td><td align='center'>0.5</td><td align='right'>1</td>"
    text += f"<tr><td></td><td><table width='{STRIP_WIDTH}' cellspacing='0'><tr>{axis}</tr></table></td></tr>"
    return f"<i{_grey(stale)}>{caption}</i><table cellspacing='0' cellpadding='0'>{text}</table>"


def strip(scores, colour, run, faint=False):
    """One row of the chart: a dot a score, the case's mean and the threshold as lines across.

    Returns
    -------
    np.ndarray
        (rows, columns, 4) uint8 RGBA, `SCALE` pixels for each of the label.
    """
    canvas = np.zeros((STRIP_HEIGHT * SCALE, STRIP_WIDTH * SCALE, 4))
    inside = STRIP_WIDTH * SCALE - 8 * SCALE  # a dot at 0 or 1 stays whole

    def column(score):
        return 4 * SCALE + score * inside

    threshold = run.score["threshold"]
    if threshold is not None:
        at = round(column(threshold))
        dashes = (np.arange(len(canvas)) // (3 * SCALE)) % 2 == 0
        _blend(canvas[:, at : at + SCALE], QUIET, 1.0 * dashes[:, None, None])
    mean, spread = run.probability, run.score["spread"]
    if spread is not None:
        left, right = (round(column(min(max(value, 0), 1))) for value in (mean - spread, mean + spread))
        _blend(canvas[:, left : right + 1], CASE, 0.18)
    _blend(canvas[:, round(column(mean)) - SCALE + 1 : round(column(mean)) + SCALE], CASE, 1.0)
    # by the golden ratio, neighbours lie apart; the case's own networks lie in line
    jitter = (np.arange(len(scores)) * 0.618034 % 1 - 0.5) * 0.6 * (colour != CASE)
    y, x = np.mgrid[: canvas.shape[0], : canvas.shape[1]]
    for score, height in zip(scores, jitter, strict=True):
        across, down = column(score), (0.5 + height) * canvas.shape[0]
        part = tuple(slice(max(round(at) - 4 * SCALE, 0), round(at) + 4 * SCALE) for at in (down, across))
        cover = np.clip(2.6 * SCALE + 0.5 - np.hypot(x[part] - across, y[part] - down), 0, 1)  # a smooth edge
        _blend(canvas[part], colour, (0.9 if colour == CASE else 0.5) * cover[..., None])
    canvas[..., 3] *= 0.4 if faint else 1
    return np.rint(255 * canvas).astype(np.uint8)


def _blend(pixels, colour, opacity):
    """Lay a colour over RGBA pixels in [0, 1], in place; `opacity` broadcasts."""
    old = pixels[..., 3:]
    new = opacity + old * (1 - opacity)
    over = np.divide(opacity, new, out=np.zeros_like(new), where=new > 0)
    pixels[..., :3] += over * (np.asarray(colour) / 255 - pixels[..., :3])
    pixels[..., 3:] = new


def _pngAddress(image):
    """An RGBA image (rows, columns, 4) uint8 as a ``data:`` address, which a label's rich text can show."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    height, width = image.shape[:2]
    lines = np.zeros((height, 1 + 4 * width), np.uint8)  # each line begins with its filter: 0, none
    lines[:, 1:] = image.reshape(height, -1)
    header = struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0)
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(lines.tobytes())) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(b"\x89PNG\r\n\x1a\n" + parts).decode()


def _grey(stale):
    return f" style='color:{_hex(QUIET)}'" if stale else ""


def _hex(colour):
    return "#{:02x}{:02x}{:02x}".format(*colour)
