"""How the benchmarks here report repeated measurements: median, minimum and maximum."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Spread:
    """Minimum, median and maximum of repeated measurements."""

    minimum: float
    median: float
    maximum: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Of at least one value."""
        measured = list(values)
        return cls(min(measured), statistics.median(measured), max(measured), len(measured))

    def cells(self, digits: int) -> list[str]:
        """Median, minimum, maximum and count, as cells of a table."""
        return [f"{value:,.{digits}f}" for value in (self.median, self.minimum, self.maximum)] + [str(self.count)]


def paired_ratios(above: Sequence[float], below: Sequence[float]) -> Spread:
    """The ratio in each round, for two sides that were measured in the same rounds."""
    return Spread.of(a / b for a, b in zip(above, below, strict=True))


def all_ratios(above: Sequence[float], below: Sequence[float]) -> Spread:
    """The ratio of every measurement of one side to every one of the other, for sides measured independently."""
    return Spread.of(a / b for a in above for b in below)


def show(console: Console, title: str, rows: dict[str, Spread], digits: int = 2) -> None:
    """Print a table with one line per side or ratio."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in ("median", "min", "max", "n"):
        table.add_column(name, justify="right")
    for name, spread in rows.items():
        table.add_row(name, *spread.cells(digits))
    console.print(table)
