"""A dataset's description as a terminal shows it."""

from __future__ import annotations

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jepa_ray.cli import in_one_line
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

LEAST_NAME = 18  # characters that a column's name may have without being folded
BAR = 24  # characters of the histogram's longest bar


def print_description(description: Description, console: Console) -> None:
    """Print it for people, in the console's width."""
    console.print(_facts(_head(description)))
    console.print()
    console.print(_column_table(description.columns))
    console.print()
    console.print(_facts(_tail(description)))
    if description.refusal is not None:
        warning = f"warning: training would refuse this: {in_one_line(description.refusal)}"
        console.print(Text(warning, "yellow"), soft_wrap=True)


def _facts(facts: list[tuple[str, Text]]) -> Table:
    table = Table.grid(padding=(0, 2), pad_edge=False)
    table.add_column(style="bold", no_wrap=True, min_width=len("duplicates"))
    table.add_column(overflow="fold")
    for label, text in facts:
        table.add_row(label, text)
    return table


def _head(description: Description) -> list[tuple[str, Text]]:
    counts = f"{description.trajectories:,} trajectories, {description.rows:,} rows"
    facts = [
        ("source", Text(in_one_line(description.source))),
        ("format", Text(description.format)),
        ("holds", Text(f"{counts}, {description.transitions:,} transitions")),
    ]
    return facts if description.lengths is None else [*facts, ("lengths", _histogram(description.lengths))]


def _histogram(lengths: Lengths) -> Text:
    summary = f"min {lengths.low:,}, median {lengths.median:,g}, max {lengths.high:,}"
    names = [f"{bin_.low:,}" if bin_.low == bin_.high else f"{bin_.low:,}-{bin_.high:,}" for bin_ in lengths.bins]
    wide, most = max(map(len, names)), max(bin_.count for bin_ in lengths.bins)
    lines = [
        f"{name:>{wide}} {_bar(bin_.count / most)} {bin_.count:,}"
        for name, bin_ in zip(names, lengths.bins, strict=True)
    ]
    return Text("\n".join([summary, *lines]) if len(lines) > 1 else summary)


def _bar(share: float) -> str:
    """Blocks to an eighth of a character; a bar of something is never empty."""
    eighths = max(int(share > 0), round(share * BAR * 8))
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def _column_table(columns: tuple[ColumnInfo, ...]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    longest = max((len(column.name) for column in columns), default=0)
    table.add_column("column", overflow="fold", no_wrap=longest <= LEAST_NAME)
    for title in ("shape", "dtype"):
        table.add_column(title, no_wrap=True)
    for title in ("min", "max", "mean", "NaN"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("constant", overflow="fold")
    for column in columns:
        about = ("",) * 5 if column.values is None else _cells(column.values)
        shape = "x".join(map(str, column.shape)) or "scalar"
        table.add_row(*(Text(cell) for cell in (in_one_line(column.name), shape, column.dtype, *about)))
    return table


def _cells(values: Values) -> tuple[str, ...]:
    bad = f"{values.nan:,}" + (f" (+{values.infinite:,} inf)" if values.infinite else "")
    if values.low is None or values.high is None or values.mean is None:
        return "", "", "", bad, _constant(values)
    return _number(values.low), _number(values.high), f"{values.mean:.3g}", bad, _constant(values)


def _constant(values: Values) -> str:
    if not values.constant:
        return ""
    if len(values.constant) == values.dims:
        return "all" if values.dims > 1 else "yes"
    count = f"{len(values.constant):,} of {values.dims:,}"
    runs = _runs(values.constant)
    return count if len(runs) > MAX_SHOWN else f"{count}: {', '.join(runs)}"


def _runs(numbers: tuple[int, ...]) -> list[str]:
    """(0, 4, 5, 6) -> ["0", "4-6"]."""
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
    runs = np.split(np.array(numbers), breaks)
    return [f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]


def _range(low: float, high: float) -> str:
    return f"{_number(low)} … {_number(high)}" if low <= high else "nothing finite"


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() and abs(value) < 1e12 else f"{value:.4g}"


def _tail(description: Description) -> list[tuple[str, Text]]:
    facts = [("actions", Text(_actions(description.actions)))]
    if description.alignment is not None:
        facts.append(("alignment", Text(_aligned(description.alignment))))
    if description.repeats is not None:
        facts.append(("duplicates", Text(_repeated(description.repeats))))
    facts.append(("memory", Text(f"{_size(description.memory)} when loaded (observation, action and state)")))
    return facts + [("note", Text(in_one_line(note))) for note in description.notes]


def _actions(actions: Continuous | Discrete | MultiDiscrete | None) -> str:
    match actions:
        case Continuous(dims, ranges):
            return f"continuous, {_dims(dims)}{_all_ranges(ranges)}"
        case MultiDiscrete(dims, ranges):
            return f"multi-discrete, {_dims(dims)}{_all_ranges(ranges)}"
        case Discrete(distinct, shares):
            shown = ", ".join(f"{value} ({share:.1%})" for value, share in shares)
            more = f", and {distinct - len(shares):,} rarer ones" if distinct > len(shares) else ""
            return f"discrete, {distinct:,} value{'s' * (distinct != 1)}: {shown}{more}"
    return "none that can be trained on"


def _dims(dims: int) -> str:
    return f"{dims:,} dimension{'s' * (dims != 1)}"


def _all_ranges(ranges: tuple[tuple[float, float], ...]) -> str:
    return ": " + ", ".join(_range(low, high) for low, high in ranges) if ranges else ""


READINGS = {"next": "action[t] leads from row t to t + 1", "previous": "action[t] led from row t - 1 to t"}


def _aligned(found: ActionAlignment) -> str:
    verdict = "undecided by the data" if found.verdict is None else f"the data says {found.verdict}"
    return f"{found.rule} by the layout ({READINGS[found.rule]}); {verdict}: {found.evidence}"


def _repeated(repeats: Repeats) -> str:
    shown = ", ".join(map(str, repeats.episodes[:MAX_SHOWN])) + ", …" * (len(repeats.episodes) > MAX_SHOWN)
    count = len(repeats.episodes)
    text = f"{count:,} episode{'s' * (count != 1)} identical to an earlier one" + (f" ({shown})" if count else "")
    return text if repeats.still is None else f"{text}; the observation stays the same in {repeats.still:.1%} of steps"


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"
