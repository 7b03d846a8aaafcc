"""Plain-text tables for the terminal."""

from collections.abc import Mapping, Sequence


def format_table(title: str, columns: Mapping[str, Mapping[str, float | None]], rows: Sequence[str]) -> str:
    """Lay out numbers in aligned columns, three decimals, a dash where there is none.

    Args:
        title (`str`): heading of the row names.
        columns (`Mapping[str, Mapping[str, float | None]]`): for each column its values by row name.
        rows (`Sequence[str]`): names of the rows, in order.

    Examples:
        >>> print(format_table("metric", {"before": {"depth": 0.5}, "after": {"depth": 0.125}}, ["depth"]))
        metric  before  after
        ------  ------  -----
        depth    0.500  0.125
    """
    body = [[row, *(_number(values.get(row)) for values in columns.values())] for row in rows]
    header = [title, *columns]
    widths = [max(len(line[index]) for line in [header, *body]) for index in range(len(header))]
    ruled = [header, ["-" * width for width in widths], *body]
    return "\n".join("  ".join(map(_aligned, line, range(len(line)), widths)) for line in ruled)


def _aligned(cell: str, column: int, width: int) -> str:
    """Row names to the left, numbers to the right."""
    return cell.rjust(width) if column else cell.ljust(width)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"
