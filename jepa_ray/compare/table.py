"""Figures to a table, and to sentences that say no more than the figures do.

Two sides differ only where the ranges of their seeds do not overlap; everything else is "no clear difference". A claim
is supported or contradicted by the figures that differ, never by a median alone.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from jepa_ray.compare.result import SIDES, Measured, Side
from jepa_ray.planning.success import Rate

NAMES: dict[Side, str] = {"jepa": "JEPA", "generative": "the generative baseline"}
NOT_REACHED, NOT_MEASURED = "not reached", "not measured"

Runs = Sequence[Measured]  # of one side, one a seed
Values = Sequence[float]  # one a seed; infinity where a target was not reached


@dataclass(frozen=True)
class Quantity:
    """Something measured once per run that has a better direction."""

    label: str
    of: Callable[[Measured], float | None]
    larger_is_better: bool
    digits: int = 0
    ratio: bool = True  # whether a quotient of two values means something
    floor: float = -math.inf  # values below are as good as this one when sides are compared
    summary: Callable[[Runs], str] | None = None  # of a side, in place of median and range

    def show(self, value: float) -> str:
        """One value."""
        return f"{value:,.{self.digits}f}" if math.isfinite(value) else NOT_REACHED

    def values(self, runs: Runs) -> Values:
        """All values of a side; none if one of them was not measured."""
        values = [self.of(run) for run in runs]
        return [] if None in values else [value for value in values if value is not None]

    def compared(self, runs: Runs) -> Values:
        """`values`, as the sides are compared by."""
        return [max(self.floor, value) for value in self.values(runs)]

    def cell(self, runs: Runs) -> str:
        """A side in the table: median, and least to largest over seeds."""
        values = self.values(runs)
        if not values:
            return NOT_MEASURED
        median, short = self.show(statistics.median(values)), self.short(runs)
        return short if self.summary or median == short else f"{median} ({short})"

    def short(self, runs: Runs) -> str:
        """A side in a sentence: least to largest over seeds."""
        if self.summary:
            return self.summary(runs)
        low, high = self.show(min(self.values(runs))), self.show(max(self.values(runs)))
        return low if low == high else f"{low} to {high}"


@dataclass(frozen=True)
class Claim:
    """What is usually said of one aspect, and what bears on it."""

    text: str
    ahead: Side
    figures: Sequence[Quantity]


@dataclass(frozen=True)
class Finding:
    """What one figure says of the two sides."""

    ahead: Side | None  # None: no clear difference
    text: str


@dataclass(frozen=True)
class Row:
    """A line of the table; the first of an aspect carries its name."""

    aspect: str
    label: str
    jepa: str
    generative: str


@dataclass(frozen=True)
class Comparison:
    """All runs of both sides, ready to be written."""

    rows: Sequence[Row]
    sentences: Sequence[str]  # one an aspect
    notes: Sequence[str]

    def markdown(self, title: str) -> str:
        """The comparison as a page."""
        head = ["| | measured | JEPA | generative |", "|---|---|---|---|"]
        lines = [f"| {r.aspect and f'**{r.aspect}**'} | {r.label} | {r.jepa} | {r.generative} |" for r in self.rows]
        sentences = [f"- {sentence}" for sentence in self.sentences]
        return "\n".join([f"# {title}", "", *head, *lines, "", *sentences, "", *self.notes, ""])


def compare(runs: Runs, target: float) -> Comparison:
    """The comparison of `runs`, the same seeds on both sides; `target` is a val_rollout_mrr."""
    jepa, generative = ([run for run in runs if run.side == side] for side in SIDES)
    rows, sentences = _objective_rows(jepa, generative), [_objective_sentence(jepa[0], generative[0])]
    for aspect, claim in claims(target).items():
        cells = [(f.label, f.cell(jepa), f.cell(generative)) for f in claim.figures]
        rows += _named(aspect, cells + [(label, of(jepa), of(generative)) for label, of in CONTEXT.get(aspect, ())])
        sentences.append(f"{aspect.capitalize()}: {judge(claim, jepa, generative)}")
    return Comparison(rows, sentences, _notes(jepa, generative))


# ----------------------------------------------------------------------------------- what is judged


def claims(target: float) -> dict[str, Claim]:
    """By aspect: what is usually claimed, and the figures it is judged by."""
    return {
        "efficiency": Claim("JEPA is more efficient than generative models", "jepa", _efficiency(target)),
        "speed": Claim(
            "JEPA trains faster than generative models",
            "jepa",
            (Quantity("training samples/s", lambda r: r.samples_per_s, larger_is_better=True),),
        ),
        "stability": Claim("JEPA is more stable, as its EMA target prevents collapse", "jepa", STABILITY),
        "interpretability": Claim(
            "generative models are more interpretable",
            "generative",
            (READABLE,),
        ),
    }


def _efficiency(target: float) -> tuple[Quantity, ...]:
    goal = f"val_rollout_mrr {target:g}"
    return (
        Quantity(f"seconds to {goal}", lambda r: r.reached(target, "seconds"), larger_is_better=False, digits=1),
        Quantity(f"epochs to {goal}", lambda r: r.reached(target, "epoch"), larger_is_better=False),
        Quantity("val_rollout_mrr at the end", lambda r: r.final("val_rollout_mrr"), larger_is_better=True, digits=3),
        Quantity(
            "peak MB of memory above idle",
            lambda r: r.memory.above_idle_mb if r.memory else None,
            larger_is_better=False,
        ),
        Quantity(
            "planning success of the best model",
            lambda r: r.planning.success.value if r.planning else None,
            larger_is_better=True,
            summary=lambda runs: _success(runs),
        ),
    )


STABILITY = (
    Quantity(
        "fall of val_rollout_mrr, best epoch to end",
        lambda r: r.best_mrr - (r.final("val_rollout_mrr") or 0),
        larger_is_better=False,
        digits=3,
        ratio=False,
    ),
    Quantity(
        "runs collapsed at the end",
        lambda r: float(r.collapsed),
        larger_is_better=False,
        ratio=False,
        summary=lambda runs: f"{sum(run.collapsed for run in runs)} of {len(runs)}",
    ),
)

READABLE = Quantity(
    "rollout_probe_r2 at the end",
    lambda r: r.final("rollout_probe_r2"),
    larger_is_better=True,
    digits=3,
    ratio=False,
    floor=0.0,  # the mean state does as well as any probe below
)

# Lines of the table that no claim is judged by.
CONTEXT: dict[str, tuple[tuple[str, Callable[[Runs], str]], ...]] = {
    "efficiency": (
        ("planning success of random actions", lambda runs: _random_floor(runs)),
        (
            "peak MB of memory, idle included",
            Quantity("", lambda r: r.memory.peak_mb if r.memory else None, larger_is_better=False).cell,
        ),
    ),
    "speed": (("epochs in that time", Quantity("", lambda r: len(r.curve), larger_is_better=True).cell),),
    "stability": (("spread of val_rollout_mrr at the end, max - min", lambda runs: _spread(runs)),),
    "interpretability": (("a prediction can be seen as", lambda runs: _form(runs[0])),),
}


def _pooled(rates: Sequence[Rate]) -> str:
    """All tasks of all seeds together, with the interval of their number."""
    return str(Rate(sum(rate.successes for rate in rates), sum(rate.episodes for rate in rates)))


def _success(runs: Runs) -> str:
    rates = [run.planning.success for run in runs if run.planning]
    low, high = min(rate.value for rate in rates), max(rate.value for rate in rates)
    return _pooled(rates) + (f", seeds {low:.0%} to {high:.0%}" if len(rates) > 1 else "")


def _random_floor(runs: Runs) -> str:
    rates = [run.planning.random for run in runs if run.planning]
    return _pooled(rates) if len(rates) == len(runs) else NOT_MEASURED


def _spread(runs: Runs) -> str:
    ends = [run.final("val_rollout_mrr") or 0 for run in runs]
    return f"{max(ends) - min(ends):.3f}" if len(ends) > 1 else "one seed has none"


def _form(run: Measured) -> str:
    return "an embedding" if run.side == "jepa" else "an embedding, and the observation decoded from it"


# ---------------------------------------------------------------------------------------- sentences


def judge(claim: Claim, jepa: Runs, generative: Runs) -> str:
    """One sentence: whether the figures bear the claim out, and each of them."""
    findings = [finding(figure, jepa, generative) for figure in claim.figures]
    ahead = {found.ahead for found in findings if found and found.ahead}
    if len(ahead) == 2:
        verdict = "point both ways on"
    elif ahead:
        verdict = "support" if claim.ahead in ahead else "contradict"
    else:
        verdict = "do not decide whether"
    parts = [
        *(f"{NAMES[side]} is ahead in {_listed(findings, side)}" for side in SIDES if side in ahead),
        *([f"{_unclear(len(jepa))} in {_listed(findings, None)}"] if _listed(findings, None) else []),
        *(f"{f.label} was not measured" for f, found in zip(claim.figures, findings, strict=True) if not found),
    ]
    return f'the figures {verdict} "{claim.text}": {"; ".join(parts)}.'


def finding(figure: Quantity, jepa: Runs, generative: Runs) -> Finding | None:
    """Which side is ahead in a figure: the one all of whose seeds are. None where it was not measured."""
    ours, theirs = figure.compared(jepa), figure.compared(generative)
    if not ours or not theirs:
        return None
    if len(jepa) < 2 or (max(ours) >= min(theirs) and max(theirs) >= min(ours)):
        return Finding(None, f"{figure.label} (JEPA {figure.short(jepa)}; generative {figure.short(generative)})")
    jepa_ahead = (min(ours) > max(theirs)) == figure.larger_is_better
    ahead, behind = (jepa, generative) if jepa_ahead else (generative, jepa)
    return Finding("jepa" if jepa_ahead else "generative", f"{figure.label} ({_against(figure, ahead, behind)})")


def _against(figure: Quantity, ahead: Runs, behind: Runs) -> str:
    """How far ahead: two medians, and their quotient where it means something."""
    if figure.summary:
        return f"{figure.summary(ahead)}, against {figure.summary(behind)}"
    a, b = (statistics.median(figure.values(runs)) for runs in (ahead, behind))
    quotient = f", {a / b:.2f} times" if figure.ratio and b > 0 and math.isfinite(a) and math.isfinite(b) else ""
    return f"{figure.show(a)} against {figure.show(b)}{quotient}"


def _listed(findings: Sequence[Finding | None], ahead: Side | None) -> str:
    return ", ".join(found.text for found in findings if found and found.ahead == ahead)


def _unclear(seeds: int) -> str:
    return "no clear difference" if seeds > 1 else "one seed a side shows no clear difference"


# ---------------------------------------------------------------------------- objective, and notes


def _named(aspect: str, cells: Sequence[tuple[str, str, str]]) -> list[Row]:
    return [Row(aspect if i == 0 else "", *line) for i, line in enumerate(cells)]


def _objective_rows(jepa: Runs, generative: Runs) -> list[Row]:
    """Counts of parameters, the same for all seeds."""
    predicts = [
        f"the next {what}: {runs[0].predicted_numbers:,} numbers"
        for what, runs in (("embedding", jepa), ("observation", generative))
    ]
    ours, theirs = jepa[0].parameters, generative[0].parameters
    return _named(
        "objective",
        [
            ("predicts", predicts[0], predicts[1]),
            ("trained parameters", f"{ours.trained:,}", f"{theirs.trained:,}"),
            ("of these in a decoder or heads", f"{ours.training_only:,}", f"{theirs.training_only:,}"),
            ("beside them, in the EMA target", f"{ours.target:,}", f"{theirs.target:,}"),
        ],
    )


def _objective_sentence(jepa: Measured, generative: Measured) -> str:
    ours, theirs = jepa.parameters, generative.parameters
    times = "as many" if ours.trained == theirs.trained else f"{ours.trained / theirs.trained:.2f} times the"
    in_memory = (ours.trained + ours.target) / (theirs.trained + theirs.target)
    return (
        f"Objective: JEPA predicts {jepa.predicted_numbers:,} numbers a step and the generative baseline"
        f" {generative.predicted_numbers:,}; JEPA trains {times} parameters ({ours.trained:,} against"
        f" {theirs.trained:,}), and with the target encoder it holds {in_memory:.2f} times the parameters."
    )


def _notes(jepa: Runs, generative: Runs) -> list[str]:
    seconds = [run.curve[-1]["seconds"] for run in (*jepa, *generative)]
    chance, seeds = jepa[0].final("val_mrr_chance"), len(jepa)
    notes = [
        f"Seeds: {seeds} a side; {min(seconds):.1f} to {max(seconds):.1f} s of training a run, validation not counted.",
        "Cells hold the median and, in brackets, the least and the largest over seeds; planning pools the tasks of all"
        " seeds, with a 95 % Wilson interval.",
        "Memory is at its peak in training or validation. A probe with R2 at or below 0 counts as 0: it reads nothing.",
    ]
    if chance is not None:
        notes.append(f"Chance level of val_rollout_mrr: {chance:.3f}.")
    if seeds > 1:
        by_chance = 2 / math.comb(2 * seeds, seeds)
        notes.append(
            "A difference is clear where the ranges of the seeds do not overlap; if the sides were equal, that would"
            f" happen to any one figure with probability {by_chance:.2g}."
        )
    reasons = sorted({run.planning_skipped for run in (*jepa, *generative) if run.planning_skipped})
    return notes + [f"No planning: {reason}." for reason in reasons]
