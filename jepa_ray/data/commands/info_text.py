"""Prints the description of a dataset on a terminal."""

from __future__ import annotations

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jepa_ray.cli import in_one_line
from jepa_ray.data.alignment import MEANINGS
from jepa_ray.data.commands.info import (
    MAX_SHOWN,
    ActionAlignment,
    ColumnInfo,
    Continuous,
    Description,
    Discrete,
    Lengths,
    MultiDiscrete,
    Repeats,
    Values,
)
from jepa_ray.formatting import format_number

MIN_NAME_WIDTH = 18  # names of columns up to this many characters are not folded
MAX_BAR_WIDTH = 24  # characters of the longest bar in the histogram


def print_description(description: Description, console: Console) -> None:
    """Print a description within the width of the console."""
    console.print(_key_value_table(_source_rows(description)))
    console.print()
    console.print(_column_table(description.columns))
    console.print()
    console.print(_key_value_table(_action_rows(description)))
    if description.refusal is not None:
        warning = f"warning: training would refuse this dataset: {in_one_line(description.refusal)}"
        console.print(Text(warning, "yellow"), soft_wrap=True)


def _key_value_table(rows: list[tuple[str, Text]]) -> Table:
    table = Table.grid(padding=(0, 2), pad_edge=False)
    table.add_column(style="bold", no_wrap=True, min_width=len("duplicates"))
    table.add_column(overflow="fold")
    for label, text in rows:
        table.add_row(label, text)
    return table


def _source_rows(description: Description) -> list[tuple[str, Text]]:
    counts = f"{description.trajectories:,} trajectories, {description.rows:,} rows"
    rows = [
        ("source", Text(in_one_line(description.source))),
        ("format", Text(description.format)),
        ("size", Text(f"{counts}, {description.transitions:,} transitions")),
    ]
    return rows if description.lengths is None else [*rows, ("lengths", _histogram(description.lengths))]


def _histogram(lengths: Lengths) -> Text:
    summary = f"rows per trajectory: min {lengths.low:,}, median {lengths.median:,g}, max {lengths.high:,}"
    names = [f"{bin_.low:,}" if bin_.low == bin_.high else f"{bin_.low:,}-{bin_.high:,}" for bin_ in lengths.bins]
    width, highest = max(map(len, names)), max(bin_.count for bin_ in lengths.bins)
    lines = [
        f"{name:>{width}} {_bar(bin_.count / highest)} {bin_.count:,}"
        for name, bin_ in zip(names, lengths.bins, strict=True)
    ]
    return Text("\n".join([summary, *lines]) if len(lines) > 1 else summary)


def _bar(share: float) -> str:
    """A bar of block characters with a resolution of 1/8 character; only a share of 0 gives an empty bar."""
    eighths = max(int(share > 0), round(share * MAX_BAR_WIDTH * 8))
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def _column_table(columns: tuple[ColumnInfo, ...]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    longest = max((len(column.name) for column in columns), default=0)
    table.add_column("column", overflow="fold", no_wrap=longest <= MIN_NAME_WIDTH)
    for title in ("shape", "dtype"):
        table.add_column(title, no_wrap=True)
    for title in ("min", "max", "mean", "NaN"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("constant", overflow="fold")
    for column in columns:
        about = ("",) * 5 if column.values is None else _value_cells(column.values)
        shape = "x".join(map(str, column.shape)) or "scalar"
        table.add_row(*(Text(cell) for cell in (in_one_line(column.name), shape, column.dtype, *about)))
    return table


def _value_cells(values: Values) -> tuple[str, ...]:
    bad = f"{values.nan:,}" + (f" (+{values.infinite:,} inf)" if values.infinite else "")
    if values.low is None or values.high is None or values.mean is None:
        return "", "", "", bad, _format_constant(values)
    return format_number(values.low), format_number(values.high), f"{values.mean:.3g}", bad, _format_constant(values)


def _format_constant(values: Values) -> str:
    if not values.constant:
        return ""
    if len(values.constant) == values.dims:
        return "all" if values.dims > 1 else "yes"
    count = f"{len(values.constant):,} of {values.dims:,}"
    runs = _group_runs(values.constant)
    return count if len(runs) > MAX_SHOWN else f"{count}: {', '.join(runs)}"


def _group_runs(numbers: tuple[int, ...]) -> list[str]:
    """(0, 4, 5, 6) -> ["0", "4-6"]."""
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
    runs = np.split(np.array(numbers), breaks)
    return [f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]


def _format_range(low: float, high: float) -> str:
    return f"{format_number(low)} … {format_number(high)}" if low <= high else "no finite value"


def _action_rows(description: Description) -> list[tuple[str, Text]]:
    rows = [("actions", Text(_format_actions(description.actions)))]
    if description.alignment is not None:
        rows.append(("alignment", Text(_format_alignment(description.alignment))))
    if description.repeats is not None:
        rows.append(("duplicates", Text(_format_repeats(description.repeats))))
    rows.append(
        (
            "memory",
            Text(f"{_format_bytes(description.memory)} when loaded for training (observation, action and state)"),
        )
    )
    return rows + [("note", Text(in_one_line(note))) for note in description.notes]


def _format_actions(actions: Continuous | Discrete | MultiDiscrete | None) -> str:
    match actions:
        case Continuous(dims, ranges):
            return f"continuous, {_format_dims(dims)}{_format_ranges(ranges)}"
        case MultiDiscrete(dims, ranges):
            return f"multi-discrete, {_format_dims(dims)}{_format_ranges(ranges)}"
        case Discrete(distinct, shares):
            shown = ", ".join(f"{value} ({share:.1%})" for value, share in shares)
            more = f", and {distinct - len(shares):,} rarer values" if distinct > len(shares) else ""
            return f"discrete, {distinct:,} value{'s' * (distinct != 1)}: {shown}{more}"
    return "not usable for training: neither float vectors nor integers"


def _format_dims(dims: int) -> str:
    return f"{dims:,} dimension{'s' * (dims != 1)}"


def _format_ranges(ranges: tuple[tuple[float, float], ...]) -> str:
    return ": " + ", ".join(_format_range(low, high) for low, high in ranges) if ranges else ""


def _format_alignment(found: ActionAlignment) -> str:
    verdict = "the data does not decide" if found.verdict is None else f"the data says {found.verdict}"
    return f"{found.rule} by the format ({MEANINGS[found.rule]}); {verdict}: {found.evidence}"


def _format_repeats(repeats: Repeats) -> str:
    shown = ", ".join(map(str, repeats.episodes[:MAX_SHOWN])) + ", …" * (len(repeats.episodes) > MAX_SHOWN)
    count = len(repeats.episodes)
    text = f"{count:,} episode{'s' * (count != 1)} identical to an earlier one" + (f" ({shown})" if count else "")
    if repeats.unchanged is None:
        return text
    return f"{text}; the observation stays the same in {repeats.unchanged:.1%} of steps"


def _format_bytes(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
