"""A simulated hepatobiliary-phase T1 MRI cohort with a known perineural-invasion (PNI) signal.

What it is for: tests, the demonstration, and the question whether a pipeline finds a signal that is known to be
there. The picture is that of a fat-suppressed 3D gradient echo about 20 minutes after gadoxetate: contrast taken up by
hepatocytes and excreted into bile makes liver and, more so, ducts bright; vessels have washed out and are dark; a
cholangiocarcinoma has no hepatocytes and is dark.

The science: each case has a hidden severity s, N(0, 1) without PNI and N(mu * strength, 1) with it, where
mu = sqrt(2) * PhiInverse(0.95), so that whoever sees s reaches an AUC of 0.95 at strength 1 and 0.5 at strength 0.
Severity alone decides how much is seen of three signs described for PNI: periductal cords leaving the tumour along
Glisson's sheaths, tongues and blur at the tumour's border, and a patchy rim. The label map is drawn from a random
stream of its own and is the same whatever the severity: the mask never carries the label.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d
from scipy.special import expit, ndtri

from neonet_core.errors import NeoNetError
from neonet_core.events import Events, Silent, track
from neonet_core.phantom_anatomy import (
    Anatomy,
    Array,
    Box,
    Grid,
    Triple,
    Tube,
    Tumour,
    lattice_noise,
    smooth_intersection,
    tube_distance,
)
from neonet_core.volume import Volume, write_volume

SIZES: dict[str, tuple[tuple[int, int, int], Triple]] = {  # voxels along R, A, S and their edges in mm
    "full": ((240, 240, 100), (1.5, 1.5, 2.2)),
    "small": ((120, 120, 50), (3.0, 3.0, 4.4)),
}
ORACLE_AUC = 0.95
SEPARATION = float(np.sqrt(2) * ndtri(ORACLE_AUC))  # of the two severity distributions: AUC = Phi(mu / sqrt(2))

# Signal relative to liver 20 minutes after gadoxetate, fat suppressed: bile > liver > kidney > spleen, muscle >
# vessels and tumour > fat > fluid > gas.
TISSUES = {
    "air": 0.0, "lung": 0.07, "gas": 0.03, "skin": 0.48, "fat": 0.26, "muscle": 0.50, "rib": 0.26, "marrow": 0.44,
    "disc": 0.56, "cortical bone": 0.18, "csf": 0.14, "cord": 0.48, "blood": 0.52, "spleen": 0.62,
    "renal cortex": 0.86, "renal medulla": 0.70, "urine": 1.35, "gut wall": 0.58, "fluid": 0.34, "stool": 0.42,
    "pancreas": 0.68, "liver": 1.0, "duct": 1.8, "bile": 0.38, "tumour": 0.42,
}

_ANATOMY, _APPEARANCE, _SEVERITY, _ORDER = range(4)  # independent random streams of one seed


@dataclass(frozen=True)
class PhantomParameters:
    """What is hidden in a case: the oracle's view, JSON-able through `dataclasses.asdict`.

    `visible` (0 to 1) is the degree to which the signs of PNI show; lengths in mm, volumes in millilitres, the centre
    in RAS mm.
    """

    pni: int
    severity: float
    visible: float
    strength: float
    size: str
    perihilar: bool
    tumour_centre: Triple
    tumour_volume_ml: float
    tumour_diameter_mm: float  # of the sphere of equal volume
    liver_volume_ml: float  # tumour included
    tumour_contrast: float  # tumour signal over liver signal
    noise: float  # standard deviation over liver signal


@dataclass(frozen=True)
class PhantomCase:
    """Image (int16, scanner-like units) and label map (uint8: 0 background, 1 liver, 2 tumour) on one grid."""

    image: Volume
    label_map: Volume
    parameters: PhantomParameters


def draw_severity(pni: int, seed: int | Sequence[int], strength: float = 1.0) -> float:
    """The severity that `simulate_case` hides in this case, without rendering it.

    Parameters
    ----------
    pni : int
        1 with perineural invasion, 0 without.
    seed : int or sequence of int
        As in `simulate_case`.
    strength : float
        Distance of the classes: 1 gives an oracle AUC of 0.95, 0 gives 0.5.

    Returns
    -------
    float
        A draw from N(mu * strength * pni, 1).
    """
    _check(pni=pni, strength=strength, seed=seed)
    return float(_stream(seed, _SEVERITY).normal(SEPARATION * strength * pni, 1))


def visibility(severity: float) -> float:
    """How much of the signs shows at this severity, 0 to 1: monotonic, half way between the classes at strength 1."""
    return float(expit(1.6 * (severity - SEPARATION / 2)))


def simulate_case(pni: int, seed: int | Sequence[int], size: str = "small", strength: float = 1.0) -> PhantomCase:
    """Simulate one hepatobiliary-phase MRI of a liver with a cholangiocarcinoma.

    Parameters
    ----------
    pni : int
        1 with perineural invasion, 0 without. Anatomy, tumour and label map do not depend on it.
    seed : int or sequence of int
        Not negative; equal seeds give equal cases.
    size : {"small", "full"}
        120 x 120 x 50 voxels of 3.0 x 3.0 x 4.4 mm, or 240 x 240 x 100 of 1.5 x 1.5 x 2.2 mm: the same field of view.
    strength : float
        Distance of the severities of the two classes, 0 or more.

    Returns
    -------
    PhantomCase
        Volumes (X, Y, Z) along R, A, S, the field of view centred on the world's origin.

    Raises
    ------
    NeoNetError
        ``BAD_ARGUMENT``.
    """
    _check(pni=pni, strength=strength, seed=seed, size=size)
    rng = _stream(seed, _ANATOMY)
    anatomy = Anatomy.draw(rng)
    tumour = Tumour.draw(rng, anatomy)
    severity = draw_severity(pni, seed, strength)
    look = _Look.draw(_stream(seed, _APPEARANCE))

    shape, spacing = SIZES[size]
    grid = anatomy.deformation.grid(shape, spacing)
    signal, labels = _paint(grid, anatomy, tumour, look, visibility(severity))
    image = _acquire(signal, grid, look)

    affine = np.diag([*spacing, 1.0])
    affine[:3, 3] = [-(n - 1) / 2 * step for n, step in zip(shape, spacing, strict=True)]
    millilitres = float(np.prod(spacing)) / 1000
    volume = float(np.count_nonzero(labels == 2)) * millilitres
    centre = np.mean(np.argwhere(labels == 2), axis=0) * spacing + affine[:3, 3]
    parameters = PhantomParameters(
        pni=int(pni), severity=severity, visible=visibility(severity), strength=float(strength), size=size,
        perihilar=tumour.perihilar, tumour_centre=(float(centre[0]), float(centre[1]), float(centre[2])),
        tumour_volume_ml=volume, tumour_diameter_mm=float(2 * (volume * 750 / np.pi) ** (1 / 3)),
        liver_volume_ml=float(np.count_nonzero(labels)) * millilitres,
        tumour_contrast=look.tissue["tumour"] / look.tissue["liver"], noise=look.noise)
    return PhantomCase(Volume(image, affine), Volume(labels, affine.copy()), parameters)


# --- the picture ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Look:
    """Contrast and imperfections of one examination; independent of anatomy and severity."""

    tissue: dict[str, float]
    units: float  # scanner units of liver
    noise: float
    bias: NDArray[np.float64]  # (3 axes, 2 orders): log signal at the field's edge
    ghost: float
    ghost_mm: float
    blur_mm: float  # respiratory blur along the phase-encoding axis (anterior-posterior)
    texture: np.random.Generator

    @staticmethod
    def draw(rng: np.random.Generator) -> _Look:
        contrast = np.exp(rng.normal(0, 0.05, len(TISSUES)).clip(-0.1, 0.1)).tolist()
        tissue = {name: value * factor for (name, value), factor in zip(TISSUES.items(), contrast, strict=True)}
        tissue["liver"] = 1.0
        tissue["vessel"] = tissue["blood"] * 1.08  # intrahepatic vessels: the same blood, a little partial volume
        bias = rng.normal(0, (0.08, 0.06), (3, 2))
        bias[:2, 1] += 0.10  # surface coils: brighter towards the skin
        return _Look(tissue, rng.uniform(600, 900), rng.uniform(0.018, 0.035), bias, rng.uniform(0.005, 0.03),
                     rng.uniform(25, 70), rng.uniform(0.2, 1.3), rng)


class _Canvas:
    """The signal being painted, tissue over tissue, each with its partial volume."""

    def __init__(self, grid: Grid, tissue: dict[str, float]) -> None:
        self.grid, self.tissue = grid, tissue
        self.signal = np.zeros(grid.shape, np.float32)

    def paint(self, box: Box | tuple, cover: Array, value: str | float | np.float32 | Array) -> None:
        tone = np.float32(self.tissue[value]) if isinstance(value, str) else value
        under = self.signal[box]
        under += cover * (tone - under)


def _paint(grid: Grid, anatomy: Anatomy, tumour: Tumour, look: _Look,
           visible: float) -> tuple[Array, NDArray[np.uint8]]:
    """The noiseless signal (liver = 1) and the label map, both (X, Y, Z)."""
    canvas = _Canvas(grid, look.tissue)
    _paint_trunk(canvas, anatomy)
    _paint_organs(canvas, anatomy)
    box, liver = _paint_liver(canvas, anatomy, look)
    inner, mass = _paint_tumour(canvas, anatomy, tumour, look, visible)

    labels = np.zeros(grid.shape, np.uint8)
    labels[box][liver < 0] = 1
    labels[inner][(mass < 0) & (labels[inner] == 1)] = 2
    return canvas.signal, labels


def _paint_trunk(canvas: _Canvas, anatomy: Anatomy) -> None:
    """Skin, fat, abdominal wall with ribs, peritoneal fat, lungs, spine and the muscles of the back."""
    grid, everywhere = canvas.grid, (slice(None),) * 3
    x, y, z = grid.x, grid.y, grid.z
    depth = anatomy.depth(x, y)
    cavity = depth + anatomy.fat_here(y) + np.float32(anatomy.wall)
    canvas.paint(everywhere, grid.coverage(depth), "skin")
    canvas.paint(everywhere, grid.coverage(depth + np.float32(2)), "fat")
    canvas.paint(everywhere, grid.coverage(cavity - np.float32(anatomy.wall)), "muscle")
    # Ribs: oblique bars in the middle of the wall, falling from back to front.
    fall = (z - np.float32(0.55) * np.abs(y + 20) + np.float32(anatomy.rib_phase)) % 28 - 14
    rib = np.sqrt((cavity - np.float32(anatomy.wall / 2)) ** 2 + (np.float32(0.8) * fall) ** 2) - np.float32(4.2)
    rib = np.maximum(rib, np.float32(45) - np.abs(x) - np.float32(0.5) * (z + 30))
    canvas.paint(everywhere, grid.coverage(rib), "rib")
    canvas.paint(everywhere, grid.coverage(cavity), "fat")

    chest = grid.box((-170, -120, -10), (170, 120, 130))
    cx, cy, cz = grid.at(chest)
    dome = anatomy.diaphragm(cx, cy, cz)
    lungs = smooth_intersection(cavity[chest] + 2, -dome, 4)
    mediastinum = np.abs(cx + 4) - np.float32(26) - np.float32(0.25) * np.maximum(cy, 0)
    canvas.paint(chest, grid.coverage(np.maximum(np.maximum(np.abs(dome + 1.5) - 1.8, cavity[chest]), 20 - cz)),
                 "muscle")
    canvas.paint(chest, grid.coverage(np.maximum(lungs, -mediastinum)), "lung")

    back = grid.box((-70, -120, -130), (70, -10, 130))
    bx, by, bz = grid.at(back)
    side = np.abs(bx)
    erector = np.sqrt(((side - 30) / np.float32(1.35)) ** 2 + (by + 80) ** 2) - 17
    psoas = np.sqrt((side - 34 + np.float32(0.12) * np.minimum(bz, 0)) ** 2 + (by + 56) ** 2)
    psoas -= np.clip(np.float32(2) - np.float32(0.17) * bz, 0, 17)
    body = np.sqrt((bx / np.float32(1.22)) ** 2 + (by + 48) ** 2) - 16
    level = np.abs((bz + np.float32(anatomy.rib_phase)) % 33 - 16.5)
    arch = np.sqrt((bx / np.float32(1.2)) ** 2 + (by + 73) ** 2) - 15
    process = np.maximum(side - np.float32(3.5), np.abs(by + 93) - 11) + np.maximum(level - 11, 0)
    transverse = np.maximum(np.abs(by + 72) - 4, side - 34) + np.maximum(level - 6, 0)
    canal = np.sqrt((bx / np.float32(1.15)) ** 2 + (by + 73) ** 2) - np.float32(9.5)
    for distance, tissue in ((erector, "muscle"), (psoas, "muscle"), (transverse, "cortical bone"),
                             (transverse + 2, "marrow"), (process, "cortical bone"), (process + 2, "marrow"),
                             (arch, "cortical bone"), (body, "cortical bone"), (body + 1.5, "marrow"),
                             (np.maximum(body + 1, np.float32(12.5) - level), "disc"), (canal, "csf"),
                             (canal + np.float32(4.5), "cord")):
        canvas.paint(back, grid.coverage(np.maximum(distance, depth[back] + 5)), tissue)


def _paint_organs(canvas: _Canvas, anatomy: Anatomy) -> None:
    """All organs but the liver, from the table, with pancreas and the great vessels."""
    grid = canvas.grid
    for organ in anatomy.organs:
        box = grid.box(*organ.shape.bounds())
        x, y, z = grid.at(box)
        within = np.ones_like(x)
        if organ.in_cavity:
            within = grid.coverage(np.maximum(anatomy.cavity(x, y), anatomy.diaphragm(x, y, z)) + np.float32(3))
        for tissue, scale, shift in organ.layers:
            canvas.paint(box, within * grid.coverage(organ.shape.part(scale, shift).distance(x, y, z)), tissue)
    for tube, tissue in ((anatomy.pancreas, "pancreas"), (anatomy.splenic_vein, "blood"), (anatomy.aorta, "blood"),
                         (anatomy.ivc, "blood")):
        _paint_tubes(canvas, (tube,), tissue)


def _paint_tubes(canvas: _Canvas, tubes: Sequence[Tube], tissue: str) -> None:
    points = np.concatenate([t.points for t in tubes])
    thick = max(t.radii.max() for t in tubes)
    box = canvas.grid.box(points.min(0) - thick, points.max(0) + thick)
    canvas.paint(box, canvas.grid.coverage(tube_distance(canvas.grid, box, tubes)), tissue)


def _paint_liver(canvas: _Canvas, anatomy: Anatomy, look: _Look) -> tuple[Box, Array]:
    """Parenchyma, vessels, ducts and gallbladder; returns the liver's box and its signed distance there."""
    grid = canvas.grid
    box = grid.box(*anatomy.liver_bounds)
    liver = anatomy.liver(*grid.at(box))
    cover = grid.coverage(liver)
    texture = lattice_noise(look.texture, grid, box, *anatomy.liver_bounds, pitch=7)
    canvas.paint(box, cover, look.tissue["liver"] * (1 + np.float32(0.022) * texture))
    for tubes, tissue in ((anatomy.hepatic_veins, "vessel"), (anatomy.portal[1:], "vessel"), (anatomy.ducts, "duct")):
        canvas.paint(box, cover * grid.coverage(tube_distance(grid, box, tubes)), tissue)
    _paint_tubes(canvas, (anatomy.ivc,), "blood")  # again: the liver is wrapped round it
    _paint_tubes(canvas, (anatomy.portal[0],), "blood")
    _paint_tubes(canvas, (anatomy.common_duct,), "duct")

    around = grid.box(*anatomy.gallbladder.bounds())
    x, y, z = grid.at(around)
    bladder = anatomy.gallbladder.distance(x, y, z)
    canvas.paint(around, grid.coverage(bladder), "gut wall")
    canvas.paint(around, grid.coverage(bladder + 1.5), "bile")
    layer = np.maximum(bladder + 1.5, y - np.float32(anatomy.gallbladder.centre[1] - 7))
    canvas.paint(around, grid.coverage(layer, softer=5), "duct")  # excreted contrast settles in the dependent part
    return box, liver


