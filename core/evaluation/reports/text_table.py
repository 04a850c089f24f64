"""Tables as text."""

from collections.abc import Sequence


def format_table(
    title: str, left: str, right: str, heads: Sequence[str], rows: Sequence[Sequence[str]]
) -> str:
    """Formats a table whose two halves stand beside a bar, such as measured and published figures.

    Args:
        title: printed above the table.
        left, right: names of the two halves.
        heads: columns of the figures, the same in both halves.
        rows: cells of each row: data set, method, left figures, right figures.
    """
    top = ["Datasets", "Method", *heads, *heads]
    left_columns = 2 + len(heads)
    widths = [max(len(row[column]) for row in [top, *rows]) for column in range(len(top))]

    def format_row(cells: Sequence[str]) -> str:
        aligned = [
            cell.ljust(width) if column < 2 else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
        ]
        return "  ".join(aligned[:left_columns]) + "  |  " + "  ".join(aligned[left_columns:])

    left_width = len("  ".join(" " * width for width in widths[:left_columns]))
    return "\n".join([title, f"{left:>{left_width}}  |  {right}", *map(format_row, [top, *rows])])


def aligned_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Formats a table: the first column on the left, all others on the right."""
    lines = [heads, *rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(heads))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )
