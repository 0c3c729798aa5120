"""Names of the classifiers that NeoCls compares (tables 2 and 5), as ``--models`` takes them.

Imports nothing: the command line reads the names before torch is there.
"""

from __future__ import annotations

VARIANTS: dict[str, dict[str, int | str]] = {
    "PattenNet": {},
    "PattenNet-channel": {"attention": "channel"},
    "PattenNet-spatial": {"attention": "spatial"},
    "PattenNet-0": {"dual_attention_blocks": 0},
    "PattenNet-1": {"dual_attention_blocks": 1},
    "PattenNet-2": {"dual_attention_blocks": 2},
    "PattenNet-3": {"dual_attention_blocks": 3},
    "PattenNet-duplicated": {"balance": "duplicate"},
    "PattenNet-weighted": {"balance": "weights"},
    "PattenNet-masks": {"inputs": "masks"},
}
"""PattenNet and its variants, as changes of `ClsSettings`."""

BASELINE_NAMES = (
    "ResNet-50", "ResNet-101", "ResNet-152", "ResNet-200",
    "DenseNet-121", "DenseNet-169", "DenseNet-201", "DenseNet-264",
    "EfficientNet-B0", "EfficientNet-B1", "EfficientNet-B2", "EfficientNet-B3",
    "Swin",
)
"""The 3D networks of table 2 that `build_baseline` builds."""

VOLUME = "Volume"
"""Logistic regression on the tumour's volume alone."""

CLASSIFIERS = (*VARIANTS, *BASELINE_NAMES, VOLUME)
"""All names."""

ABLATIONS = ("PattenNet-channel", "PattenNet-spatial", "PattenNet-0", "PattenNet-1", "PattenNet-2", "PattenNet-3")
"""Table 5: run at the highest share of synthetic cases only."""

CONTROLS = ("PattenNet-duplicated", "PattenNet-weighted", "PattenNet-masks", VOLUME)
"""What synthetic cases must beat: run on real cases only."""
