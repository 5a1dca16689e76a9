"""One guest: its root as an overlay in memory, and systemd-nspawn around its PID 1.

What the guest writes stays until the run ends, over restarts of the guest too. All of it is gone
with the run's mount namespace.
"""

import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

from . import cgroup, libc, shell
from .unavailable import Unavailable

BOOT_TIMEOUT_SECONDS = 120
STOP_TIMEOUT_SECONDS = 60


class Guest:
    """A root directory, which can be booted, ended and booted again."""

    kind = "nspawn"
    time_scale = 1

    def __init__(self, name: str, work: Path, lower: Path, binds: dict[str, Path]) -> None:
        """`binds` are files of the host to be seen at paths of the guest, read only."""
        self.name = name
        self.root = work / name / "root"
        self._leader = 0
        self._binds = binds
        self._process: subprocess.Popen[bytes] | None = None
        self._notify: socket.socket | None = None
        self._notify_path = work / name / "notify"
        self._console = work / name / "console"
        for directory in ("root", "upper", "scratch"):
            (work / name / directory).mkdir(parents=True)
        upper, scratch = work / name / "upper", work / name / "scratch"
        options = f"lowerdir={lower},upperdir={upper},workdir={scratch}"
        libc.mount("overlay", str(self.root), "overlay", 0, options)

    def boot(self) -> None:
        """Returns when PID 1 has said that it is ready."""
        assert not self.is_running(), f"{self.name} runs already"
        cgroup.kill(self.name)
        cgroup.remove(self.name)
        groups = cgroup.create(self.name)
        ready = threading.Event()
        self._listen(ready)

        def prepare() -> None:
            cgroup.enter(groups)
            libc.die_with_parent(signal.SIGTERM)

        with open(self._console, "ab") as console:
            self._process = subprocess.Popen(
                self._command(),
                env={
                    "PATH": os.environ["PATH"],
                    "NOTIFY_SOCKET": str(self._notify_path),
                    "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
                },
                stdin=subprocess.DEVNULL,
                stdout=console,
                stderr=console,
                preexec_fn=prepare,
            )
        deadline = time.monotonic() + BOOT_TIMEOUT_SECONDS
        while not ready.wait(0.02):
            if self._process.poll() is not None:
                raise Unavailable(f"systemd-nspawn ended with {self._process.returncode}: {self.console_tail(3)}")
            if time.monotonic() > deadline:
                raise Unavailable(f"not ready after {BOOT_TIMEOUT_SECONDS} s: {self.console_tail(3)}")

    def _command(self) -> list[str]:
        return [
            "systemd-nspawn",
            "--quiet",
            f"--directory={self.root}",
            f"--machine={self.name}",
            "--register=no",
            "--keep-unit",
            "--private-network",
            "--console=pipe",
            "--notify-ready=yes",
            *(f"--bind-ro={source}:{target}" for target, source in self._binds.items()),
            "--boot",
        ]

    def _listen(self, ready: threading.Event) -> None:
        """Reads the notify socket for the guest's whole life: PID 1 would block on a full one."""
        if self._notify is not None:
            self._notify.close()
        self._notify_path.unlink(missing_ok=True)
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notify.bind(str(self._notify_path))
        self._notify = notify

        def drain() -> None:
            while True:
                try:
                    message = notify.recv(65536).decode(errors="replace")
                except OSError:
                    return
                for line in message.splitlines():
                    name, _, value = line.partition("=")
                    if name == "X_NSPAWN_LEADER_PID":
                        self._leader = int(value)
                    if line == "READY=1":
                        ready.set()

        threading.Thread(target=drain, daemon=True).start()

    def is_running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def wait_until_ended(self, timeout: float = STOP_TIMEOUT_SECONDS) -> None:
        """Waits for an end that somebody else brought about, and removes what is left of it."""
        assert self._process is not None, f"{self.name} was never booted"
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.name} still runs after {timeout} s") from None
        self._bury()

    def stop(self) -> None:
        """An orderly shutdown."""
        if self._process is not None and self.is_running():
            self._process.terminate()
            self.wait_until_ended()

    def crash(self) -> None:
        """Every process of the guest ends at once. What it wrote stays, synced or not."""
        if self._process is not None:
            cgroup.kill(self.name)
            self._process.wait(STOP_TIMEOUT_SECONDS)
            self._bury()

    def run(self, command: str, timeout: int) -> shell.Result:
        """Runs `command` with bash. Status 124: it took more than `timeout` seconds."""
        return shell.run(self._leader, command, timeout)

    def feed(self, command: str, data: bytes) -> None:
        """Runs `command` with `data` as its standard input; it has to read all of it and no more."""
        shell.feed(self._leader, command, data)

    def fetch(self, command: str) -> bytes:
        """Standard output of `command` as bytes; it may leave no process behind."""
        return shell.fetch(self._leader, command)

    def _bury(self) -> None:
        cgroup.kill(self.name)
        cgroup.remove(self.name)
        if self._notify is not None:
            # close() alone does not wake the thread that reads.
            self._notify.shutdown(socket.SHUT_RDWR)
            self._notify.close()
            self._notify = None

    def console_tail(self, lines: int) -> str:
        return "\n".join(self.console().strip().splitlines()[-lines:])

    def console(self) -> str:
        """What was written to it since the first boot."""
        return self._console.read_text(errors="replace") if self._console.exists() else ""
