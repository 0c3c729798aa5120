"""What the training cohort's images look like, so that `predict` can say when a new one does not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from neonet_core.training.prepared import PreparedCase


def image_facts(image: np.ndarray, label_map: np.ndarray, spacing: Sequence[float]) -> dict[str, float]:
    """Figures of one prepared case.

    Parameters
    ----------
    image : np.ndarray
        (X, Y, Z) in [0, 1].
    label_map : np.ndarray
        (X, Y, Z), 0, 1, 2.
    spacing : sequence of float
        Of these arrays, in mm.

    Returns
    -------
    dict
        Mean intensity of liver and of tumour (left out where there is none), volumes in ml.
    """
    millilitres = float(np.prod(spacing)) / 1000
    liver, tumour = image[label_map == 1], image[label_map == 2]
    facts = {"liver_ml": liver.size * millilitres, "tumour_ml": tumour.size * millilitres}
    if liver.size:
        facts["liver_intensity"] = float(liver.mean())
    if tumour.size:
        facts["tumour_intensity"] = float(tumour.mean())
    return facts


def cohort_ranges(cases: Sequence[PreparedCase]) -> dict[str, tuple[float, float]]:
    """Lowest and highest value of each figure of `image_facts` over the training cases."""
    facts = [image_facts(np.asarray(case.image), np.asarray(case.label_map), case.spacing) for case in cases]
    return {name: (min(f[name] for f in facts if name in f), max(f[name] for f in facts if name in f))
            for name in facts[0]}