def _paint_tumour(canvas: _Canvas, anatomy: Anatomy, tumour: Tumour, look: _Look,
                  visible: float) -> tuple[Box, Array]:
    """The mass and, as far as `visible`, what PNI does around it; returns its box and its signed distance there.

    Parameters
    ----------
    visible : float
        0 to 1. Scales cords (number, length, width, contrast), tongues and blur of the border, and the patchy rim.
    """
    grid = canvas.grid
    ends = np.concatenate([tumour.centre[None] + 1.6 * tumour.radius, tumour.centre[None] - 1.6 * tumour.radius,
                           *tumour.sheaths])
    bounds = ends.min(0) - 10, ends.max(0) + 10
    box = grid.box(*bounds)
    mass, directions = tumour.distance(*grid.at(box))
    within = grid.coverage(anatomy.liver(*grid.at(box)) + np.float32(1))
    tone = np.float32(look.tissue["tumour"])
    mottle = lattice_noise(look.texture, grid, box, *bounds, pitch=8)
    patches = lattice_noise(look.texture, grid, box, *bounds, pitch=6.5)

    # (c) Rim: a shell 9 mm thick outside, darker on the mean and patchy.
    shell = grid.coverage(mass - 9, softer=2)
    rim = np.clip(np.float32(0.76) + np.float32(0.16) * patches, 0.66, 1.1)
    canvas.paint(box, np.float32(0.95 * visible) * shell * within, rim)

    # (a) Cords: each sheath holds its duct in every case; where nerves are invaded a thick dark cuff replaces it.
    ducts = [Tube.through(s, 1.5, 1.0) for s in tumour.sheaths]
    canvas.paint(box, within * grid.coverage(tube_distance(grid, box, ducts)), "duct")
    for rank, course in enumerate(tumour.sheaths):
        share = float(np.clip((visible - 0.12 - 0.09 * rank) / 0.3, 0, 1))
        points = course[: max(int(np.ceil(len(course) * (0.35 + 0.65 * share))), 2)]
        if share == 0:
            continue
        radii = np.linspace(4.6, 3.0, len(points)) * (0.6 + 0.4 * share)
        cord = grid.coverage(tube_distance(grid, box, (Tube(points, radii),)), softer=1)
        canvas.paint(box, np.float32(min(1, 1.6 * share)) * cord * within, tone + np.float32(0.1))

    # (b) Border: tongues of infiltration and a border that blurs. Both clearly paler than the mass: whoever draws the
    # mass, a network too, must find the same border in both classes, or the drawn volume gives the label away.
    tongue = mass - np.float32(8 * visible) * tumour.tongues(directions)
    canvas.paint(box, np.float32(min(1, 2 * visible)) * grid.coverage(tongue, softer=1) * within,
                 tone + np.float32(0.30))
    inside = tone + np.float32(0.035) * mottle
    inside += np.float32(0.10 * visible) * patches * np.clip(1 + mass / 6, 0, 1)  # the rim's patches reach 6 mm in
    canvas.paint(box, grid.coverage(mass, softer=1.2 * visible) * within, inside)
    return box, mass


