"""Anatomy of the simulated upper abdomen: where everything lies, as signed distances in RAS millimetres.

Organs are ellipsoids, vessels and ducts are tapered tubes, both given for one reference body (x to the patient's
right, y anterior, z superior, origin in mid-abdomen) and varied from case to case. A signed distance is negative
inside; its clipped slope over one voxel gives the partial volume of a tissue in a voxel (`coverage`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline
from scipy.ndimage import map_coordinates
from scipy.spatial.transform import Rotation

Array = NDArray[np.float32]
Triple = tuple[float, float, float]
Box = tuple[slice, slice, slice]


# --- shapes -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ellipsoid:
    """An ellipsoid with semi-axes `radii` (mm), turned by `tilt` (degrees about x, y, z)."""

    centre: Triple
    radii: Triple
    tilt: Triple = (0.0, 0.0, 0.0)

    def distance(self, x: Array, y: Array, z: Array) -> Array:
        """Signed distance in mm (first order: exact at the surface), any broadcastable shape."""
        offsets = [np.float32(1) * (a - np.float32(c)) for a, c in zip((x, y, z), self.centre, strict=True)]
        if any(self.tilt):
            turn = Rotation.from_euler("xyz", self.tilt, degrees=True).as_matrix().T.astype(np.float32)
            offsets = [row[0] * offsets[0] + row[1] * offsets[1] + row[2] * offsets[2] for row in turn]
        unit = [u / np.float32(r) for u, r in zip(offsets, self.radii, strict=True)]
        level = np.sqrt(unit[0] ** 2 + unit[1] ** 2 + unit[2] ** 2)
        slope = np.sqrt(sum((u / np.float32(r)) ** 2 for u, r in zip(unit, self.radii, strict=True)))
        return level * (level - 1) / np.maximum(slope, 1e-6)

    def varied(self, rng: np.random.Generator, shift: float, scale: float) -> Ellipsoid:
        """Another patient's version: centre moved by about `shift` mm, radii changed by about the factor `scale`."""
        centre = np.add(self.centre, rng.normal(0, shift, 3).clip(-2 * shift, 2 * shift))
        radii = np.multiply(self.radii, np.exp(rng.normal(0, scale, 3).clip(-2 * scale, 2 * scale)))
        return replace(self, centre=tuple(centre), radii=tuple(radii))

    def part(self, scale: float, shift: Triple = (0.0, 0.0, 0.0)) -> Ellipsoid:
        """A smaller copy inside, moved by `shift` in units of the radii."""
        centre = np.add(self.centre, np.multiply(shift, self.radii))
        return replace(self, centre=tuple(centre), radii=tuple(np.multiply(self.radii, scale)))

    def grown(self, millimetres: float) -> Ellipsoid:
        return replace(self, radii=tuple(np.add(self.radii, millimetres)))

    def bounds(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        turn = Rotation.from_euler("xyz", self.tilt, degrees=True).as_matrix()
        half = np.sqrt((turn**2) @ np.square(self.radii))
        return self.centre - half, self.centre + half


@dataclass(frozen=True)
class Tube:
    """A vessel, duct or cord: centre line `points` (N, 3) in mm and `radii` (N,) in mm."""

    points: NDArray[np.float64]
    radii: NDArray[np.float64]

    @staticmethod
    def through(nodes: Sequence | NDArray, start: float, end: float, step: float = 8.0) -> Tube:
        """A smooth line through `nodes`, its radius going from `start` to `end` mm."""
        knots = np.asarray(nodes, dtype=float)  # (N, 3)
        along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(knots, axis=0), axis=1))])
        where = np.linspace(0, along[-1], max(int(along[-1] / step), 2) + 1)
        return Tube(CubicSpline(along, knots)(where), np.linspace(start, end, len(where)))

    def moved(self, offset: Triple, thickness: float) -> Tube:
        return Tube(self.points + np.asarray(offset), self.radii * thickness)

    def twigs(self, rng: np.random.Generator, count: int, length: float) -> list[Tube]:
        """Side branches that leave at acute angles, as the liver's vessels do."""
        twigs = []
        for at in rng.integers(1, len(self.points) - 1, count) if len(self.points) > 2 else ():
            ahead = self.points[at + 1] - self.points[at]
            side = np.cross(ahead, rng.normal(size=3))
            course = ahead / np.linalg.norm(ahead) + 1.3 * side / np.linalg.norm(side)
            reach = length * rng.uniform(0.6, 1.2) / np.linalg.norm(course)
            bend = rng.normal(0, 0.12 * length, 3)
            nodes = [self.points[at], self.points[at] + 0.5 * reach * course + bend, self.points[at] + reach * course]
            twigs.append(Tube.through(nodes, 0.6 * self.radii[at], 0.9))
        return twigs


def smooth_union(a: Array, b: Array, blend: float) -> Array:
    """Union of two signed distances with a fillet of about `blend` mm."""
    h = np.maximum(np.float32(blend) - np.abs(a - b), 0) / np.float32(blend)
    return np.minimum(a, b) - h * h * np.float32(blend / 4)


def smooth_intersection(a: Array, b: Array, blend: float) -> Array:
    return -smooth_union(-a, -b, blend)


# --- the voxel grid -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Grid:
    """Voxel centres of a field of view centred on the world's origin, seen in one patient's reference frame.

    `x, y, z` are (X, Y, Z) float32: the reference-body coordinates of every voxel, which is the patient's scale and
    smooth deformation undone. `world` are the three axes in RAS mm.
    """

    world: tuple[Array, Array, Array]
    spacing: Triple
    scale: NDArray[np.float64]
    x: Array
    y: Array
    z: Array

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.x.shape

    @property
    def voxel(self) -> float:
        """Mean edge of a voxel in mm: the width over which borders are antialiased."""
        return float(np.prod(self.spacing) ** (1 / 3))

    def box(self, lower: Sequence[float] | NDArray, upper: Sequence[float] | NDArray) -> Box:
        """The voxels that may hold reference coordinates between `lower` and `upper`."""
        slices = []
        for axis, spacing, low, high, scale in zip(self.world, self.spacing, lower, upper, self.scale, strict=True):
            margin = Deformation.LARGEST + 1.5 * spacing
            ends = np.searchsorted(axis, [low * scale - margin, high * scale + margin])
            slices.append(slice(int(ends[0]), int(ends[1])))
        return slices[0], slices[1], slices[2]

    def at(self, box: Box) -> tuple[Array, Array, Array]:
        return self.x[box], self.y[box], self.z[box]

    def coverage(self, distance: Array, softer: float = 0.0) -> Array:
        """Share of each voxel inside a surface: the partial volume; `softer` mm widen the border."""
        return np.clip(np.float32(0.5) - distance / np.float32(self.voxel + softer), 0, 1)


@dataclass(frozen=True)
class Deformation:
    """What makes one patient's frame: scale and a few long waves of displacement, (2, 3, ...) modes x components."""

    LARGEST = 8.0  # mm; no displacement exceeds it

    scale: NDArray[np.float64]
    amplitude: NDArray[np.float64]  # mm
    wave: NDArray[np.float64]  # rad/mm, (modes, components, axes)
    phase: NDArray[np.float64]

    @staticmethod
    def draw(rng: np.random.Generator) -> Deformation:
        scale = rng.normal(1, 0.025, 3).clip(0.95, 1.05) * rng.normal(1, 0.015)
        return Deformation(scale.clip(0.93, 1.06), rng.uniform(-3.5, 3.5, (2, 3)),
                           2 * np.pi / rng.uniform(190, 400, (2, 3, 3)), rng.uniform(0, 2 * np.pi, (2, 3, 3)))

    def grid(self, shape: tuple[int, int, int], spacing: Triple) -> Grid:
        world = [((np.arange(n) - (n - 1) / 2) * s).astype(np.float32) for n, s in zip(shape, spacing, strict=True)]
        frame = []
        for component in range(3):
            broadcast = [1, 1, 1]
            broadcast[component] = -1
            total = np.broadcast_to(world[component].reshape(broadcast) / np.float32(self.scale[component]), shape)
            for mode in range(2):
                waves = [np.sin(self.wave[mode, component, k] * world[k] + self.phase[mode, component, k])
                         .astype(np.float32) for k in range(3)]
                waves[0] *= np.float32(self.amplitude[mode, component])
                total = total + waves[0][:, None, None] * (waves[1][:, None] * waves[2])
            frame.append(total)
        return Grid((world[0], world[1], world[2]), spacing, self.scale, *frame)


