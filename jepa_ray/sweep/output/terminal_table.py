"""The leaderboard in a terminal, laid out so that nothing is cut at 80 columns and above.

Rank, trial number, status, objective and all swept keys are always shown in full. If the console is too narrow for all
columns, the others are dropped one after another (`LeaderboardColumn.drop`). If that is not enough, long headings are
wrapped, and at last each configuration is printed below its trial.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pandas as pd
from rich import box
from rich.cells import cell_len
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from jepa_ray.config import SweepConfig
from jepa_ray.formatting import pack_lines
from jepa_ray.sweep.output.leaderboard import LeaderboardColumn, list_columns

INDENT = "    "
Columns = Sequence[LeaderboardColumn]
Cells = dict[str, list[str]]  # the formatted values of a column, by its name


def print_leaderboard(frame: pd.DataFrame, spec: SweepConfig, console: Console, top: int = 10) -> None:
    """Print the first `top` rows of a leaderboard, in a layout that fits the console's width."""
    head = frame.head(top)
    title = f"{spec.name}: best {len(head)} of {len(frame)} trials by {spec.objective.metric}"
    console.print(Text(title, style="bold"), soft_wrap=True)
    columns = [column for column in list_columns(spec) if column.heading]
    cells = {column.name: [column.text(value) for value in head[column.name]] for column in columns}
    table = _choose_table(columns, cells, console)
    if table is not None:
        console.print(table)
        return
    for line in _list_blocks(columns, cells, set(spec.space), console.width):
        console.print(line, soft_wrap=True)


def _choose_table(columns: Columns, cells: Cells, console: Console) -> Table | None:
    """The table with the most columns that fits; None if not even the essential columns fit with wrapped headings."""
    for wrapped in (False, True):

        def fits(kept: Columns, wrapped: bool = wrapped) -> bool:
            return _measure(_make_table(kept, cells, wrapped=wrapped), console) <= console.width

        kept = _drop_until(columns, fits)
        if fits(kept):
            return _make_table(kept, cells, wrapped=wrapped)
    return None


def _measure(table: Table, console: Console) -> int:
    """The width of a table in which nothing is cut or wrapped."""
    unlimited = console.options.update(width=10_000)
    return Measurement.get(console, unlimited, table).maximum


def _drop_until(columns: Columns, fits: Callable[[Columns], bool]) -> Columns:
    """Drop optional columns one after another, until the rest fits or no optional column is left."""
    while not fits(columns):
        last = max(reversed(columns), key=lambda column: column.drop)
        if last.drop == 0:
            break
        columns = [column for column in columns if column is not last]
    return columns


def _make_table(columns: Columns, cells: Cells, *, wrapped: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=0)
    for column in columns:
        heading = _wrap_heading(column.heading or "") if wrapped else column.heading
        table.add_column(
            Text(heading or ""), justify="left" if column.name == "status" else "right", no_wrap=True, overflow="fold"
        )
    for row in zip(*(cells[column.name] for column in columns), strict=True):
        table.add_row(*map(Text, row))
    return table


def _wrap_heading(heading: str) -> str:
    """A line break after every underscore and dot."""
    return heading.replace("_", "_\n").replace(".", ".\n")


def _list_blocks(columns: Columns, cells: Cells, keys: set[str], width: int) -> list[Text]:
    """For each trial a line with its result, and below it its configuration, as many values per line as fit."""
    swept = [column for column in columns if column.name in keys]
    result = [column for column in columns if column.name not in keys]
    lines: list[Text] = []
    for row in range(len(next(iter(cells.values())))):

        def summarize(kept: Columns, row: int = row) -> str:
            return "  ".join(f"{column.heading} {cells[column.name][row] or '-'}" for column in kept)

        kept = _drop_until(result, lambda kept: cell_len(summarize(kept)) <= width)
        values = [f"{column.heading}={text}" for column in swept if (text := cells[column.name][row])]
        lines.append(Text(summarize(kept), style="bold"))
        lines += [Text(INDENT + line) for line in pack_lines(values, width - len(INDENT))]
    return lines
