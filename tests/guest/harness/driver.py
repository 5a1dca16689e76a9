"""Runs one script of nix/tests on a guest of its own, with the globals of the NixOS test driver."""

import contextlib
import time
import traceback
import unittest
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .machine import Machine
from .guest import Guest

# What a failed script leaves to read: the end of the guest's journal.
JOURNAL_LINES = 80


@dataclass
class Count:
    passed: int = 0
    failed: int = 0
    skipped: int = 0


class Driver:
    """Counts the subtests of one script."""

    def __init__(self, name: str, guest: Guest, output: Path) -> None:
        self.count = Count()
        self._name = name
        self._machine = Machine(guest, self.log, output)
        self._started = time.monotonic()

    def log(self, message: str) -> None:
        print(f"[{time.monotonic() - self._started:6.1f}] {message}", flush=True)

    @contextlib.contextmanager
    def subtest(self, name: str) -> Iterator[None]:
        before = time.monotonic()
        yield
        self.count.passed += 1
        self.log(f"ok: {self._name}: {name} ({time.monotonic() - before:.1f} s)")

    def run(self, script: Path) -> None:
        """A script that fails counts as one failure; the rest of it is not run."""
        names = {
            "machine": self._machine,
            "machines": [self._machine],
            "start_all": self._machine.start,
            "subtest": self.subtest,
            "t": unittest.TestCase(),
            "log": self,
            "__name__": "__main__",
        }
        try:
            exec(compile(script.read_text(), str(script), "exec"), names)
        except Exception:
            self.count.failed += 1
            self.log(f"FAILED: {self._name}\n{traceback.format_exc()}")
            self._show_journal()

    def _show_journal(self) -> None:
        try:
            _, journal = self._machine.execute(f"journalctl --no-pager -n {JOURNAL_LINES}", timeout=30)
            self.log(f"the end of the journal:\n{journal}")
        except Exception as error:
            self.log(f"no journal: {error}")


def run_script(script: Path, guest: Guest, output: Path) -> Count:
    """Runs it on a guest that is ready to boot, and ends the guest."""
    driver = Driver(script.stem, guest, output)
    try:
        driver.run(script)
    finally:
        guest.crash()
    if driver.count.passed + driver.count.failed == 0:
        driver.count.passed = 1  # a script without subtests
    return driver.count