def tube_distance(grid: Grid, box: Box, tubes: Iterable[Tube]) -> Array:
    """Signed distance to the nearest of `tubes` on the voxels of `box`; 99 where none is near."""
    nearest = np.full([s.stop - s.start for s in box], 99, np.float32)
    reach = grid.voxel
    for tube in tubes:
        for a, b, ra, rb in zip(tube.points[:-1], tube.points[1:], tube.radii[:-1], tube.radii[1:], strict=True):
            thick = max(ra, rb) + reach
            part = grid.box(np.minimum(a, b) - thick, np.maximum(a, b) + thick)
            part = tuple(slice(max(p.start, s.start), min(p.stop, s.stop))  # type: ignore[assignment]
                         for p, s in zip(part, box, strict=True))
            if any(p.start >= p.stop for p in part):
                continue
            here = tuple(slice(p.start - s.start, p.stop - s.start) for p, s in zip(part, box, strict=True))
            axis = (b - a).astype(np.float32)
            rel = [g - np.float32(c) for g, c in zip(grid.at(part), a, strict=True)]
            t = np.clip((rel[0] * axis[0] + rel[1] * axis[1] + rel[2] * axis[2]) / (axis @ axis), 0, 1)
            gap = np.sqrt(sum((r - t * c) ** 2 for r, c in zip(rel, axis, strict=True)))
            nearest[here] = np.minimum(nearest[here], gap - (np.float32(ra) + t * np.float32(rb - ra)))
    return nearest


def lattice_noise(rng: np.random.Generator, grid: Grid, box: Box, lower: Sequence[float] | NDArray,
                  upper: Sequence[float] | NDArray, pitch: float) -> Array:
    """Smooth noise of unit variance (about) and correlation length `pitch` mm, the same in space at any voxel size."""
    counts = np.ceil((np.subtract(upper, lower) + 4 * Deformation.LARGEST) / pitch).astype(int) + 2
    lattice = rng.standard_normal(counts, dtype=np.float32) * np.float32(1.8)  # 1.8: what interpolation takes away
    start = np.subtract(lower, 2 * Deformation.LARGEST)
    where = np.stack([(g - np.float32(s)) / np.float32(pitch) for g, s in zip(grid.at(box), start, strict=True)])
    return map_coordinates(lattice, where, order=1, mode="nearest")


# --- the organs ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Organ:
    """One row of the table: an ellipsoid painted as nested layers (tissue, size, shift in radii)."""

    name: str
    shape: Ellipsoid
    layers: tuple[tuple[str, float, Triple], ...]
    in_cavity: bool = True  # cut where it would cross the abdominal wall or the diaphragm


_MID: Triple = (0.0, 0.0, 0.0)
_JEJUNUM: tuple[tuple[Triple, Triple, Triple], ...] = (
    ((-40, 26, -44), (23, 19, 17), (0, 25, 10)),
    ((-70, 36, -58), (22, 20, 19), (0, -20, 10)),
    ((-62, 22, -92), (26, 20, 18), (0, -15, -10)),
    ((-20, 30, -90), (20, 22, 16), (20, 0, 0)),
    ((-38, -6, -68), (20, 17, 16), (10, 0, 20)),
    ((-78, 6, -76), (15, 19, 20), (0, 0, 0)),
    ((-30, 52, -106), (30, 20, 18), (0, 10, 0)),
    ((22, 34, -104), (24, 18, 17), (0, -15, 15)),
    ((58, 10, -104), (19, 22, 18), (0, 0, 0)),
)

