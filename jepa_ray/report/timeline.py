"""Who trained what when: the epochs of all groups on one clock, and the time in which groups had nothing to do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from jepa_ray.report.report_data import ReportData, Trial

MAX_BARS = 1500  # a picture with more is no easier to read, and slow to draw


@dataclass(frozen=True)
class Span:
    """A stretch in which a group trained; seconds on the sweep's own clock, which stands still between sessions."""

    group: str
    began: float
    ended: float
    trial: str
    status: str
    epochs: int = 1


@dataclass(frozen=True)
class GroupTime:
    """How a group spent its session."""

    group: str
    trials: int
    epochs: int
    startup: float  # seconds from the session's begin to its first epoch
    busy: float
    idle: float  # between its first and its last epoch, or after it until the session's last one

    @property
    def share(self) -> float:
        """Busy, of the time from its first epoch to the session's last one."""
        return self.busy / (self.busy + self.idle) if self.busy + self.idle else 0.0


@dataclass(frozen=True)
class Timeline:
    """All spans, and what they add up to."""

    spans: list[Span]
    groups: list[GroupTime]
    pauses: list[float]  # where the clock stood still
    unknown: int  # epochs of which nobody knows who trained them
    merged: bool  # spans of several trials were put together

    @property
    def idle(self) -> float:
        """Seconds in which groups that were up did nothing."""
        return sum(group.idle for group in self.groups)

    @property
    def seconds(self) -> float:
        """Of all sessions, from a session's begin to its last epoch."""
        return max((span.ended for span in self.spans), default=0.0)


def timeline(sweep: ReportData) -> Timeline:
    """The time line of a sweep; without spans where the books have no times."""
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
        slot = max(span.ended for span in spans) / max(1, MAX_BARS // len(groups))  # less than a pixel or two
        shown = _merged(spans, lambda a, b: a.began // slot == b.began // slot)
    return Timeline(shown, groups, begins[1:], unknown, merged)


def _spans(trial: Trial) -> Iterable[Span]:
    for epoch in trial.epochs:
        if epoch.ended is not None and epoch.group is not None:
            yield Span(epoch.group, epoch.ended - epoch.seconds, epoch.ended, trial.name, trial.status)


def _sessions(raw: Sequence[Span], begins: Sequence[float]) -> list[tuple[float, list[Span]]]:
    """The spans of each session that has some, with its begin."""
    first = raw[0].began
    starts = [first, *(begin for begin in begins if begin > first)] if not begins or begins[0] > first else begins
    found = []
    for i, start in enumerate(starts):
        end = starts[i + 1] if i + 1 < len(starts) else float("inf")
        if own := [span for span in raw if start <= span.began < end]:
            found.append((start, own))
    return found


def _on_one_clock(sessions: Sequence[tuple[float, list[Span]]]) -> tuple[list[Span], list[float]]:
    """All spans in seconds since the first session began, pauses cut out; and when each session begins."""
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
    """Neighbours of the same group in one bar, where `together(earlier, later)` says so."""
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
