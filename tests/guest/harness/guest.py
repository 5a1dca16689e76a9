"""What every kind of guest can do, and the kinds there are."""

import re
import shutil
from pathlib import Path
from typing import Protocol

from . import cgroup, image, nspawn, qemu, root, system
from .shell import Result

# A script names its machine in a line of its own; most need no more than the first.
MARK = re.compile(r"^# machine: (\w+)$", re.MULTILINE)


class Guest(Protocol):
    """A machine that can be booted, ended and booted again; its files stay."""

    kind: str
    name: str
    time_scale: int

    def boot(self) -> None: ...
    def is_running(self) -> bool: ...
    def stop(self) -> None: ...
    def crash(self) -> None: ...
    def wait_until_ended(self) -> None: ...
    def console(self) -> str: ...
    def run(self, command: str, timeout: int) -> Result: ...
    def feed(self, command: str, data: bytes) -> None: ...
    def fetch(self, command: str) -> bytes: ...


class Kind(Protocol):
    """A way to have guests. `binaries` is None where no guest gets a system."""

    def missing(self) -> str | None:
        """Why there are none here, as far as one can tell without trying."""

    def prepare(self, name: str, work: Path) -> None:
        """Builds what all guests share and boots one: what fails here is the machine's, not a test's."""

    def guest(self, name: str, work: Path, binaries: Path | None, rendering: str | None) -> Guest:
        """A guest ready to boot, with the system `rendering` where one is named."""


class Nspawn:
    """systemd-nspawn: ready in 0.4 s, on the host's kernel."""

    def missing(self) -> str | None:
        return None if shutil.which("systemd-nspawn") else "systemd-nspawn is not installed"

    def prepare(self, name: str, work: Path) -> None:
        self._lower = root.prepare()
        guest = self.guest(name, work, None, None)
        guest.boot()
        guest.stop()

    def guest(self, name: str, work: Path, binaries: Path | None, rendering: str | None) -> Guest:
        guest = nspawn.Guest(name, work, self._lower, system.binds(binaries, work) if binaries else {})
        system.install_shell(guest.root)
        if rendering is not None:
            system.install(guest.root, rendering)
        elif binaries is not None:
            system.install_package(guest.root)
        return guest


class Qemu:
    """QEMU: a kernel, memory, disk and clock of its own."""

    def missing(self) -> str | None:
        return image.missing()

    def prepare(self, name: str, work: Path) -> None:
        self._image = image.prepare(name, work)

    def guest(self, name: str, work: Path, binaries: Path | None, rendering: str | None) -> Guest:
        payload = system.payload(work / f"{name}-payload", binaries, rendering)
        return qemu.Guest(name, work, self._image, payload, system.installation(rendering))


KINDS: dict[str, type[Kind]] = {"nspawn": Nspawn, "qemu": Qemu}


def wanted_by(script: Path) -> str:
    """The kind that a script asks for."""
    mark = MARK.search(script.read_text())
    return mark.group(1) if mark else "nspawn"


def missing_for_all() -> str | None:
    """What every kind needs beside its own."""
    if shutil.which("chroot") is None:
        return "chroot is not installed"
    if cgroup.hierarchies()[0] is None:
        return "cgroup v2 is not mounted"
    return None