# In the order of painting; everything here lies behind the liver, which is painted over it.
ORGANS = (
    Organ("heart", Ellipsoid((-22, 28, 112), (58, 44, 34), (0, 12, 0)),
          (("muscle", 1.0, _MID), ("blood", 0.78, (-0.15, 0.0, 0.0))), in_cavity=False),
    Organ("spleen", Ellipsoid((-98, -32, 36), (27, 42, 48), (-12, -10, -18)), (("spleen", 1.0, _MID),)),
    Organ("stomach", Ellipsoid((-62, 22, 34), (40, 32, 52), (8, -22, 12)),
          (("gut wall", 1.0, _MID), ("fluid", 0.88, _MID), ("gas", 0.52, (0.0, 0.42, 0.1)))),
    Organ("right kidney", Ellipsoid((56, -55, -54), (28, 24, 52), (10, 10, 20)),
          (("renal cortex", 1.0, _MID), ("renal medulla", 0.74, _MID), ("fat", 0.42, (-0.38, 0.22, 0.0)),
           ("urine", 0.2, (-0.3, 0.18, 0.0)))),
    Organ("left kidney", Ellipsoid((-58, -53, -38), (28, 25, 54), (10, -10, -20)),
          (("renal cortex", 1.0, _MID), ("renal medulla", 0.74, _MID), ("fat", 0.42, (0.38, 0.22, 0.0)),
           ("urine", 0.2, (0.3, 0.18, 0.0)))),
    Organ("hepatic flexure", Ellipsoid((82, 38, -88), (30, 24, 22)),
          (("gut wall", 1.0, _MID), ("stool", 0.86, _MID), ("gas", 0.45, (0.0, 0.45, 0.0)))),
    Organ("transverse colon", Ellipsoid((5, 62, -72), (62, 18, 19), (0, 8, 0)),
          (("gut wall", 1.0, _MID), ("stool", 0.84, _MID), ("gas", 0.5, (0.1, 0.4, 0.0)))),
    Organ("splenic flexure", Ellipsoid((-98, 18, -35), (22, 24, 38), (10, 0, 0)),
          (("gut wall", 1.0, _MID), ("stool", 0.84, _MID))),
    Organ("descending colon", Ellipsoid((-104, -12, -88), (17, 18, 34)),
          (("gut wall", 1.0, _MID), ("stool", 0.8, _MID))),
    *(Organ("jejunum", Ellipsoid(centre, radii, tilt), (("gut wall", 1.0, _MID), ("fluid", 0.64, _MID)))
      for centre, radii, tilt in _JEJUNUM),
    Organ("duodenum", Ellipsoid((42, 6, -58), (15, 15, 32), (0, 10, 0)), (("gut wall", 1.0, _MID),
                                                                      ("fluid", 0.62, _MID))),
)
GALLBLADDER = Ellipsoid((50, 46, -52), (13, 20, 25), (28, 8, 0))
CAUDATE = Ellipsoid((8, -2, 28), (22, 17, 27))
RIGHT_LOBE = Ellipsoid((76, -2, 6), (84, 92, 88))
LEFT_LOBE = Ellipsoid((-6, 44, 32), (82, 34, 36), (-8, 10, 8))
PORTA_HEPATIS = Ellipsoid((24, 3, -28), (17, 12, 28), (0, 18, 0))  # fat round the portal trunk and common duct
FALCIFORM = Ellipsoid((0, 56, 4), (3.2, 26, 27), (12, 0, 8))  # fissure of the round ligament
VENOUS_LIGAMENT = Ellipsoid((-12, 13, 28), (27, 2.6, 22), (0, 0, -14))  # fissure between caudate and left lobe
SUBPHRENIC_RIGHT = Ellipsoid((74, 2, -10), (102, 106, 98))  # the domes of the diaphragm, seen from below
SUBPHRENIC_LEFT = Ellipsoid((-74, 2, -18), (98, 106, 94))

