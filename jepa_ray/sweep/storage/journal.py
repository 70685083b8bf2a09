"""The study of a sweep in an object store: Optuna's journal as numbered objects, since objects cannot be appended to.

Every change is written as an object of its own before the call returns, so nothing is lost; the two entries that Optuna
makes of an epoch are one object. From time to time all objects are merged into one, so that a long journal opens with
few reads.
"""

from __future__ import annotations

import json
from typing import Any

from optuna.storages.journal import BaseJournalBackend

from jepa_ray.errors import StorageError
from jepa_ray.storage import Storage

# The objects since the last merge are merged when there are MIN_TO_MERGE of them, and when they are also at least
# MIN_MERGE_SHARE of all entries: so merging writes every entry a constant number of times on average.
MIN_TO_MERGE = 100
MIN_MERGE_SHARE = 0.2


class ObjectJournal(BaseJournalBackend):
    """Objects `FIRST-LAST.jsonl`, named by their entries, in one folder of a store.

    The sweep's lease makes sure that only one process writes. Raises `StorageError`, also if an entry is missing.
    """

    def __init__(self, store: Storage) -> None:
        self._store = store
        self._entries: list[dict[str, Any]] = []
        self._objects: list[str] = []  # names of the objects that hold the first `_written` entries
        self._read_all()

    def _read_all(self) -> None:
        spans = sorted(map(_span, self._store.names()), key=lambda span: (span[0], -span[1]))
        parts = self._store.each(self._store.read, [name for _, _, name in spans])
        for (first, last, name), data in zip(spans, parts, strict=True):
            if last < len(self._entries):  # merged already, by a process that died before it deleted this object
                self._store.delete(name)
                continue
            if first != len(self._entries) or data is None:
                raise StorageError(f"{self._store}: journal entry {len(self._entries)} is missing before {name}")
            self._entries += [json.loads(line) for line in data.splitlines()]
            self._objects.append(name)
        self._written = len(self._entries)

    def read_logs(self, log_number_from: int) -> list[dict[str, Any]]:
        return self._entries[log_number_from:]

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        self._entries += logs
        if _is_incomplete(logs[-1]):
            return
        self._write(self._written, self._entries[self._written :])
        self._written = len(self._entries)
        unmerged = len(self._objects) - 1
        if unmerged >= MIN_TO_MERGE and unmerged >= MIN_MERGE_SHARE * len(self._entries):
            self._merge()

    def _merge(self) -> None:
        parts, self._objects = self._objects, []
        self._write(0, self._entries)
        self._store.each(self._store.delete, parts)

    def _write(self, first: int, entries: list[dict[str, Any]]) -> None:
        name = f"{first:09}-{first + len(entries) - 1:09}.jsonl"
        self._store.write(name, "".join(json.dumps(entry) + "\n" for entry in entries).encode())
        self._objects.append(name)


def _is_incomplete(entry: dict[str, Any]) -> bool:
    """Whether an entry is the first of an epoch's two, the objective: it is written together with the metrics."""
    return "intermediate_value" in entry


def _span(name: str) -> tuple[int, int, str]:
    """The first and the last entry of an object, and its name."""
    first, _, last = name.removesuffix(".jsonl").partition("-")
    return int(first), int(last), name