def _acquire(signal: Array, grid: Grid, look: _Look) -> NDArray[np.int16]:
    """What the scanner makes of the signal: coil sensitivity, respiratory motion, Rician noise, scanner units."""
    for axis, (linear, square) in enumerate(look.bias):
        along = grid.world[axis] / np.abs(grid.world[axis]).max()
        profile = np.exp(linear * along + square * (along**2 - 1 / 3)).astype(np.float32)
        signal = signal * profile.reshape([-1 if k == axis else 1 for k in range(3)])
    step = grid.spacing[1]
    if look.blur_mm > 0.15 * step:
        signal = gaussian_filter1d(signal, look.blur_mm / step, axis=1, mode="constant", truncate=3)
    # Ghosts: weak copies displaced along the phase-encoding axis, wrapped round the field of view.
    offset = round(look.ghost_mm / step)
    ghosts = np.roll(signal, offset, axis=1) + np.roll(signal, -offset, axis=1)
    signal = signal + np.float32(look.ghost) * (ghosts - signal)
    noise = look.texture.standard_normal((2, *signal.shape), dtype=np.float32)
    noise *= np.float32(look.noise)
    noise[0] += signal
    return np.rint(np.hypot(noise[0], noise[1]) * np.float32(look.units)).astype(np.int16)


