"""Published networks as NeoNet bundles; the weights are fetched by the user and are no part of this project."""

IMPORTABLE = ("pyliverlesionseg",)
"""What ``neonet bundle import`` knows."""
