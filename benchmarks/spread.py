"""How the benchmarks here state a figure: its median, and the least and the most that was seen."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Spread:
    """Least, middle and largest of repeated measurements."""

    least: float
    median: float
    most: float
    count: int

    @classmethod
    def of(cls, values: Iterable[float]) -> Spread:
        """Of at least one value."""
        known = list(values)
        return cls(min(known), statistics.median(known), max(known), len(known))

    def cells(self, digits: int) -> list[str]:
        """Median, min, max and count, as cells of a table."""
        return [f"{value:,.{digits}f}" for value in (self.median, self.least, self.most)] + [str(self.count)]


def paired_ratios(above: Sequence[float], below: Sequence[float]) -> Spread:
    """Of two sides measured in the same rounds: the ratio of each round."""
    return Spread.of(a / b for a, b in zip(above, below, strict=True))


def all_ratios(above: Sequence[float], below: Sequence[float]) -> Spread:
    """Of two sides measured apart: the ratio of every measurement of one to every measurement of the other."""
    return Spread.of(a / b for a in above for b in below)


def show(console: Console, title: str, rows: dict[str, Spread], digits: int = 2) -> None:
    """A table with one line per side or ratio."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    for name in ("median", "min", "max", "n"):
        table.add_column(name, justify="right")
    for name, spread in rows.items():
        table.add_row(name, *spread.cells(digits))
    console.print(table)
