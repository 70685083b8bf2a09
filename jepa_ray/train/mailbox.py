"""The messages between the driver and rank 0 of a worker group, and the mailbox actor that passes them on.

Imports nothing heavy: the mailbox is a process of its own, and it unpickles every message.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from jepa_ray.config import TrainConfig

MAILBOX_SUFFIX = "-mailbox"  # the actor's name is the group's name with this at its end


@dataclass(frozen=True)
class Ping:
    """Answered when the workers have started; loads no data."""


@dataclass(frozen=True)
class StartTrial:
    """Drop the current trial and start this one, or continue it from a training checkpoint.

    The reply is the `EpochResult` that was saved with the checkpoint, without the checkpoint; None for a new trial.
    """

    config: TrainConfig
    checkpoint: bytes | None = None
    number: int = 0  # of the trial in its sweep; `Progress` carries it


@dataclass(frozen=True)
class RunEpoch:
    """Train and validate one epoch and make a checkpoint; the reply is an `EpochResult`."""


@dataclass(frozen=True)
class Shutdown:
    """End the group."""


Command = Ping | StartTrial | RunEpoch | Shutdown


@dataclass(frozen=True)
class EpochResult:
    """The result of one epoch."""

    epoch: int
    metrics: dict[str, float]
    finished: bool  # whether this was the trial's last epoch
    collapse: str | None  # the diagnosis, if the trial was stopped because the model collapsed
    checkpoint: list[Any]  # one reference to the training checkpoint's bytes; `WorkerGroup.checkpoint` fetches them


@dataclass(frozen=True)
class Progress:
    """How far a worker group is in its current epoch."""

    trial: int  # number of the trial in its sweep; 0 in a single run
    epoch: int  # 1, 2, ...
    step: int  # optimizer steps done in this epoch
    steps: int  # optimizer steps of a whole epoch
    samples_per_s: float  # over all workers, since the epoch began


@dataclass(frozen=True)
class Failure:
    """The trial failed on all ranks in the same way; the group can train the next one."""

    message: str


@dataclass(frozen=True)
class GroupDied:
    """The reply to every call after the group has died."""

    reason: str


class Mailbox:
    """An async actor that passes one command and one reply at a time.

    When the group dies, `close` answers the waiting call and every later one with `GroupDied`.
    """

    def __init__(self) -> None:
        self._commands: asyncio.Queue[Any] = asyncio.Queue()
        self._replies: asyncio.Queue[Any] = asyncio.Queue()
        self._died: GroupDied | None = None
        self._progress: Progress | None = None

    async def call(self, command: Any) -> Any:
        """Pass a command to rank 0; return its reply, or `GroupDied`."""
        if self._died:
            return self._died
        if isinstance(command, StartTrial):
            self._progress = None
        self._commands.put_nowait(command)
        return await self._replies.get()

    async def take(self) -> Any:
        """The next command; waits for it."""
        return await self._commands.get()

    async def reply(self, reply: Any) -> None:
        """Answer the command that was taken last."""
        self._replies.put_nowait(reply)

    async def note_progress(self, progress: Progress) -> None:
        """Remember how far the current epoch is."""
        self._progress = progress

    async def latest_progress(self) -> Progress | None:
        """The last progress of the current trial; None before its first one, and after the group has died."""
        return None if self._died else self._progress

    async def close(self, reason: str) -> None:
        """Record that the group has died."""
        if self._died is None:
            self._died = GroupDied(reason)
            self._replies.put_nowait(self._died)
