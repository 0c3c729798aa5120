"""What a reader must know before believing a score: one flag for each reason for doubt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from neonet_core.bundle import DEMO_WARNING, Bundle
from neonet_core.cohort import MAX_TUMOUR_SHARE
from neonet_core.measurements import Measurements, image_facts
from neonet_core.preprocessing import prepare_image, prepare_label_map
from neonet_core.tlcr import Crop
from neonet_core.volume import Volume, to_canonical

SPACING_FACTOR = 1.5
"""A spacing beyond the training cohort's range by more than this factor is called far from it."""
INTENSITY_MARGIN = 0.15
"""The same for mean intensities of liver and tumour, which are shares of the image's own range."""
LIVER_FACTOR = 2.0
"""The same for the liver's volume; outside it the image hardly shows a whole liver."""
CT_AIR = -200
"""No MRI magnitude image has many values below zero; air in a CT lies near -1000."""
NO_SCORE_FLAGS = ("NO_TUMOUR", "NO_LIVER", "NO_PNI_MODEL", "WRONG_MODALITY")
"""With one of these a score would mean nothing, so none is made. The others are doubts about a score."""


@dataclass(frozen=True)
class Flag:
    """One reason for doubt: `code` for programs, `message` in words for the reader."""

    code: str
    message: str


def comparable_facts(image: Volume, label_map: Volume) -> dict[str, float]:
    """What a case has in common with `BundleRecord.ranges`, by the same names.

    Returns
    -------
    dict
        spacing_x, spacing_y, spacing_z (mm along R, A, S), liver_ml, tumour_ml, and the mean intensities
        liver_intensity, tumour_intensity (shares of the image's own range; left out where there is no such label).

    Raises
    ------
    NeoNetError
        ``CONSTANT_IMAGE``.
    """
    spacing = dict(zip(("spacing_x", "spacing_y", "spacing_z"), to_canonical(image).spacing, strict=True))
    return spacing | image_facts(prepare_image(image, None).volume.array, prepare_label_map(label_map, None).array,
                                 image.spacing)


def case_flags(image: Volume, label_map: Volume, measurements: Measurements, crop: Crop | None,
               bundle: Bundle, demo: bool = False, facts: dict[str, float] | None = None) -> tuple[Flag, ...]:
    """The flags of a case, the most important first.

    DEMO_MODEL, NO_TUMOUR, NO_LIVER, NO_PNI_MODEL, WRONG_MODALITY, WRONG_BODY_PART, SPACING_FAR, INTENSITIES_FAR,
    TUMOUR_LARGER_THAN_CROP, TUMOUR_SHARE. `demo` says that another model of the case knows phantoms only; `facts` are
    the `comparable_facts`, where they are known already.
    """
    ranges = bundle.record.ranges
    facts = comparable_facts(image, label_map) if facts is None else facts
    flags = []
    if demo or bundle.is_demo:
        flags.append(Flag("DEMO_MODEL", DEMO_WARNING))
    if measurements.tumour_ml == 0:
        flags.append(Flag("NO_TUMOUR", "The label map holds no tumour, so there is no score."))
    elif measurements.liver_ml == 0:
        flags.append(Flag("NO_LIVER", "The label map holds a tumour but no liver, so there is no score."))
    if not bundle.can_classify():
        flags.append(Flag("NO_PNI_MODEL", "No PNI model in this bundle, so there is no score."))
    if float(np.mean(image.array[::4, ::4, ::4] < CT_AIR)) > 0.05:
        flags.append(Flag("WRONG_MODALITY", "The intensities are those of a CT, not of an MRI, so there is no score."))
    flags += _body_part(measurements, ranges)
    flags += _spacing(facts, ranges)
    flags += _intensities(facts, ranges)
    if crop is not None and crop.coverage < 1:
        flags.append(Flag("TUMOUR_LARGER_THAN_CROP",
                          f"The crop holds {crop.coverage:.0%} of the tumour; the rest was not looked at."))
    if measurements.tumour_share > MAX_TUMOUR_SHARE:
        flags.append(Flag("TUMOUR_SHARE", f"The tumour is {measurements.tumour_share:.0%} of liver and tumour; the "
                          f"training cohort had at most {MAX_TUMOUR_SHARE:.0%}."))
    return tuple(flags)


def _body_part(measurements: Measurements, ranges: dict[str, tuple[float, float]]) -> list[Flag]:
    if measurements.liver_ml == 0:
        return [Flag("WRONG_BODY_PART", "No liver was found in the image.")]
    if "liver_ml" in ranges:
        low, high = ranges["liver_ml"]
        whole = measurements.liver_ml
        if not low / LIVER_FACTOR <= whole <= high * LIVER_FACTOR:
            return [Flag("WRONG_BODY_PART", f"The liver measures {whole:.0f} ml, against {low:.0f} to {high:.0f} ml "
                         "in the training cohort: wrong body part, or not the whole liver.")]
    return []


def _spacing(facts: dict[str, float], ranges: dict[str, tuple[float, float]]) -> list[Flag]:
    for name in ("spacing_x", "spacing_y", "spacing_z"):
        if name in ranges:
            low, high = ranges[name]
            if not low / SPACING_FACTOR <= facts[name] <= high * SPACING_FACTOR:
                return [Flag("SPACING_FAR", f"A voxel spacing of {facts[name]:.2f} mm is far from the training "
                             f"cohort's {low:.2f} to {high:.2f} mm.")]
    return []


def _intensities(facts: dict[str, float], ranges: dict[str, tuple[float, float]]) -> list[Flag]:
    for name, structure in (("liver_intensity", "liver"), ("tumour_intensity", "tumour")):
        if name in ranges and name in facts:
            low, high = ranges[name]
            if not low - INTENSITY_MARGIN <= facts[name] <= high + INTENSITY_MARGIN:
                return [Flag("INTENSITIES_FAR", f"The mean intensity of the {structure} is {facts[name]:.2f} of the "
                             f"image's range, against {low:.2f} to {high:.2f} in the training cohort.")]
    return []
