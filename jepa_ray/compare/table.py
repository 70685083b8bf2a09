"""The comparison as a table, and as sentences that claim no more than the measurements support.

Two sides differ only if the ranges of their seeds do not overlap; otherwise there is "no clear difference". A claim is
supported or contradicted by the quantities that differ, never by a median alone.
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

Runs = Sequence[Measured]  # of one side, one per seed
Values = Sequence[float]  # one per seed; infinity if a target was not reached


@dataclass(frozen=True)
class Quantity:
    """A quantity that is measured once per run, and whether larger or smaller is better."""

    label: str
    of: Callable[[Measured], float | None]
    larger_is_better: bool
    digits: int = 0
    ratio: bool = True  # whether the quotient of two values is meaningful
    floor: float = -math.inf  # when sides are compared, smaller values count as this one
    summary: Callable[[Runs], str] | None = None  # text for a side, instead of median and range

    def show(self, value: float) -> str:
        """One value as text."""
        return f"{value:,.{self.digits}f}" if math.isfinite(value) else NOT_REACHED

    def values(self, runs: Runs) -> Values:
        """All values of a side; empty if one of them was not measured."""
        values = [self.of(run) for run in runs]
        return [] if None in values else [value for value in values if value is not None]

    def compared(self, runs: Runs) -> Values:
        """The values with `floor` applied, by which the sides are compared."""
        return [max(self.floor, value) for value in self.values(runs)]

    def cell(self, runs: Runs) -> str:
        """The table cell of a side: median, and minimum to maximum over seeds."""
        values = self.values(runs)
        if not values:
            return NOT_MEASURED
        median, short = self.show(statistics.median(values)), self.short(runs)
        return short if self.summary or median == short else f"{median} ({short})"

    def short(self, runs: Runs) -> str:
        """A side in a sentence: minimum to maximum over seeds."""
        if self.summary:
            return self.summary(runs)
        low, high = self.show(min(self.values(runs))), self.show(max(self.values(runs)))
        return low if low == high else f"{low} to {high}"


@dataclass(frozen=True)
class Claim:
    """A common claim about one aspect, and the quantities that it is judged by."""

    text: str
    ahead: Side
    quantities: Sequence[Quantity]


@dataclass(frozen=True)
class Finding:
    """The result for one quantity."""

    ahead: Side | None  # None: no clear difference
    text: str


@dataclass(frozen=True)
class Row:
    """A line of the table; only the first line of an aspect has its name."""

    aspect: str
    label: str
    jepa: str
    generative: str


@dataclass(frozen=True)
class Comparison:
    """The comparison of all runs, as text."""

    rows: Sequence[Row]
    sentences: Sequence[str]  # one per aspect
    notes: Sequence[str]

    def markdown(self, title: str) -> str:
        """The comparison as a Markdown page."""
        head = ["| | measured | JEPA | generative |", "|---|---|---|---|"]
        lines = [f"| {r.aspect and f'**{r.aspect}**'} | {r.label} | {r.jepa} | {r.generative} |" for r in self.rows]
        sentences = [f"- {sentence}" for sentence in self.sentences]
        return "\n".join([f"# {title}", "", *head, *lines, "", *sentences, "", *self.notes, ""])


def compare(runs: Runs, target: float) -> Comparison:
    """Compare `runs`, which have the same seeds on both sides; `target` is a val_rollout_mrr."""
    jepa, generative = ([run for run in runs if run.side == side] for side in SIDES)
    rows, sentences = _objective_rows(jepa, generative), [_objective_sentence(jepa[0], generative[0])]
    for aspect, claim in list_claims(target).items():
        cells = [(q.label, q.cell(jepa), q.cell(generative)) for q in claim.quantities]
        rows += _named(aspect, cells + [(label, of(jepa), of(generative)) for label, of in CONTEXT.get(aspect, ())])
        sentences.append(f"{aspect.capitalize()}: {judge(claim, jepa, generative)}")
    return Comparison(rows, sentences, _notes(jepa, generative))


# ----------------------------------------------------------------------------------- claims


def list_claims(target: float) -> dict[str, Claim]:
    """By aspect: the common claim, and the quantities that it is judged by."""
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
    target_name = f"val_rollout_mrr {target:g}"
    return (
        Quantity(f"seconds to {target_name}", lambda r: r.reached(target, "seconds"), larger_is_better=False, digits=1),
        Quantity(f"epochs to {target_name}", lambda r: r.reached(target, "epoch"), larger_is_better=False),
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
    floor=0.0,  # predicting the mean state already gives 0
)

# Further lines of the table, which do not affect the verdicts.
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
    """The success rate over the tasks of all seeds together, with its interval."""
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
    return f"{max(ends) - min(ends):.3f}" if len(ends) > 1 else "not defined for one seed"


def _form(run: Measured) -> str:
    return "an embedding" if run.side == "jepa" else "an embedding, and the observation decoded from it"


# ---------------------------------------------------------------------------------------- sentences


def judge(claim: Claim, jepa: Runs, generative: Runs) -> str:
    """One sentence: whether the quantities support the claim, and the result for each of them."""
    findings = [compare_sides(quantity, jepa, generative) for quantity in claim.quantities]
    ahead = {found.ahead for found in findings if found and found.ahead}
    if len(ahead) == 2:
        verdict = "disagree on"
    elif ahead:
        verdict = "support" if claim.ahead in ahead else "contradict"
    else:
        verdict = "do not decide whether"
    parts = [
        *(f"{NAMES[side]} is ahead in {_listed(findings, side)}" for side in SIDES if side in ahead),
        *([f"{_unclear(len(jepa))} in {_listed(findings, None)}"] if _listed(findings, None) else []),
        *(f"{f.label} was not measured" for f, found in zip(claim.quantities, findings, strict=True) if not found),
    ]
    return f'the figures {verdict} "{claim.text}": {"; ".join(parts)}.'


def compare_sides(quantity: Quantity, jepa: Runs, generative: Runs) -> Finding | None:
    """The side whose seeds are all better than those of the other. None if the quantity was not measured."""
    ours, theirs = quantity.compared(jepa), quantity.compared(generative)
    if not ours or not theirs:
        return None
    if len(jepa) < 2 or (max(ours) >= min(theirs) and max(theirs) >= min(ours)):
        return Finding(None, f"{quantity.label} (JEPA {quantity.short(jepa)}; generative {quantity.short(generative)})")
    jepa_ahead = (min(ours) > max(theirs)) == quantity.larger_is_better
    ahead, behind = (jepa, generative) if jepa_ahead else (generative, jepa)
    return Finding("jepa" if jepa_ahead else "generative", f"{quantity.label} ({_against(quantity, ahead, behind)})")


def _against(quantity: Quantity, ahead: Runs, behind: Runs) -> str:
    """Both medians, and their quotient if it is meaningful."""
    if quantity.summary:
        return f"{quantity.summary(ahead)}, against {quantity.summary(behind)}"
    a, b = (statistics.median(quantity.values(runs)) for runs in (ahead, behind))
    quotient = f", {a / b:.2f} times" if quantity.ratio and b > 0 and math.isfinite(a) and math.isfinite(b) else ""
    return f"{quantity.show(a)} against {quantity.show(b)}{quotient}"


def _listed(findings: Sequence[Finding | None], ahead: Side | None) -> str:
    return ", ".join(found.text for found in findings if found and found.ahead == ahead)


def _unclear(seeds: int) -> str:
    return "no clear difference" if seeds > 1 else "one seed per side shows no clear difference"


# ---------------------------------------------------------------------------- objective, and notes


def _named(aspect: str, cells: Sequence[tuple[str, str, str]]) -> list[Row]:
    return [Row(aspect if i == 0 else "", *line) for i, line in enumerate(cells)]


def _objective_rows(jepa: Runs, generative: Runs) -> list[Row]:
    """The parameter counts, which are the same for all seeds."""
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
            ("in addition, in the EMA target", f"{ours.target:,}", f"{theirs.target:,}"),
        ],
    )


def _objective_sentence(jepa: Measured, generative: Measured) -> str:
    ours, theirs = jepa.parameters, generative.parameters
    times = "as many" if ours.trained == theirs.trained else f"{ours.trained / theirs.trained:.2f} times the"
    in_memory = (ours.trained + ours.target) / (theirs.trained + theirs.target)
    return (
        f"Objective: JEPA predicts {jepa.predicted_numbers:,} numbers per step and the generative baseline"
        f" {generative.predicted_numbers:,}; JEPA trains {times} parameters ({ours.trained:,} against"
        f" {theirs.trained:,}), and with the target encoder it holds {in_memory:.2f} times the parameters."
    )


def _notes(jepa: Runs, generative: Runs) -> list[str]:
    seconds = [run.curve[-1]["seconds"] for run in (*jepa, *generative)]
    chance, seeds = jepa[0].final("val_mrr_chance"), len(jepa)
    notes = [
        f"Seeds: {seeds} per side; {min(seconds):.1f} to {max(seconds):.1f} s of training per run.",
        "Cells show the median and, in brackets, the minimum and maximum over seeds; planning pools the tasks of all"
        " seeds, with a 95 % Wilson interval.",
        "Memory is the peak in training or validation. A probe with R2 at or below 0 counts as 0: it predicts nothing.",
    ]
    if chance is not None:
        notes.append(f"Chance level of val_rollout_mrr: {chance:.3f}.")
    if seeds > 1:
        by_chance = 2 / math.comb(2 * seeds, seeds)
        notes.append(
            "A difference is clear if the ranges of the seeds do not overlap; if the sides were equal, this would"
            f" happen to any one quantity with probability {by_chance:.2g}."
        )
    reasons = sorted({run.planning_skipped for run in (*jepa, *generative) if run.planning_skipped})
    return notes + [f"No planning: {reason}." for reason in reasons]
