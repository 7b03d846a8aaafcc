"""Facts as Markdown that stays well-formed whatever characters the facts hold."""

import math
import re
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any


_COMMERCIAL_USE = {True: "not allowed", False: "allowed", None: None}
_MARKDOWN_CHARACTERS = re.compile(r"[\\`*\[\]<>|]")


def plain(value: Any) -> str:
    """Write a value as one line of text that Markdown and HTML leave alone, in a sentence as in a table cell.

    Args:
        value (`Any`): numbers are rounded to four significant digits, sequences are joined by commas.
    """
    if isinstance(value, Enum):
        value = value.value
    if isinstance(value, bool):
        text = "yes" if value else "no"
    elif isinstance(value, float):
        text = f"{value:.4g}" if math.isfinite(value) else str(value)
    elif isinstance(value, int):
        text = f"{value:,}"
    elif isinstance(value, list | tuple):
        return ", ".join(plain(item) for item in value)
    else:
        text = " ".join(str(value).split())
    return _MARKDOWN_CHARACTERS.sub(lambda match: "\\" + match[0], text)


def duration(seconds: float) -> str:
    """Write a duration with its two largest units, e.g. `1 h 12 min`."""
    seconds = round(seconds)
    units = [(seconds // 3600, "h"), (seconds % 3600 // 60, "min"), (seconds % 60, "s")]
    first = next((index for index, (amount, _) in enumerate(units) if amount), 2)
    return " ".join(f"{amount} {unit}" for amount, unit in units[first : first + 2] if amount or first == 2)


def byte_size(count: float) -> str:
    """Write a number of bytes with three digits, in the decimal units that the Hub uses, e.g. `66.1 MB`."""
    for unit in ("bytes", "kB", "MB", "GB", "TB"):
        if count < 999.5 or unit == "TB":
            break
        count /= 1000
    return f"{round(count)} {unit}" if unit == "bytes" or count >= 99.95 else f"{count:.3g} {unit}"


def table(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    """Lay out a Markdown table; columns of numbers are set flush right, `None` becomes an empty cell.

    Args:
        header (`Sequence[str]`): titles of the columns.
        rows (`Sequence[Sequence[Any]]`): cells, as many in each row as there are titles.

    Returns:
        `str`: The table, or an empty string without rows.
    """
    if not rows:
        return ""
    numeric = [all(isinstance(cell, int | float | None) for cell in column) for column in zip(*rows, strict=True)]
    lines = [
        [plain(title) for title in header],
        ["---:" if is_numeric else "---" for is_numeric in numeric],
        *(["" if cell is None else plain(cell) for cell in row] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def networks_table(teacher: Any | None, metric: Any | None, others: Sequence[Any] = ()) -> str:
    """Lay out who set targets, and on what terms; an empty string without anybody.

    Args:
        teacher (`TeacherFacts`, *optional*): who gave the geometry.
        metric (`TeacherFacts`, *optional*): who gave the length of its unit.
        others (`Sequence[TeacherFacts]`, *optional*): who gave targets beside them, or before.
    """
    networks = [(teacher, "geometry"), (metric, "metric scale"), *((other, "further targets") for other in others)]
    rows = [
        [
            network.name,
            getattr(network, "revision", None),
            given,
            network.licence,
            _COMMERCIAL_USE[network.non_commercial],
        ]
        for network, given in networks
        if network is not None
    ]
    header = ["network", "revision", "what it gave", "licence of its weights", "commercial use"]
    if not any(row[1] for row in rows):
        header, rows = header[:1] + header[2:], [row[:1] + row[2:] for row in rows]
    return table(header, rows)


def loss_table(log_history: Sequence[Mapping[str, Any]], max_rows: int = 12) -> str:
    """Lay out the training losses of a run.

    Args:
        log_history (`Sequence[Mapping[str, Any]]`):
            Entries of [`~transformers.TrainerState`]`.log_history`. Those without a training `loss` are passed over.
        max_rows (`int`, *optional*, defaults to 12):
            A longer history is thinned evenly; its first and last entry stay.

    Returns:
        `str`: A Markdown table with a column for each loss that was logged, or an empty string if none was.
    """
    logged = [entry for entry in log_history if "loss" in entry]
    if len(logged) > max_rows:
        logged = [logged[round(row * (len(logged) - 1) / (max_rows - 1))] for row in range(max_rows)]
    names = dict.fromkeys(
        name for entry in logged for name in entry if name.endswith("_loss") and not name.startswith("eval_")
    )
    columns = ["step", "epoch", "loss", *names]
    return table(columns, [[entry.get(column) for column in columns] for entry in logged])
