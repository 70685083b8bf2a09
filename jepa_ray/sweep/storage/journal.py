"""The books of a sweep in an object store, where nothing can be appended to: Optuna's journal as numbered objects.

Every change is an object of its own before anybody is told of it, so nothing is lost; an epoch, which is two entries of
Optuna's, is one. From time to time all of them are written as one, so that opening a long journal takes few reads.
"""

from __future__ import annotations

import json
from typing import Any

from optuna.storages.journal import BaseJournalBackend

from jepa_ray.errors import StorageError
from jepa_ray.storage import Storage

MIN_TO_MERGE = 100  # objects that are worth merging,
SHARE = 0.2  # and at least this share of all entries: merging costs a constant number of writes per entry


class ObjectJournal(BaseJournalBackend):
    """Entries `FIRST-LAST.jsonl` in one folder of a store; the sweep's lease sees to it that one process writes.

    Raises `StorageError`, also where an entry is missing.
    """

    def __init__(self, store: Storage) -> None:
        self._store = store
        self._entries: list[dict[str, Any]] = []
        self._objects: list[str] = []  # what the first `_written` entries are made of
        self._read_all()

    def _read_all(self) -> None:
        spans = sorted(map(_span, self._store.names()), key=lambda span: (span[0], -span[1]))
        parts = self._store.each(self._store.read, [name for _, _, name in spans])
        for (first, last, name), data in zip(spans, parts, strict=True):
            if last < len(self._entries):  # merged, by a writer that died before this one was deleted
                self._store.delete(name)
                continue
            if first != len(self._entries) or data is None:
                raise StorageError(f"{self._store}: entry {len(self._entries)} is missing before {name}")
            self._entries += [json.loads(line) for line in data.splitlines()]
            self._objects.append(name)
        self._written = len(self._entries)

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        return self._entries[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self._entries += logs
        if _half(logs[-1]):
            return
        self._write(self._written, self._entries[self._written :])
        self._written = len(self._entries)
        fresh = len(self._objects) - 1
        if fresh >= MIN_TO_MERGE and fresh >= SHARE * len(self._entries):
            self._merge()

    def _merge(self) -> None:
        parts, self._objects = self._objects, []
        self._write(0, self._entries)
        self._store.each(self._store.delete, parts)

    def _write(self, first: int, entries: list[dict[str, Any]]) -> None:
        name = f"{first:09}-{first + len(entries) - 1:09}.jsonl"
        self._store.write(name, "".join(json.dumps(entry) + "\n" for entry in entries).encode())
        self._objects.append(name)


def _half(entry: dict[str, Any]) -> bool:
    """Whether an entry is the first of two that are written as one: an epoch's objective, before its metrics."""
    return "intermediate_value" in entry


def _span(name: str) -> tuple[int, int, str]:
    """First and last entry of an object."""
    first, _, last = name.removesuffix(".jsonl").partition("-")
    return int(first), int(last), name
