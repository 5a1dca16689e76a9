"""The rendered system of one test, for a guest.

nix/rendered/NAME is a tree of files as they stand in the guest, written from the NixOS module by
scripts/check-nix. What NixOS would do with its options beside writing files is done here by the
guest's own tools: users by systemd-sysusers, `wantedBy` by `systemctl enable`; directories by
systemd-tmpfiles, at boot. A guest of nspawn gets it before its first boot; one of QEMU has booted
before, in its snapshot, and gets files and programs on a disk.
"""

import shutil
import subprocess
from pathlib import Path

from . import shell
from .unavailable import Unavailable
from .vm import PAYLOAD_BYTES

REPOSITORY = Path(__file__).resolve().parents[3]
RENDERED = REPOSITORY / "nix" / "rendered"

# Where the units look for the package, in place of its path in the Nix store.
PACKAGE = "/opt/ci/bin"
# Those that people call.
COMMANDS = ["ci-runner", "add_job"]
PROGRAMS = [*COMMANDS, "ci-runner-spawner"]


def binds(binaries: Path, work: Path) -> dict[str, Path]:
    """What nspawn guests see of the host's build: a copy, so that a build meanwhile changes nothing."""
    place = _copy(binaries, work / "bin")
    return {f"{PACKAGE}/{program}": place / program for program in PROGRAMS}


def _copy(binaries: Path, place: Path) -> Path:
    if not place.exists():
        place.mkdir(parents=True)
        for program in PROGRAMS:
            shutil.copy2(binaries / program, place / program)
    return place


def install_shell(root: Path) -> None:
    """What the harness itself needs in the guest."""
    units = root / "etc/systemd/system"
    for name, text in shell.UNITS.items():
        (units / name).write_text(text)
    (root / "etc/hosts").write_text("127.0.0.1 localhost guest\n::1 localhost\n")
    _in_root(root, "systemctl enable --quiet guest-shell.socket")


def install_package(root: Path) -> None:
    """Where the programs will be bound over; they are on nobody's PATH."""
    for program in PROGRAMS:
        target = root / PACKAGE.lstrip("/") / program
        target.parent.mkdir(parents=True, exist_ok=True)
        target.touch()


def install(root: Path, name: str) -> None:
    """The system that nix/tests/NAME.nix describes."""
    shutil.copytree(_rendering(name), root, dirs_exist_ok=True, ignore=shutil.ignore_patterns("specialisation"))
    install_package(root)
    _install_systems(root, name)
    _in_root(root, _set_up(name))


def _install_systems(root: Path, name: str) -> None:
    """The systems that the machine can switch to, where it has any: /system and /system/specialisation/NAME."""
    if not (_rendering(name) / "specialisation").is_dir():
        return
    first = root / "system"
    shutil.copytree(_rendering(name), first)
    for system in [first, *first.glob("specialisation/*")]:
        (system / "bin").mkdir()
        shutil.copy(Path(__file__).with_name("switch_to_configuration.py"), system / "bin/switch-to-configuration")
        (system / "bin/switch-to-configuration").chmod(0o755)


def payload(place: Path, binaries: Path | None, name: str | None) -> Path:
    """A disk with `bin`, `system` and where it can switch `switch`, which a QEMU guest mounts on the directory above PACKAGE."""
    tree, disk = place / "tree", place / "disk.img"
    tree.mkdir(parents=True)
    if binaries is not None:
        _copy(binaries, tree / "bin")
    if name is not None:
        shutil.copytree(_rendering(name), tree / "system", ignore=shutil.ignore_patterns("specialisation"))
        _install_systems(tree / "switch", name)
    with open(disk, "wb") as file:
        file.truncate(PAYLOAD_BYTES)
    made = subprocess.run(
        ["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-m", "0", "-d", str(tree), str(disk)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if made.returncode != 0:
        raise Unavailable(f"mke2fs of programs and files failed: {made.stdout.strip()}")
    shutil.rmtree(tree)
    return disk


def installation(name: str | None) -> str:
    """The script that makes a system of the payload on a booted guest."""
    mount = f"mount -o ro /dev/vdb {Path(PACKAGE).parent}"
    if name is None:
        return mount
    started = " ".join(_wanted(name))
    return "; ".join(
        [
            mount,
            f"cp -r --preserve=mode {Path(PACKAGE).parent}/system/. /",
            f"[ ! -d {Path(PACKAGE).parent}/switch ] || cp -r --preserve=mode {Path(PACKAGE).parent}/switch/. /",
            _set_up(name),
            "systemctl daemon-reload",
            "systemd-tmpfiles --create /etc/tmpfiles.d/nixos.conf",
            # Not the target: it is active already.
            f"systemctl start {started}" if started else "true",
        ]
    )


def _rendering(name: str) -> Path:
    source = RENDERED / name
    if not source.is_dir():
        raise FileNotFoundError(f"{source} is missing: scripts/check-nix --write renders nix/tests/{name}.nix")
    return source


def _wanted(name: str) -> list[str]:
    """The units that are started at boot."""
    place = _rendering(name) / "etc/systemd/system"
    units = sorted(path for path in place.glob("*") if path.is_file())
    return [unit.name for unit in units if "\nWantedBy=" in unit.read_text()]


def _set_up(name: str) -> str:
    """Users, links and what is started at boot, by the guest's own tools."""
    links = [f"ln -s {PACKAGE}/{program} /usr/local/bin/{program}" for program in COMMANDS]
    enable = f"systemctl enable --quiet {' '.join(_wanted(name))}"
    return " && ".join(["systemd-sysusers /etc/sysusers.d/nixos.conf", *links, enable])


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