HILUM: Triple = (28.0, 8.0, 6.0)
# Portal tree by Couinaud segments: nodes, first radius, last radius (mm). The trunk is the first row.
PORTAL = (
    (((2, -6, -52), (18, 0, -22), HILUM), 6.5, 6.0),
    ((HILUM, (40, 8, 9), (52, 5, 12)), 5.2, 4.6),
    (((52, 5, 12), (66, 22, 22), (78, 30, 42), (86, 30, 64)), 4.2, 1.6),  # right anterior, segment 8
    (((66, 22, 22), (80, 40, 8), (92, 52, -14)), 3.2, 1.5),  # segment 5
    (((52, 5, 12), (74, -16, 14), (90, -32, 30), (98, -42, 50)), 4.2, 1.6),  # right posterior, segment 7
    (((74, -16, 14), (94, -24, -8), (104, -20, -38)), 3.2, 1.5),  # segment 6
    ((HILUM, (16, 22, 16), (6, 36, 24), (4, 46, 28)), 4.6, 3.8),  # left, umbilical portion
    (((6, 36, 24), (-22, 36, 38), (-50, 38, 46)), 3.0, 1.4),  # segment 2
    (((4, 46, 28), (-22, 58, 22), (-44, 60, 16)), 3.0, 1.4),  # segment 3
    (((4, 46, 28), (24, 56, 24), (40, 62, 18)), 2.8, 1.4),  # segment 4
)
CAVAL_CONFLUENCE: Triple = (20.0, -16.0, 66.0)
HEPATIC_VEINS = (
    ((CAVAL_CONFLUENCE, (56, -12, 58), (94, -4, 26), (112, 8, -18)), 5.0, 1.8),
    ((CAVAL_CONFLUENCE, (32, 10, 58), (46, 36, 30), (60, 54, 0)), 4.6, 1.8),
    ((CAVAL_CONFLUENCE, (2, 8, 60), (-26, 28, 50), (-52, 44, 38)), 4.0, 1.5),
)
IVC = (((26, -14, -130), (24, -14, -10), (20, -20, 50), CAVAL_CONFLUENCE, (12, -6, 98)), 11.0, 12.5)
AORTA = (((-12, -16, -130), (-14, -17, 0), (-16, -24, 130)), 8.5, 11.0)
COMMON_DUCT = ((HILUM, (30, 12, -8), (26, 6, -32), (18, -2, -62), (22, -6, -84)), 2.6, 3.2)
SPLENIC_VEIN = (((2, -6, -30), (-30, -2, -10), (-62, -16, 12), (-84, -26, 24)), 4.6, 3.4)
PANCREAS = (((34, 4, -50), (20, 10, -36), (-8, 14, -20), (-36, 6, -2), (-66, -8, 12), (-82, -16, 20)), 14.0, 9.0)


