"""Puts the rendered system of one test into a guest's root, before its first boot.

nix/rendered/NAME is a tree of files as they stand in the guest, written from the NixOS module by
scripts/check-nix. What NixOS would do with its options beside writing files is done here by the
guest's own tools: users by systemd-sysusers, `wantedBy` by `systemctl enable`; directories by
systemd-tmpfiles, at boot.
"""

import shutil
import subprocess
from pathlib import Path

from . import shell

REPOSITORY = Path(__file__).resolve().parents[3]
RENDERED = REPOSITORY / "nix" / "rendered"

# Where the units look for the package, in place of its path in the Nix store.
PACKAGE = "/opt/ci/bin"
PROGRAMS = ["ci-runner", "ci-runner-spawner"]
LINKS = {"ci-runner": "ci-runner", "add_job": "ci-runner"}


def binds(binaries: Path, work: Path) -> dict[str, Path]:
    """What the guests see of the host's build: a copy, so that a build meanwhile changes nothing."""
    place = work / "bin"
    place.mkdir(exist_ok=True)
    for program in PROGRAMS:
        shutil.copy2(binaries / program, place / program)
    return {f"{PACKAGE}/{program}": place / program for program in PROGRAMS}


def install_shell(root: Path) -> None:
    """What the harness itself needs in the guest."""
    units = root / "etc/systemd/system"
    for name, text in shell.UNITS.items():
        (units / name).write_text(text)
    (root / "etc/hosts").write_text("127.0.0.1 localhost guest\n::1 localhost\n")
    _in_root(root, "systemctl enable --quiet guest-shell.socket")


def install(root: Path, name: str) -> None:
    """The system that nix/tests/NAME.nix describes."""
    source = RENDERED / name
    if not source.is_dir():
        raise FileNotFoundError(f"{source} is missing: scripts/check-nix --write renders nix/tests/{name}.nix")
    shutil.copytree(source, root, dirs_exist_ok=True)
    for program in PROGRAMS:
        target = root / PACKAGE.lstrip("/") / program
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()  # to be bound over
    for link, program in LINKS.items():
        (root / "usr/local/bin" / link).symlink_to(f"{PACKAGE}/{program}")
    units = sorted(path.name for path in (source / "etc/systemd/system").glob("*") if path.is_file())
    wanted = [unit for unit in units if "\nWantedBy=" in (source / "etc/systemd/system" / unit).read_text()]
    _in_root(
        root,
        f"systemd-sysusers /etc/sysusers.d/nixos.conf && systemctl enable --quiet {' '.join(wanted)}",
    )


def _in_root(root: Path, command: str) -> None:
    """Debian's own tools on a root that is not booted; nothing of ci-runner runs this way."""
    result = subprocess.run(
        ["chroot", str(root), "/bin/sh", "-c", command],
        env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if result.returncode != 0:
        raise RuntimeError(f"in the guest's root: {command}: {result.stdout.strip()}")
