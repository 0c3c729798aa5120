"""HTML pages from the templates of the library: self-contained, all text escaped, nothing undefined passed over."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Environment


def page_environment() -> Environment:
    """Where the templates ``case.html`` and ``run.html`` are found, with the style that they share (``page.css``)."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(loader=PackageLoader("neonet_core", "resources/templates"), autoescape=True,
                       undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