@dataclass(frozen=True)
class Anatomy:
    """One patient: every shape after variation, in the reference frame."""

    deformation: Deformation
    body: tuple[float, float]  # half width and half depth, mm
    fat: float  # mm of subcutaneous fat in front
    wall: float  # mm of muscle
    organs: tuple[Organ, ...]
    gallbladder: Ellipsoid
    liver_lobes: tuple[Ellipsoid, Ellipsoid, Ellipsoid]  # right, left, caudate
    kidney: Ellipsoid
    lower_edge: tuple[float, float]  # height at x = 0 and rise per mm towards the left, of the liver's lower border
    rib_phase: float
    portal: tuple[Tube, ...]
    hepatic_veins: tuple[Tube, ...]
    ducts: tuple[Tube, ...]
    common_duct: Tube
    ivc: Tube
    aorta: Tube
    splenic_vein: Tube
    pancreas: Tube
    liver_bounds: tuple[Triple, Triple] = field(default=((-100, -98, -100), (158, 102, 96)))

    @staticmethod
    def draw(rng: np.random.Generator) -> Anatomy:
        """A patient at random."""
        organs = tuple(replace(o, shape=o.shape.varied(rng, 3.0, 0.07)) for o in ORGANS)
        shift = rng.normal(0, 2.0, 3)  # the liver's vessels move together, so that the trees stay trees

        def vary(row: tuple) -> Tube:
            nodes, start, end = row
            thickness = np.exp(rng.normal(0, 0.06))
            moved = np.asarray(nodes, dtype=float) + shift
            moved[1:-1] += rng.normal(0, 1.8, moved[1:-1].shape)
            return Tube.through(moved, start * thickness, end * thickness)

        trunk, *branches = [vary(row) for row in PORTAL]
        side = [t for b in branches for t in b.twigs(rng, 4, 32)]
        portal = (trunk, *branches, *side)
        # A duct and a portal branch share one Glisson's sheath: the duct runs in front, a third as wide.
        ducts = tuple(t.moved((1.5, 4.5, 2.5), 0.42) for t in (*branches, *side[:12]))
        stems = [vary(row) for row in HEPATIC_VEINS]
        veins = (*stems, *(t for s in stems for t in s.twigs(rng, 7, 34)))
        right = RIGHT_LOBE.varied(rng, 2.5, 0.04)
        left = LEFT_LOBE.varied(rng, 4.0, 0.08)
        return Anatomy(
            deformation=Deformation.draw(rng), body=(rng.normal(158, 3.5), rng.normal(112, 2.5)),
            fat=min(5 + rng.gamma(6, 1.8), 24.0), wall=rng.uniform(9, 13), organs=organs,
            gallbladder=GALLBLADDER.varied(rng, 2.5, 0.12), liver_lobes=(right, left, CAUDATE.varied(rng, 2, 0.08)),
            kidney=next(o.shape for o in organs if o.name == "right kidney"),
            lower_edge=(rng.normal(-30, 5), rng.normal(0.52, 0.04)), rib_phase=rng.uniform(0, 28), portal=portal,
            hepatic_veins=veins, ducts=ducts, common_duct=vary(COMMON_DUCT).moved((1.5, 4.5, 2.5), 1.0), ivc=vary(IVC),
            aorta=vary(AORTA), splenic_vein=vary(SPLENIC_VEIN), pancreas=vary(PANCREAS))

    def depth(self, x: Array, y: Array) -> Array:
        """Radial distance from the skin in mm, negative inside: an outline between an ellipse and a box."""
        u, v = (x / np.float32(self.body[0])) ** 2, (y / np.float32(self.body[1])) ** 2
        level = np.float32(0.5) * (np.sqrt(u + v) + np.sqrt(np.sqrt(u * u + v * v))) + np.float32(1e-6)
        return (1 - 1 / level) * np.sqrt(x * x + y * y)

    def fat_here(self, y: Array) -> Array:
        """Thickness of the subcutaneous fat: thicker behind and at the flanks than in front."""
        return np.float32(self.fat) * (1 - np.float32(0.25 / self.body[1]) * y)

    def cavity(self, x: Array, y: Array) -> Array:
        """Signed distance to the inner face of the trunk's wall."""
        return self.depth(x, y) + self.fat_here(y) + np.float32(self.wall)

    def diaphragm(self, x: Array, y: Array, z: Array) -> Array:
        """Signed distance to the diaphragm: negative below it, in the abdomen."""
        return smooth_union(SUBPHRENIC_RIGHT.distance(x, y, z), SUBPHRENIC_LEFT.distance(x, y, z), 25)

    def liver(self, x: Array, y: Array, z: Array) -> Array:
        """Signed distance to the liver's surface; vessels and ducts inside it count as liver, the IVC does not."""
        right, left, caudate = self.liver_lobes
        height, rise = self.lower_edge
        lower = (np.float32(height) - np.float32(rise) * x - np.float32(0.12) * y - z) / np.float32(1.14)
        liver = smooth_intersection(right.distance(x, y, z), lower, 22)
        liver = smooth_union(liver, left.distance(x, y, z), 14)
        liver = smooth_union(liver, caudate.distance(x, y, z), 5)
        liver = smooth_intersection(liver, self.cavity(x, y) + 3, 10)
        liver = smooth_intersection(liver, self.diaphragm(x, y, z) + 4, 6)
        # the prevertebral space, the great vessels and what else presses into the visceral surface
        spine = np.sqrt(x * x + ((y + 52) * np.float32(1.05)) ** 2) - 36
        cava = np.sqrt((x - 24) ** 2 + (y + 15) ** 2) - np.float32(self.ivc.radii.max() + 2)
        hollows = [spine, cava, self.kidney.grown(4).distance(x, y, z), self.gallbladder.grown(1.5).distance(x, y, z)]
        hollows += [e.distance(x, y, z) for e in (PORTA_HEPATIS, FALCIFORM, VENOUS_LIGAMENT)]
        for hollow in hollows:
            liver = smooth_intersection(liver, -hollow, 4)
        return liver


# --- the tumour ---------------------------------------------------------------------------------------------------


def sphere_directions(count: int) -> NDArray[np.float64]:
    """`count` unit vectors spread evenly (Fibonacci lattice), (count, 3)."""
    k = np.arange(count) + 0.5
    height, turn = 1 - 2 * k / count, np.pi * (1 + 5**0.5) * k
    ring = np.sqrt(1 - height**2)
    return np.stack([ring * np.cos(turn), ring * np.sin(turn), height], axis=1)


