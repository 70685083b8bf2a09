"""What a worker group's driver and its rank 0 say to each other, and the mailbox actor between them.

Imports nothing heavy: the mailbox is a process of its own, and unpacks every message.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from jepa_ray.config import TrainConfig


@dataclass(frozen=True)
class Ping:
    """Answers once the workers are up; loads nothing."""


@dataclass(frozen=True)
class StartTrial:
    """Forget the last trial and begin this one, or continue it from a training checkpoint.

    The reply is the `EpochResult` that the checkpoint was made with, without the checkpoint; None for a new trial.
    """

    config: TrainConfig
    checkpoint: bytes | None = None


@dataclass(frozen=True)
class RunEpoch:
    """Train and validate one epoch and checkpoint it; the reply is an `EpochResult`."""


@dataclass(frozen=True)
class Shutdown:
    """End the group."""


Command = Ping | StartTrial | RunEpoch | Shutdown


@dataclass(frozen=True)
class EpochResult:
    """What an epoch leaves."""

    epoch: int
    metrics: dict[str, float]
    finished: bool  # whether it was the trial's last
    collapse: str | None  # the diagnosis, where it ended the trial
    checkpoint: list[Any]  # one reference to the training checkpoint's bytes, fetched by `WorkerGroup.checkpoint`


@dataclass(frozen=True)
class Failure:
    """The trial failed on every rank alike; the group is unharmed."""

    message: str


@dataclass(frozen=True)
class GroupDied:
    """The reply to every call once the group is gone."""

    reason: str


class Mailbox:
    """An async actor: one command, one reply at a time; a death answers whoever waits, and whoever calls later."""

    def __init__(self) -> None:
        self._commands: asyncio.Queue[Any] = asyncio.Queue()
        self._replies: asyncio.Queue[Any] = asyncio.Queue()
        self._died: GroupDied | None = None

    async def call(self, command: Any) -> Any:
        """Hand over a command and wait for its reply, or for the group's death."""
        if self._died:
            return self._died
        self._commands.put_nowait(command)
        return await self._replies.get()

    async def take(self) -> Any:
        """The next command."""
        return await self._commands.get()

    async def reply(self, reply: Any) -> None:
        """Answer the command taken last."""
        self._replies.put_nowait(reply)

    async def close(self, reason: str) -> None:
        """The group is gone."""
        if self._died is None:
            self._died = GroupDied(reason)
            self._replies.put_nowait(self._died)
