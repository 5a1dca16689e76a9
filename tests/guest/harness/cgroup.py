"""The cgroups of the guests: one for each guest in every hierarchy that systemd looks at.

The host may mount cgroup v2 alone, or v2 beside v1 with systemd's own named hierarchy.
"""

import glob
import os
import time
from pathlib import Path

EMPTY_TIMEOUT_SECONDS = 10


def hierarchies() -> tuple[Path | None, Path | None]:
    """Where cgroup v2 is mounted, and where systemd's named v1 hierarchy is."""
    unified = named = None
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields, _, rest = line.partition(" - ")
        target, (kind, _, options) = Path(fields.split()[4]), rest.split()[:3]
        if kind == "cgroup2" and unified is None:
            unified = target
        if kind == "cgroup" and "name=systemd" in options.split(","):
            named = target
    return unified, named


def create(name: str) -> list[Path]:
    """Makes the guest's cgroups; nothing is left if one cannot be made."""
    made: list[Path] = []
    try:
        for base in hierarchies():
            if base is not None:
                (base / name).mkdir()
                made.append(base / name)
    except OSError:
        for path in made:
            path.rmdir()
        raise
    return made


def enter(paths: list[Path]) -> None:
    """Moves the calling process."""
    for path in paths:
        (path / "cgroup.procs").write_text("0")


def kill(name: str) -> None:
    """Ends every process of the guest at once."""
    unified, _ = hierarchies()
    if unified is not None and (unified / name).is_dir():
        (unified / name / "cgroup.kill").write_text("1")
        _wait_until_empty(unified / name)


def _wait_until_empty(path: Path) -> None:
    deadline = time.monotonic() + EMPTY_TIMEOUT_SECONDS
    while "populated 1" in (path / "cgroup.events").read_text():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{path} still has processes {EMPTY_TIMEOUT_SECONDS} s after cgroup.kill")
        time.sleep(0.01)


def remove(name: str) -> None:
    """Removes the guest's cgroups, depth first. They have to be empty."""
    for base in hierarchies():
        if base is None or not (base / name).is_dir():
            continue
        for directory, _, _ in os.walk(base / name, topdown=False):
            _remove_one(Path(directory))


def _remove_one(path: Path) -> None:
    deadline = time.monotonic() + EMPTY_TIMEOUT_SECONDS
    while True:
        try:
            path.rmdir()
            return
        except FileNotFoundError:
            return
        except OSError:  # a dead process is still being buried
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def names(prefix: str) -> list[str]:
    """The guests whose name begins with `prefix` and that have a cgroup left."""
    found: set[str] = set()
    for base in hierarchies():
        if base is not None:
            found.update(os.path.basename(path) for path in glob.glob(f"{base}/{glob.escape(prefix)}*"))
    return sorted(found)
