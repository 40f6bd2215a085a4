"""Plain aligned tables for the terminal; they stay readable in a pipe or a log, whatever the width."""

from __future__ import annotations

from collections.abc import Sequence


def aligned(header: Sequence[str], rows: Sequence[Sequence[object]], right: Sequence[str] = ()) -> str:
    """A table as text, two spaces between columns; the columns named in ``right`` are set flush right."""
    lines = [[str(cell) for cell in row] for row in (header, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    flush_right = [name in right for name in header]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, flush_right, strict=True)
        ).rstrip()
        for line in lines
    )