# --- the cohort -----------------------------------------------------------------------------------------------------


def write_cohort(out: Path, cases: int = 128, positives: int = 44, seed: int = 0, size: str = "full",
                 strength: float = 1.0, events: Events = Silent()) -> Path:  # noqa: B008
    """Write a simulated cohort as the manifest `cases.csv` with `images/` and `labels/`.

    Beside them stand `hidden.csv`, the oracle's view of each case, which no training may read, and `phantom.json`, the
    arguments. Called again after an interruption it goes on where it stopped: a case depends on the arguments and its
    number alone, and a file is put in its place only when it is whole.

    Parameters
    ----------
    out : Path
        Folder of the cohort; made where it is missing.
    cases, positives : int
        Size of the cohort and how many of it have PNI (which, is drawn at random); the paper's cohort has 128 and 44.
    seed, size, strength
        As in `simulate_case`.
    events : Events
        Where progress is reported.

    Returns
    -------
    Path
        The manifest `out/cases.csv`: case_id, image, label_map, pni; paths relative to it.

    Raises
    ------
    NeoNetError
        ``BAD_ARGUMENT``; ``OTHER_COHORT`` where `out` holds a cohort made with other arguments.
    """
    _check(strength=strength, seed=seed, size=size)
    if cases < 1:
        raise NeoNetError("BAD_ARGUMENT", f"A cohort of {cases} cases cannot be made.", "Ask for 1 case or more.")
    if not 0 <= positives <= cases:
        raise NeoNetError("BAD_ARGUMENT", f"{positives} positive cases do not fit in a cohort of {cases}.",
                          f"Give a number from 0 to {cases}.")
    out = Path(out)
    if out.exists() and not out.is_dir():
        raise NeoNetError("BAD_ARGUMENT", f"{out} is a file.", "Give the name of a folder.")
    _claim(out, {"cases": cases, "positives": positives, "seed": seed, "size": size, "strength": float(strength)})
    outcome = _stream(seed, _ORDER).permutation(np.arange(cases) < positives).astype(int)

    manifest: list[dict[str, str]] = []
    hidden = _read_table(out / "hidden.csv")
    for index in track(range(cases), "phantom", events):
        name, pni = f"phantom-{index:04d}", int(outcome[index])
        image, label_map = f"images/{name}.nii.gz", f"labels/{name}.nii.gz"
        manifest.append({"case_id": name, "image": image, "label_map": label_map, "pni": str(pni)})
        if name in hidden and (out / image).is_file() and (out / label_map).is_file():
            continue
        case = simulate_case(pni, (seed, index), size, strength)
        write_volume(case.image, out / image)
        write_volume(case.label_map, out / label_map)
        centre = " ".join(f"{c:.1f}" for c in case.parameters.tumour_centre)
        fields = {"case_id": name, **asdict(case.parameters), "tumour_centre": centre}
        hidden[name] = {key: str(value) for key, value in fields.items()}
        _write_table(out / "hidden.csv", [hidden[key] for key in sorted(hidden)])
    _write_table(out / "cases.csv", manifest)  # last: a manifest stands for a whole cohort
    return out / "cases.csv"


