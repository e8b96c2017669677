"""Tables for people: columns as wide as their widest cell, headers bold, numbers to the right."""

from __future__ import annotations

from collections.abc import Sequence
from unicodedata import combining, east_asian_width

from pgrecall.cli.output import Line, Span, escape

Cell = str | Span


def table(
    rows: Sequence[Sequence[Cell]], *, header: Sequence[str] = (), right: Sequence[int] = (), gap: int = 2
) -> list[Line]:
    """Lines of the table; columns named by number in `right` are aligned to the right; rows may end early."""
    every: list[list[Span]] = [[Span(name, "bold") for name in header]] if header else []
    every += [[_span(cell) for cell in row] for row in rows]
    widths = [
        max(width(row[column].text) for row in every if column < len(row))
        for column in range(max((len(row) for row in every), default=0))
    ]
    return [_line(row, widths, frozenset(right), gap) for row in every]


def _line(row: list[Span], widths: list[int], right: frozenset[int], gap: int) -> Line:
    parts: list[Span] = []
    for column, cell in enumerate(row):
        pad = " " * (widths[column] - width(cell.text))
        last = column == len(row) - 1
        parts += [Span(pad), cell] if column in right else [cell, Span("" if last else pad)]
        parts.append(Span("" if last else " " * gap))
    return tuple(parts)


def width(text: str) -> int:
    """Columns that a terminal gives to the text."""
    return sum(0 if combining(c) else 2 if east_asian_width(c) in "WF" else 1 for c in text)


def _span(cell: Cell) -> Span:
    span = cell if isinstance(cell, Span) else Span(cell)
    return Span(escape(span.text), span.style)
