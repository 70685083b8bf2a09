"""A tracking server that goes away for a while: what that looks like, and how it is waited for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

RETRY_FOR_S = 300.0  # that one write waits for a server; then the session ends, and the next one catches up
PAUSES_S = (0.5, 1.0, 2.0)  # before the first retries,
PAUSE_S = 3.0  # and before every later one: a server that is back is found at once

T = TypeVar("T")


def with_retries(write: Callable[[], T], seconds: float, missed: Callable[[], None] = lambda: None) -> T:
    """Do it, and again while the server is away, for so many seconds. `missed` is told of every failure.

    MLflow's own retries double their pauses: after a minute they look once every half minute, and then give up.
    """
    deadline = time.monotonic() + seconds
    for attempt in range(10**9):
        try:
            return write()
        except Exception as error:
            missed()
            if not is_away(error) or time.monotonic() > deadline:
                raise
        time.sleep(PAUSES_S[attempt] if attempt < len(PAUSES_S) else PAUSE_S)
    raise AssertionError("a deadline ends the loop")


def is_away(error: Exception) -> bool:
    """Whether a server could not be reached, or is not itself: what a later try may mend."""
    from mlflow.exceptions import MlflowException, RestException
    from requests import RequestException

    if isinstance(error, RestException):
        return int(error.get_http_status_code()) >= 500
    if isinstance(error, MlflowException):  # how MLflow passes on what the connection raised, after its own retries
        return str(error).startswith("API request to ")
    return isinstance(error, (RequestException, ConnectionError, TimeoutError))
