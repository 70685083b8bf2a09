"""Numbers, durations and times as a person reads them."""

from __future__ import annotations

import math
import time


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


def round_finite(value: float | None, digits: int = 5) -> float | None:
    """A number rounded to significant digits; None if it is missing, infinite or not a number, which JSON lacks."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.{digits}g}")
