"""The `machine` of the NixOS test driver, for a guest. Names and meanings are the driver's.

Not offered, because no guest has them: screen, keyboard, `block` and `unblock`. On systemd-nspawn
`crash` ends every process at once but loses nothing that was written; on QEMU it is a power cut.
Timeouts are those of an ordinary machine: a guest's `time_scale` multiplies them.
"""

import io
import shlex
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

from . import shell
from .guest import Guest
from .poll import poll

TIMEOUT_SECONDS = 900


class RequestedAssertionFailed(AssertionError):
    """A command ended otherwise than the script asked for."""


class Machine:
    """One guest as the scripts see it; it boots at the first command, as the driver's does."""

    def __init__(self, guest: Guest, log: Callable[[str], None], output: Path) -> None:
        self.name = guest.name
        # Not of the NixOS driver: a script asks with getattr and a default.
        self.kind = guest.kind
        self.time_scale = guest.time_scale
        self._guest = guest
        self._log = log
        self._output = output

    # Life

    def start(self, allow_reboot: bool = False) -> None:
        """`allow_reboot` is always granted."""
        del allow_reboot
        if not self._guest.is_running():
            before = time.monotonic()
            self._guest.boot()
            self._log(f"{self.name}: booted in {time.monotonic() - before:.1f} s")

    def is_up(self) -> bool:
        return self._guest.is_running()

    def shutdown(self) -> None:
        self._guest.stop()

    def wait_for_shutdown(self) -> None:
        self._guest.wait_until_ended()

    def crash(self) -> None:
        self._guest.crash()

    def reboot(self) -> None:
        """Asks the guest to reboot and starts it again; a new boot id, the same files."""
        self.execute("systemctl reboot", check_return=False, timeout=60)
        self._guest.wait_until_ended()
        self.start()

    def get_console_log(self) -> str:
        """All that was written to the guest's console."""
        return self._guest.console()

    def log(self, message: str) -> None:
        self._log(f"{self.name}: {message}")

    def sleep(self, seconds: int) -> None:
        time.sleep(seconds)

    # Commands

    def execute(
        self,
        command: str,
        check_return: bool = True,
        check_output: bool = True,
        timeout: int | None = TIMEOUT_SECONDS,
    ) -> tuple[int, str]:
        """Status and standard output of a shell command; -1 and nothing where they are not asked for.

        Without `check_return` the guest may end meanwhile: that is how a script asks it to.
        """
        try:
            result = self._run(command, timeout)
        except shell.ShellGone:
            if check_return:
                raise
            return -1, ""
        return result.status if check_return else -1, result.output if check_output else ""

    def _run(self, command: str, timeout: int | None = None) -> shell.Result:
        self.start()
        return self._guest.run(command, (timeout or TIMEOUT_SECONDS) * self.time_scale)

    def succeed(self, *commands: str, timeout: int | None = None) -> str:
        output = ""
        for command in commands:
            result = self._run(command, timeout)
            if result.status != 0:
                raise RequestedAssertionFailed(f"command `{command}` failed ({_story(result)})")
            output += result.output
        return output

    def fail(self, *commands: str, timeout: int | None = None) -> str:
        output = ""
        for command in commands:
            result = self._run(command, timeout)
            if result.status == 0:
                raise RequestedAssertionFailed(f"command `{command}` unexpectedly succeeded ({_story(result)})")
            output += result.output
        return output

    def wait_until_succeeds(self, command: str, timeout: int = TIMEOUT_SECONDS) -> str:
        return self._wait_for_command(command, timeout, lambda status: status == 0, "succeed")

    def wait_until_fails(self, command: str, timeout: int = TIMEOUT_SECONDS) -> str:
        return self._wait_for_command(command, timeout, lambda status: status != 0, "fail")

    def _wait_for_command(self, command: str, timeout: int, wanted: Callable[[int], bool], what: str) -> str:
        last: list[shell.Result] = []

        def attempt() -> bool:
            last[:] = [self._run(command, timeout)]
            return wanted(last[0].status)

        poll(attempt, timeout * self.time_scale, lambda: f"command `{command}` did not {what} in {timeout} s ({_story(last[0])})")
        return last[0].output

    # Units

    def systemctl(self, query: str, user: str | None = None) -> tuple[int, str]:
        if user is not None:
            bus = f"XDG_RUNTIME_DIR=/run/user/$(id -u {user})"
            return self.execute(f"su -l {user} --shell /bin/sh -c {shlex.quote(f'{bus} systemctl --user {query}')}")
        return self.execute(f"systemctl {query}")

    def get_unit_info(self, unit: str, user: str | None = None) -> dict[str, str]:
        status, lines = self.systemctl(f'--no-pager show "{unit}"', user)
        if status != 0:
            raise RequestedAssertionFailed(f'retrieving systemctl info for unit "{unit}" failed with exit code {status}')
        return dict(line.split("=", 1) for line in lines.splitlines() if "=" in line)

    def get_unit_property(self, unit: str, property: str, user: str | None = None) -> str:
        status, lines = self.systemctl(f'--no-pager show "{unit}" --property="{property}"', user)
        name, _, value = lines.rstrip("\n").partition("=")
        if status != 0 or name != property:
            raise RequestedAssertionFailed(f'retrieving property "{property}" of unit "{unit}" failed: {lines}')
        return value

    def require_unit_state(self, unit: str, require_state: str = "active") -> None:
        state = self.get_unit_property(unit, "ActiveState")
        if state != require_state:
            raise RequestedAssertionFailed(f'expected unit "{unit}" to be {require_state}, it is {state}')

    def wait_for_unit(self, unit: str, user: str | None = None, timeout: int = TIMEOUT_SECONDS) -> None:
        """Waits for "active"; fails at once where that can no longer be."""

        def is_active() -> bool:
            info = self.get_unit_info(unit, user)
            state = info["ActiveState"]
            if state == "failed":
                raise RequestedAssertionFailed(f'unit "{unit}" reached state "failed"')
            if state == "inactive" and not info.get("Job"):
                status, jobs = self.systemctl("list-jobs --full", user)
                if "No jobs" in jobs and self.get_unit_info(unit, user)["ActiveState"] == "inactive":
                    raise RequestedAssertionFailed(f'unit "{unit}" is inactive and there are no pending jobs')
            return state == "active"

        poll(is_active, timeout * self.time_scale, lambda: f'unit "{unit}" is not active after {timeout} s')

    def start_job(self, jobname: str, user: str | None = None) -> tuple[int, str]:
        return self.systemctl(f"start {jobname}", user)

    def stop_job(self, jobname: str, user: str | None = None) -> tuple[int, str]:
        return self.systemctl(f"stop {jobname}", user)

    # Files and sockets

    def wait_for_file(self, filename: str, timeout: int = TIMEOUT_SECONDS) -> None:
        self.wait_until_succeeds(f"test -e {shlex.quote(filename)}", timeout)

    def wait_for_open_port(self, port: int, addr: str = "localhost", timeout: int = TIMEOUT_SECONDS) -> None:
        self.wait_until_succeeds(f"exec 3<>/dev/tcp/{addr}/{port}", timeout)

    def wait_for_closed_port(self, port: int, addr: str = "localhost", timeout: int = TIMEOUT_SECONDS) -> None:
        self.wait_until_fails(f"exec 3<>/dev/tcp/{addr}/{port}", timeout)

    def wait_for_open_unix_socket(
        self, addr: str, is_datagram: bool = False, timeout: int = TIMEOUT_SECONDS
    ) -> None:
        kind = "SOCK_DGRAM" if is_datagram else "SOCK_STREAM"
        program = f"import socket; socket.socket(socket.AF_UNIX, socket.{kind}).connect({addr!r})"
        self.wait_until_succeeds(f"python3 -c {shlex.quote(program)}", timeout)

    def copy_from_host(self, source: str, target: str) -> None:
        """A file or a directory; `target` is its new name in the guest."""
        self.start()
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as archive:
            archive.add(source, arcname="copied")
        script = (
            'set -e; place=$(mktemp -d); head -c "$1" | tar -xC "$place"; mkdir -p "$(dirname "$2")"; '
            '[ ! -d "$place/copied" ] || mkdir -p "$2"; '
            '[ -d "$place/copied" ] && cp -a "$place/copied/." "$2" || cp -a "$place/copied" "$2"; rm -r "$place"'
        )
        data = packed.getvalue()
        self._guest.feed(f"bash -c {shlex.quote(script)} - {len(data)} {shlex.quote(target)}", data)

    def copy_from_machine(self, source: str, target_dir: str = "") -> None:
        """A file or a directory, into `target_dir` below the run's output directory."""
        place = self._output / target_dir
        place.mkdir(parents=True, exist_ok=True)
        parent, name = shlex.quote(str(Path(source).parent)), shlex.quote(Path(source).name)
        packed = self._guest.fetch(f"tar -C {parent} -c {name}")
        with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
            archive.extractall(place, filter="data")


def _story(result: shell.Result) -> str:
    parts = [f"exit code {result.status}"]
    if result.output.strip():
        parts.append(f"output: {result.output.strip()[-2000:]}")
    if result.errors.strip():
        parts.append(f"errors: {result.errors.strip()[-2000:]}")
    return "; ".join(parts)
