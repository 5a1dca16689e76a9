"""Waiting for a state, with a bound."""

import time
from collections.abc import Callable

INTERVAL_SECONDS = 0.1


def poll(is_so: Callable[[], bool], timeout: float, complaint: Callable[[], str]) -> None:
    """Asks again and again; a last time when `timeout` seconds have passed."""
    deadline = time.monotonic() + timeout
    while True:
        late = time.monotonic() >= deadline
        if is_so():
            return
        if late:
            raise AssertionError(complaint())
        time.sleep(INTERVAL_SECONDS)
