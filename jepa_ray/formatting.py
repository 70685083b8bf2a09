"""Numbers, durations and times as a person reads them."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from rich.cells import cell_len


def format_duration(seconds: float, *, unit: bool = False) -> str:
    """`1:02:03` (hours, minutes, seconds) or `2:03` (minutes, seconds); with `unit`, followed by ` h` or ` min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}:{minutes:02d}:{rest:02d}" + (" h" if unit else "")
    return f"{minutes}:{rest:02d}" + (" min" if unit else "")


def format_time(timestamp: float) -> str:
    """A Unix time in seconds as `2026-01-31 12:00 UTC`."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(timestamp))


def format_cell(value: object, *, nan: str = "") -> str:
    """A value of a table: floats with four significant digits, None as "", not a number as `nan`."""
    if value is None:
        return ""
    if isinstance(value, float):
        return nan if math.isnan(value) else f"{value:.4g}"
    return str(value)


def format_number(value: float) -> str:
    """A whole number below 10^12 with all its digits, any other number with four significant digits."""
    return str(int(value)) if value.is_integer() and abs(value) < 1e12 else f"{value:.4g}"


def format_count(count: int, noun: str) -> str:
    """`1 epoch` or `2 epochs`; for nouns with a plural in -s."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def label_keys(keys: Iterable[str]) -> dict[str, str]:
    """A label for each dotted key: its last part, or the full key where the last parts of two keys are equal."""
    parts = {key: key.rpartition(".")[2] for key in keys}
    counts = Counter(parts.values())
    return {key: part if counts[part] == 1 else key for key, part in parts.items()}


def list_params(params: Mapping[str, Any]) -> list[str]:
    """A configuration as `["ema_decay=0.99", "learning_rate=0.001"]`; floats have six significant digits."""
    labels = label_keys(params)
    values = {key: f"{value:g}" if isinstance(value, float) else str(value) for key, value in params.items()}
    return [f"{labels[key]}={value}" for key, value in values.items()]


def format_params(params: Mapping[str, Any]) -> str:
    """A configuration on one line: `ema_decay=0.99 learning_rate=0.001`."""
    return " ".join(list_params(params))


def pack_lines(items: Iterable[str], width: int) -> list[str]:
    """The items, separated by two spaces, in lines of at most `width` columns. An item is never broken or cut."""
    lines: list[str] = []
    for item in items:
        if lines and cell_len(lines[-1]) + 2 + cell_len(item) <= width:
            lines[-1] += f"  {item}"
        else:
            lines.append(item)
    return lines


def round_finite(value: float | None, digits: int = 5) -> float | None:
    """A number rounded to significant digits; None if it is missing, infinite or not a number, which JSON lacks."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.{digits}g}")