@dataclass(frozen=True)
class Tumour:
    """A smooth lobulated mass, and the sheaths along which it could spread; all independent of the PNI label."""

    centre: NDArray[np.float64]
    radius: float  # of the sphere of equal volume, mm
    perihilar: bool
    lobes: NDArray[np.float64]  # (L, 3) directions
    heights: NDArray[np.float64]  # (L,)
    spikes: NDArray[np.float64]  # (K, 3) directions of possible infiltrating tongues
    sheaths: tuple[NDArray[np.float64], ...]  # centre lines (N, 3) of the sheaths that leave the tumour

    LOBE_SHARPNESS = 5.0

    @staticmethod
    def draw(rng: np.random.Generator, anatomy: Anatomy) -> Tumour:
        """A tumour wholly inside the liver, at the hilum in two cases of three."""
        shape = Tumour(np.zeros(3), 1.0, bool(rng.random() < 0.66), unit(rng.normal(size=(7, 3))),
                       rng.uniform(0.1, 0.38, 7), unit(sphere_directions(12) + rng.normal(0, 0.25, (12, 3))), ())
        directions = sphere_directions(300)
        shape = replace(shape, radius=float(1 / np.mean(shape.extent(directions) ** 3) ** (1 / 3)))
        wanted = 0.5 * np.exp(rng.uniform(np.log(24), np.log(50)))
        if shape.perihilar:
            places = np.add(HILUM, (6, 4, 8)) + rng.normal(0, (24, 18, 16), (600, 3))
        else:
            places = rng.uniform((-50, -70, -50), (130, 75, 70), (600, 3))
        depth = anatomy.liver(*places.T.astype(np.float32))
        for radius in wanted * 0.95 ** np.arange(20):  # the largest that fits, never above what was wanted
            grown = replace(shape, radius=shape.radius * radius)
            outer = (grown.extent(directions) + 3.0)[:, None] * directions
            for place in places[depth < -0.6 * radius]:
                if np.all(anatomy.liver(*(place + outer).T.astype(np.float32)) < 0):
                    sheaths = _sheaths(rng, anatomy, place, radius)
                    return replace(grown, centre=place, sheaths=sheaths)
        raise AssertionError("no place for a tumour in this liver")  # 600 places and 20 sizes: does not happen

    def extent(self, directions: NDArray) -> NDArray:
        """Distance from centre to surface along unit vectors (..., 3) -> (...), mm."""
        bumps = sum(h * np.exp(self.LOBE_SHARPNESS * (directions @ lobe.astype(directions.dtype) - 1))
                    for lobe, h in zip(self.lobes, self.heights, strict=True))
        return (1 + bumps) * directions.dtype.type(self.radius)

    def distance(self, x: Array, y: Array, z: Array) -> tuple[Array, NDArray[np.float32]]:
        """Radial signed distance (mm) and the direction from the centre (..., 3) of every point."""
        rel = np.stack([a - np.float32(c) for a, c in zip((x, y, z), self.centre, strict=True)], axis=-1)
        length = np.sqrt(np.sum(rel * rel, axis=-1))
        directions = rel / np.maximum(length, np.float32(1e-3))[..., None]
        return length - self.extent(directions), directions

    def tongues(self, directions: NDArray[np.float32]) -> Array:
        """0 to 1: how far the longest infiltrating tongue reaches in each direction (..., 3)."""
        height = np.zeros(directions.shape[:-1], np.float32)
        for spike in self.spikes.astype(np.float32):
            np.maximum(height, np.exp(np.float32(28) * (directions @ spike - 1)), out=height)
        return height


def unit(vectors: NDArray) -> NDArray:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def _sheaths(rng: np.random.Generator, anatomy: Anatomy, centre: NDArray, radius: float,
             count: int = 6) -> tuple[NDArray[np.float64], ...]:
    """Courses of the Glisson's sheaths that touch the tumour: towards ducts of the tree in different directions.

    Where the tree has too few ducts nearby, peripheral branches that the tree leaves out are added.
    """
    nodes = np.concatenate([t.points for t in anatomy.ducts])
    far = np.linalg.norm(nodes - centre, axis=1)
    nodes = nodes[(far > radius + 20) & (far < radius + 45)]
    others = centre + sphere_directions(60) * (radius + rng.uniform(26, 40, 60))[:, None]
    ends = np.concatenate([rng.permutation(nodes), rng.permutation(others)])
    ends = ends[anatomy.liver(*ends.T.astype(np.float32)) < -4]
    chosen: list[NDArray] = []
    for separation in (0.45, 0.8, 0.99):  # cosine between two courses: first far apart, then closer
        for end in ends:
            course = unit(end - centre)
            if len(chosen) < count and all(course @ unit(c - centre) < separation for c in chosen):
                chosen.append(end)
    return tuple(Tube.through([centre + 0.6 * radius * unit(end - centre),
                               0.5 * (centre + radius * unit(end - centre) + end) + rng.normal(0, 2.5, 3), end],
                              1, 1, step=3.0).points for end in chosen)
