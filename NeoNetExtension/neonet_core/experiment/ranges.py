"""What the training cohort's images look like, so that `predict` can say when a new one does not."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from neonet_core.measurements import image_facts
from neonet_core.training.prepared import PreparedCase


def cohort_ranges(cases: Sequence[PreparedCase]) -> dict[str, tuple[float, float]]:
    """Lowest and highest value of each figure of `image_facts` over the training cases."""
    facts = [image_facts(np.asarray(case.image), np.asarray(case.label_map), case.spacing) for case in cases]
    return {name: (min(f[name] for f in facts if name in f), max(f[name] for f in facts if name in f))
            for name in facts[0]}
