"""One QEMU guest: a machine with a kernel, memory, clock and disk of its own.

Its first boot is a snapshot of a booted machine, into which the system is then installed; later
ones are real. What was synced to its disk stays, over `crash` too, which is a power cut: SIGKILL of
QEMU, so that what the guest had in memory only is gone.
"""

import shutil
import subprocess
import time
from pathlib import Path

from . import vm
from .shell import COMMAND_BYTES_MAX, GRACE_SECONDS, Result, ShellGone
from .unavailable import Unavailable

STOP_TIMEOUT_SECONDS = 180
COPY_TIMEOUT_SECONDS = 120


class Guest:
    """A disk, which can be booted, ended and booted again."""

    kind = "qemu"

    def __init__(self, name: str, work: Path, image: vm.Image, payload: Path, install: str) -> None:
        """`install` is the script that makes a system of the payload's files."""
        self.name = name
        self.time_scale = vm.TIME_SCALE[image.accelerator]
        self._place = work / name
        self._place.mkdir()
        self._image = image
        self._payload = payload
        self._install = install
        self._disk = self._place / "disk.qcow2"
        self._console = self._place / "console"
        self._machine: vm.Process | None = None

    def boot(self) -> None:
        """Returns when PID 1 has nothing left to start."""
        assert not self.is_running(), f"{self.name} runs already"
        first = not self._disk.exists()
        if first:
            shutil.copyfile(self._image.ready, self._disk)
        words = vm.command(self._image, self._place, self._disk, self._payload)
        if not first:
            self._machine = vm.boot(self.name, words, self._place)
        else:
            self._machine = vm.Process(self.name, [*words, "-loadvm", "ready"], self._place)
            # The clock stood still since the snapshot.
            self._do(f"date --utc --set=@{time.time():.3f} >/dev/null")
            self._do(self._install)
            self._machine.wait_until_booted()

    def _do(self, script: str) -> None:
        assert self._machine is not None
        status, output, errors = self._machine.ask(f"set -e; {script}", b"", vm.READY_TIMEOUT_SECONDS)
        if status != 0:
            raise Unavailable(f"{self.name} cannot be set up: {(output + errors).decode(errors='replace').strip()}")

    def is_running(self) -> bool:
        return self._machine is not None and self._machine.is_running()

    def wait_until_ended(self, timeout: float = STOP_TIMEOUT_SECONDS) -> None:
        """Waits for an end that somebody else brought about."""
        assert self._machine is not None, f"{self.name} was never booted"
        try:
            self._machine.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.name} still runs after {timeout} s: {self._machine.last_words()}") from None

    def stop(self) -> None:
        """An orderly shutdown."""
        if self._machine is not None and self.is_running():
            try:
                self._machine.ask("systemctl poweroff", b"", GRACE_SECONDS)
            except ShellGone:
                pass
            self.wait_until_ended()

    def crash(self) -> None:
        """A power cut."""
        if self._machine is not None:
            self._machine.kill()

    def console(self) -> str:
        """What was written to it since the first boot."""
        return self._console.read_text(errors="replace") if self._console.exists() else ""

    # Commands

    def run(self, command: str, timeout: int) -> Result:
        """Runs `command` with bash. Status 124: it took more than `timeout` seconds."""
        script = f"set -euo pipefail; {command}"
        if len(script.encode()) > COMMAND_BYTES_MAX:
            raise ValueError(f"a command of more than {COMMAND_BYTES_MAX} bytes: use copy_from_host")
        status, output, errors = self._ask(script, b"", timeout + GRACE_SECONDS, timeout)
        return Result(status, output.decode(errors="replace"), errors.decode(errors="replace"))

    def feed(self, command: str, data: bytes) -> None:
        """Runs `command` with `data` as its standard input."""
        status, _, errors = self._ask(command, data, COPY_TIMEOUT_SECONDS)
        if status != 0:
            raise RuntimeError(f"`{command}` ended with {status}: {errors.decode(errors='replace')}")

    def fetch(self, command: str) -> bytes:
        """Standard output of `command` as bytes."""
        status, output, errors = self._ask(command, b"", COPY_TIMEOUT_SECONDS)
        if status != 0:
            raise RuntimeError(f"`{command}` ended with {status}: {errors.decode(errors='replace')}")
        return output

    def _ask(self, script: str, data: bytes, wait: float, timeout: int = 0) -> tuple[int, bytes, bytes]:
        if self._machine is None:
            raise ShellGone(f"{self.name} was never booted")
        return self._machine.ask(script, data, wait, timeout)
