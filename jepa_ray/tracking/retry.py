"""Retries for a tracking server that is unavailable for a while."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import TypeVar

RETRY_FOR_S = 300.0  # time limit for one write; after it the session ends, and the next session catches up
PAUSES_S = (0.5, 1.0, 2.0)  # pauses before the first retries
PAUSE_S = 3.0  # pause before every later retry, short enough to notice soon that the server is back

T = TypeVar("T")


def with_retries(write: Callable[[], T], seconds: float, on_failure: Callable[[], None] = lambda: None) -> T:
    """Call `write`, and retry while the server is unavailable, for at most `seconds`. Raises the last error.

    `on_failure` is called after every failed attempt. MLflow's own retries double their pauses: after an outage of a
    minute they try once every half minute, and then give up.
    """
    deadline = time.monotonic() + seconds
    pauses = itertools.chain(PAUSES_S, itertools.repeat(PAUSE_S))
    while True:
        try:
            return write()
        except Exception as error:
            on_failure()
            if not is_away(error) or time.monotonic() > deadline:
                raise
        time.sleep(next(pauses))


def is_away(error: Exception) -> bool:
    """Whether the error means that the server is unavailable or failing, so that a later attempt may succeed."""
    from mlflow.exceptions import MlflowException, RestException
    from requests import RequestException

    if isinstance(error, RestException):
        return int(error.get_http_status_code()) >= 500
    if isinstance(error, MlflowException):  # MLflow wraps the errors of a connection after its own retries
        return str(error).startswith("API request to ")
    return isinstance(error, (RequestException, ConnectionError, TimeoutError))
