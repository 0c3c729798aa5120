"""A table of figures, and how it is written: Markdown, CSV, LaTeX; the HTML page asks for the same texts."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

MISSING = "–"
LATEX = {"\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
         "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "±": r"$\pm$", "×": r"$\times$", "↑": r"$\uparrow$",
         "↓": r"$\downarrow$", "−": "$-$", "–": "--", "’": "'", "“": "``", "”": "''", "<": r"\textless{}",
         ">": r"\textgreater{}", "|": r"\textbar{}", "≥": r"$\geq$", '"': r"\textquotedbl{}"}


@dataclass(frozen=True)
class Interval:
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float


class PValue(float):
    """A number that is written as small where it would be rounded to nothing."""


@dataclass(frozen=True)
class Missing:
    """A cell without number, and why."""

    reason: str


def paper_text(value: float | None) -> str | Missing:
    """The cell of a figure of the paper's."""
    return Missing("not in the paper") if value is None else f"{value:.4f}"


@dataclass(frozen=True)
class Table:
    """A table that is ready to be written.

    Attributes
    ----------
    name : str
        Of its file, e.g. ``table3``.
    title : str
    columns : sequence of str
    rows : sequence of sequences
        A cell is a text, a number, a list of numbers (one for each fold: written as mean and spread), an `Interval`,
        `Missing`, None, or a tuple of these: the lines of one cell.
    notes : sequence of str
        What the numbers are: protocol, who measured, what is missing and why.
    records : sequence of mappings
        What the CSV holds, where that is more than the rows: every number on its own, unrounded.
    digits : int or None
        Decimals of every number that is not whole; None: four significant figures.
    """

    name: str
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    notes: Sequence[str] = field(default_factory=tuple)
    records: Sequence[Mapping[str, Any]] = ()
    digits: int | None = None

    def lines(self, cell: Any) -> list[str]:
        """A cell as text, line by line."""
        return [self._text(part) for part in cell] if isinstance(cell, tuple) else [self._text(cell)]

    def markdown(self) -> str:
        """The table in Markdown, notes below."""
        of_text = [all(isinstance(row[column], str) for row in self.rows) for column in range(len(self.columns))]
        lines = [f"## {markdown_text(self.title)}", "",
                 "| " + " | ".join(markdown_text(name) for name in self.columns) + " |",
                 "|" + "|".join(" --- " if text else " ---: " for text in of_text) + "|"]
        lines += ["| " + " | ".join("<br>".join(map(markdown_text, self.lines(cell))) for cell in row) + " |"
                  for row in self.rows]
        return "\n".join([*lines, "", *(f"- {markdown_text(note)}" for note in self.notes), ""])

    def csv(self) -> str:
        """The records, or else the rows, as CSV; a list becomes its mean, a cell of several lines its first."""
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        columns = list(dict.fromkeys(key for record in self.records for key in record)) or list(self.columns)
        rows = [[record.get(key) for key in columns] for record in self.records] or self.rows
        writer.writerow(columns)
        writer.writerows([[_plain(cell) for cell in row] for row in rows])
        return stream.getvalue()

    def latex(self) -> str:
        """A ``table`` environment in the manner of booktabs, no wider than the page, notes below."""
        rows = [" & ".join(self._latex_cell(cell) for cell in row) + r" \\" for row in self.rows]
        return "\n".join([
            r"\begin{table}[p]", r"\centering\footnotesize", rf"\caption*{{{latex_text(self.title)}}}",
            r"\begin{adjustbox}{max width=\linewidth, max totalheight=0.72\textheight}",
            rf"\begin{{tabular}}{{l{'c' * (len(self.columns) - 1)}}}", r"\toprule",
            " & ".join(map(latex_text, self.columns)) + r" \\", r"\midrule", *rows, r"\bottomrule",
            r"\end{tabular}", r"\end{adjustbox}", r"\begin{itemize}\setlength\itemsep{0pt}\scriptsize",
            *(rf"\item{{}} {latex_text(note)}" for note in self.notes), r"\end{itemize}", r"\end{table}", ""])

    def _latex_cell(self, cell: Any) -> str:
        lines = [latex_text(line) for line in self.lines(cell)]
        return lines[0] if len(lines) == 1 else r"\shortstack{" + r" \\ ".join(lines) + "}"

    def _text(self, cell: Any) -> str:
        if isinstance(cell, list):
            spread = f" ± {self._number(float(np.std(cell, ddof=1)))}" if len(cell) > 1 else ""
            return self._number(float(np.mean(cell))) + spread
        if isinstance(cell, Interval):
            return f"{self._number(cell.value)} ({self._number(cell.low)} to {self._number(cell.high)})"
        if isinstance(cell, Missing):
            return cell.reason
        if isinstance(cell, PValue) and cell < 0.001:
            return "< 0.001"
        return MISSING if cell is None else self._number(cell) if isinstance(cell, float) else str(cell)

    def _number(self, value: float) -> str:
        if self.digits is not None:
            return f"{round(value, self.digits) + 0.0:.{self.digits}f}"  # no "-0.000"
        return f"{value:.4g}" if abs(value) >= 1e-3 or value == 0 else f"{value:.1e}"


def latex_document(title: str, notice: str, tables: Sequence[Table]) -> str:
    """A document of its own, which any LaTeX with booktabs, caption and adjustbox compiles."""
    return "\n".join([
        r"\documentclass[10pt]{article}", r"\usepackage[T1]{fontenc}", r"\usepackage[utf8]{inputenc}",
        r"\usepackage[a4paper,landscape,margin=15mm]{geometry}", r"\usepackage{booktabs,caption,adjustbox}",
        r"\begin{document}", rf"\section*{{{latex_text(title)}}}", rf"\noindent {latex_text(notice)}", r"\clearpage",
        *(table.latex() for table in tables), r"\end{document}", ""])


def markdown_text(text: str) -> str:
    """Text that Markdown does not read as mark-up."""
    return re.sub(r"([\\`*_<|\[])", r"\\\1", text.replace("\n", " "))


def latex_text(text: str) -> str:
    """Text that LaTeX does not read as commands."""
    return "".join(LATEX.get(letter, letter) for letter in text.replace("\n", " "))


def _plain(cell: Any) -> Any:
    if isinstance(cell, tuple):
        return _plain(cell[0])
    if isinstance(cell, list):
        return float(np.mean(cell))
    if isinstance(cell, Interval):
        return cell.value
    return "" if cell is None or isinstance(cell, Missing) else cell
