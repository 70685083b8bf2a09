"""The timeline of a sweep: the epochs of all worker groups on one clock, and the idle time of the groups."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from jepa_ray.report.report_data import ReportData, Trial

MAX_BARS = 1500  # a plot with more bars is slow to draw and not easier to read


@dataclass(frozen=True)
class Span:
    """A time span in which a group trained, in seconds on the sweep's clock, which stops between sessions."""

    group: str
    began: float
    ended: float
    trial: str
    status: str
    epochs: int = 1


@dataclass(frozen=True)
class GroupTime:
    """How a group spent its session, in seconds."""

    group: str
    trials: int
    epochs: int
    startup: float  # from the start of the session to the group's first epoch
    busy: float
    idle: float  # without training, from the group's first epoch to the session's last epoch

    @property
    def share(self) -> float:
        """The busy share of the time from the group's first epoch to the session's last epoch."""
        return self.busy / (self.busy + self.idle) if self.busy + self.idle else 0.0


@dataclass(frozen=True)
class Timeline:
    """All spans, and the times of the groups."""

    spans: list[Span]
    groups: list[GroupTime]
    pauses: list[float]  # times at which the clock stopped between two sessions
    unknown: int  # number of epochs without a recorded group
    merged: bool  # whether spans of several trials were merged

    @property
    def idle(self) -> float:
        """Idle seconds, summed over all groups."""
        return sum(group.idle for group in self.groups)

    @property
    def seconds(self) -> float:
        """Duration of all sessions, each from its start to its last epoch."""
        return max((span.ended for span in self.spans), default=0.0)


def build_timeline(sweep: ReportData) -> Timeline:
    """The timeline of a sweep. It has no spans if the study has no times."""
    raw = sorted((s for trial in sweep.trials for s in _spans(trial)), key=lambda s: s.began)
    unknown = sum(epoch.ended is None for trial in sweep.trials for epoch in trial.epochs)
    if not raw:
        return Timeline([], [], [], unknown, merged=False)
    sessions = _sessions(raw, sorted(session.began for session in sweep.sessions))
    spans, begins = _on_one_clock(sessions)
    groups = [
        time
        for begin, session in zip(begins, _split(spans, begins), strict=True)
        for time in _group_times(begin, session)
    ]
    shown = _merged(spans, _same_trial)
    merged = len(shown) > MAX_BARS
    if merged:
        slot = max(span.ended for span in spans) / max(1, MAX_BARS // len(groups))  # about a pixel of the plot
        shown = _merged(spans, lambda a, b: a.began // slot == b.began // slot)
    return Timeline(shown, groups, begins[1:], unknown, merged)


def _spans(trial: Trial) -> Iterable[Span]:
    for epoch in trial.epochs:
        if epoch.ended is not None and epoch.group is not None:
            yield Span(epoch.group, epoch.ended - epoch.seconds, epoch.ended, trial.name, trial.status)


def _sessions(raw: Sequence[Span], begins: Sequence[float]) -> list[tuple[float, list[Span]]]:
    """Start and spans of each session in which an epoch was trained."""
    first = raw[0].began
    starts = [first, *(begin for begin in begins if begin > first)] if not begins or begins[0] > first else begins
    sessions = []
    for i, start in enumerate(starts):
        end = starts[i + 1] if i + 1 < len(starts) else float("inf")
        if own := [span for span in raw if start <= span.began < end]:
            sessions.append((start, own))
    return sessions


def _on_one_clock(sessions: Sequence[tuple[float, list[Span]]]) -> tuple[list[Span], list[float]]:
    """All spans in seconds since the start of the first session, without pauses, and the start of each session."""
    spans: list[Span] = []
    begins, now = [], 0.0
    for start, own in sessions:
        begins.append(now)
        spans += [replace(s, began=s.began - start + now, ended=s.ended - start + now) for s in own]
        now = max(span.ended for span in spans)
    return spans, begins


def _split(spans: Sequence[Span], begins: Sequence[float]) -> list[list[Span]]:
    ends = [*begins[1:], float("inf")]
    return [[span for span in spans if begin <= span.began < end] for begin, end in zip(begins, ends, strict=True)]


def _group_times(begin: float, spans: Sequence[Span]) -> list[GroupTime]:
    last = max((span.ended for span in spans), default=begin)
    times = []
    for group in dict.fromkeys(span.group for span in spans):
        own = [span for span in spans if span.group == group]
        busy, first = sum(span.ended - span.began for span in own), own[0].began
        trials = len({span.trial for span in own})
        times.append(GroupTime(group, trials, len(own), first - begin, busy, max(0.0, last - first - busy)))
    return times


def _same_trial(a: Span, b: Span) -> bool:
    return a.trial == b.trial


def _merged(spans: Sequence[Span], together: Callable[[Span, Span], bool]) -> list[Span]:
    """The spans, with consecutive spans of a group merged into one if `together(earlier, later)` is true."""
    open_spans: dict[str, Span] = {}
    done: list[Span] = []
    for span in spans:
        before = open_spans.get(span.group)
        if before and together(before, span):
            name = before.trial if before.trial == span.trial else "several trials"
            status = before.status if before.status == span.status else "MIXED"
            open_spans[span.group] = replace(
                before, ended=span.ended, epochs=before.epochs + span.epochs, trial=name, status=status
            )
            continue
        if before:
            done.append(before)
        open_spans[span.group] = span
    return sorted([*done, *open_spans.values()], key=lambda span: span.began)
