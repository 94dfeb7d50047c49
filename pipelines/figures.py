"""Figures as text."""

from __future__ import annotations

from collections.abc import Sequence


def figures_table(
    head: Sequence[str], rows: Sequence[tuple[str, Sequence[float]]], decimals: Sequence[int]
) -> str:
    """Return a table in Markdown, with padding so that it reads as one in plain text too.

    Args:
        head: Names of the columns, the first of which holds the rows' titles.
        rows: Title and figures of each row.
        decimals: Places after the point, for each column of figures.
    """
    cells = [list(head)]
    for title, row in rows:
        figures = [f"{value:.{places}f}" for value, places in zip(row, decimals, strict=True)]
        cells.append([title, *figures])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "| " + " | ".join(text.rjust(width) for text, width in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    rule = "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|"
    return "\n".join([lines[0], rule, *lines[1:]])