def _stream(seed: int | Sequence[int], purpose: int) -> np.random.Generator:
    entropy = [int(seed)] if isinstance(seed, (int, np.integer)) else [int(s) for s in seed]
    return np.random.default_rng(np.random.SeedSequence(entropy, spawn_key=(purpose,)))


def _check(strength: float, seed: int | Sequence[int], pni: int = 0, size: str = "full") -> None:
    if pni not in (0, 1):
        raise NeoNetError("BAD_ARGUMENT", f"pni is {pni!r}.", "Give 1 (with perineural invasion) or 0.")
    if size not in SIZES:
        raise NeoNetError("BAD_ARGUMENT", f"There is no phantom size {size!r}.", f"Give one of: {', '.join(SIZES)}.")
    if not (np.isfinite(strength) and strength >= 0):
        raise NeoNetError("BAD_ARGUMENT", f"The strength {strength} of the PNI signal is not a number from 0 up.",
                          "1 is the default, 0 hides no signal.")
    if np.min(seed) < 0:
        raise NeoNetError("BAD_ARGUMENT", f"The seed {seed} is negative.", "Give 0 or more.")


def _claim(out: Path, arguments: dict[str, object]) -> None:
    """Make `out` the folder of the cohort with these arguments, or raise where it is another's."""
    record = out / "phantom.json"
    if record.is_file():
        found = json.loads(record.read_text(encoding="utf-8"))
        if found != arguments:
            raise NeoNetError("OTHER_COHORT", f"{out} holds a phantom cohort made with other arguments ({found}).",
                              "Give another folder, or the same arguments to go on.")
    elif (out / "cases.csv").exists():
        raise NeoNetError("OTHER_COHORT", f"{out} holds a cohort that is not a phantom.", "Give another folder.")
    else:
        out.mkdir(parents=True, exist_ok=True)
        _write_text(record, json.dumps(arguments))


def _write_text(path: Path, text: str) -> None:
    """Write under another name, then move into place: no half-written file bears the name."""
    partial = path.with_name(f".partial-{path.name}")
    partial.write_text(text, encoding="utf-8", newline="")
    os.replace(partial, path)


def _write_table(path: Path, rows: Sequence[dict[str, str]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    _write_text(path, text.getvalue())


def _read_table(path: Path) -> dict[str, dict[str, str]]:
    """Rows by case_id; none where the file is missing."""
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as stream:
        return {row["case_id"]: row for row in csv.DictReader(stream)}
