"""Kernel and disk of the QEMU guests, built once and kept by the hash of their recipe.

The directory holds `vmlinuz`, `initrd`, `base.raw` (the guest's root as it is before its first boot)
and `ready.qcow2`: that disk after a boot, with a snapshot `ready` of the whole machine, memory too.
A guest starts from a copy of the latter in a second, where a boot takes eight.
"""

import fcntl
import hashlib
import lzma
import shutil
import subprocess
import sys
from pathlib import Path

from . import libc, root, vm
from .unavailable import Unavailable
from .vm import Image

KERNEL_RECIPE = ["mmdebstrap", "--variant=extract", "--include=linux-image-cloud-amd64", "trixie"]
DISK_SIZE = "2G"
PROGRAMS = ["qemu-system-x86_64", "qemu-img", "busybox", "mke2fs", "cpio", "chroot"]
BUILD_TIMEOUT_SECONDS = 600

AGENT = Path(__file__).with_name("agent.py")
AGENT_PLACE = "usr/local/lib/guest-agent.py"
AGENT_UNIT = f"""[Unit]
Description=Commands of the test scripts
DefaultDependencies=no
[Service]
ExecStart=/usr/bin/python3 -IES /{AGENT_PLACE}
Restart=always
RestartSec=0
KillMode=process
OOMPolicy=continue
OOMScoreAdjust=-1000
TasksMax=infinity
[Install]
WantedBy=sysinit.target
"""

# Of what Debian starts, what no test needs: half of a boot's time. Each program costs a tenth of a second.
MASKED = (
    "systemd-udevd.service systemd-udevd-control.socket systemd-udevd-kernel.socket"
    " systemd-udev-load-credentials.service systemd-modules-load.service systemd-sysctl.service"
    " systemd-tmpfiles-setup-dev-early.service systemd-tmpfiles-setup-dev.service systemd-remount-fs.service"
    " systemd-ask-password-console.path systemd-ask-password-wall.path systemd-user-sessions.service"
    " systemd-udev-trigger.service systemd-binfmt.service systemd-random-seed.service"
    " systemd-update-utmp.service systemd-hwdb-update.service ldconfig.service"
    " kmod-static-nodes.service modprobe@.service getty.target getty@.service serial-getty@.service"
    " systemd-journal-catalog-update.service systemd-firstboot.service systemd-pstore.service"
    " apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer"
    " dev-hugepages.mount dev-mqueue.mount sys-kernel-debug.mount sys-kernel-tracing.mount"
    " sys-kernel-config.mount sys-fs-fuse-connections.mount proc-sys-fs-binfmt_misc.automount"
)

# The second disk is the run's: programs and files of one script (payload.py). A snapshot is made
# without one, and mounts it later.
INIT = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs none /dev
/bin/busybox insmod /virtio_blk.ko
/bin/busybox mount -t ext4 /dev/vda /root || exec /bin/busybox poweroff -f
/bin/busybox mount -t ext4 -o ro /dev/vdb /root/opt/ci 2>/dev/null
/bin/busybox umount /dev
exec /bin/busybox switch_root /root /lib/systemd/systemd
"""


def missing() -> str | None:
    """Why there can be no such guest here, as far as one can tell without trying."""
    for program in PROGRAMS:
        if shutil.which(program) is None:
            return f"{program} is not installed"
    return None


def prepare(name: str, work: Path) -> Image:
    """The image; builds it where it is not there yet, with a guest called `name`, in directories below `work`."""
    lower = root.prepare()
    cache = root.cache_directory()
    with open(cache / "lock-qemu", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        kernel = _kernel(cache)
        accelerator = vm.accelerator(kernel / "vmlinuz")
        place = cache / f"qemu-{_digest(lower, kernel, accelerator)}"
        if not place.is_dir():
            print(f"guest: building {place} (once, about a minute)", file=sys.stderr, flush=True)
            partial = place.with_name(place.name + ".partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            _build(name, Image(partial, accelerator), lower, kernel, work / "image")
            # It names its base by path.
            ready = str(partial / "ready.qcow2")
            _run(["qemu-img", "rebase", "-u", "-b", str(place / "base.raw"), "-F", "raw", ready])
            partial.rename(place)
    return Image(place, accelerator)


def _digest(lower: Path, kernel: Path, accelerator: str) -> str:
    # A snapshot is only good for the machine that made it.
    emulator = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True).stdout
    machine = vm.command(Image(Path("/"), accelerator), Path("/"), Path("/"), Path("/"))
    words = [lower.name, kernel.name, DISK_SIZE, AGENT.read_text(), AGENT_UNIT, MASKED, INIT, emulator, *machine]
    return hashlib.sha256("\0".join(words).encode()).hexdigest()[:12]


def _run(command: list[str], **options: object) -> None:
    what = " ".join(Path(command[0]).name if number == 0 else word for number, word in enumerate(command[:3]))
    try:
        subprocess.run(
            command,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=BUILD_TIMEOUT_SECONDS,
            **options,  # type: ignore[call-overload]
        )
    except subprocess.CalledProcessError as error:
        words = error.stdout.decode(errors="replace").strip().splitlines()
        lines = [line for line in words if line.startswith("E:")] or words[-1:] or ["no reason given"]
        raise Unavailable(f"`{what}` failed: {lines[0]}") from None
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Unavailable(f"`{what}`: {error}") from None


def _kernel(cache: Path) -> Path:
    """Debian's kernel as its package holds it, with `vmlinuz` beside."""
    digest = hashlib.sha256("\0".join(KERNEL_RECIPE).encode()).hexdigest()[:12]
    place = cache / f"kernel-{digest}"
    if not place.is_dir():
        partial = place.with_name(place.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        _run([*KERNEL_RECIPE, str(partial)])
        (partial / "vmlinuz").symlink_to(next((partial / "boot").glob("vmlinuz-*")).relative_to(partial))
        partial.rename(place)
    return place


def _build(name: str, image: Image, lower: Path, kernel: Path, scratch: Path) -> None:
    shutil.copyfile(kernel / "vmlinuz", image.kernel)
    _initrd(image.initrd, kernel, scratch / "initrd")
    base = image.directory / "base.raw"
    tree = _tree(lower, kernel, scratch)
    _run(["truncate", "-s", DISK_SIZE, str(base)])
    _run(["mke2fs", "-q", "-t", "ext4", "-d", str(tree), str(base)])
    _run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(base), "-F", "raw", str(image.ready)])
    vm.make_snapshot(name, image, scratch)


def _initrd(target: Path, kernel: Path, tree: Path) -> None:
    """As little as finds the root: the kernel has ext4 built in, but no virtio disks."""
    for directory in ("bin", "dev", "root"):
        (tree / directory).mkdir(parents=True)
    busybox = shutil.which("busybox")
    assert busybox is not None
    shutil.copy2(busybox, tree / "bin/busybox")
    module = next((kernel / "usr/lib/modules").glob("*/kernel/drivers/block/virtio_blk.ko.xz"))
    (tree / "virtio_blk.ko").write_bytes(lzma.decompress(module.read_bytes()))
    (tree / "init").write_text(INIT)
    (tree / "init").chmod(0o755)
    _run(["sh", "-c", 'cd "$1" && find . | cpio --quiet -o -H newc >"$2"', "-", str(tree), str(target)])


def _tree(lower: Path, kernel: Path, scratch: Path) -> Path:
    """The root of nspawn guests, with what a machine of its own needs more."""
    tree, upper, workdir = scratch / "tree", scratch / "upper", scratch / "overlay"
    for directory in (tree, upper, workdir):
        directory.mkdir(parents=True)
    libc.mount("overlay", str(tree), "overlay", 0, f"lowerdir={lower},upperdir={upper},workdir={workdir}")
    modules = kernel / "usr/lib/modules"
    shutil.copytree(modules, tree / "usr/lib/modules", dirs_exist_ok=True, symlinks=True)
    (tree / AGENT_PLACE).parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(AGENT, tree / AGENT_PLACE)
    (tree / "opt/ci").mkdir(parents=True)
    (tree / "etc/hosts").write_text("127.0.0.1 localhost guest\n::1 localhost\n")
    (tree / "etc/systemd/system/guest-agent.service").write_text(AGENT_UNIT)
    for name in ("etc/.updated", "var/.updated"):
        (tree / name).touch()
    release = next(modules.iterdir()).name
    _run(["chroot", str(tree), "depmod", release])
    _run(["chroot", str(tree), "systemctl", "mask", "--quiet", *MASKED.split()])
    _run(["chroot", str(tree), "systemctl", "enable", "--quiet", "guest-agent.service"])
    # It starts for the first who asks.
    (tree / "usr/lib/systemd/system/multi-user.target.wants/systemd-logind.service").unlink()
    # They would run at each boot and each `daemon-reload`; nothing here is for them to find.
    shutil.rmtree(tree / "usr/lib/systemd/system-generators")
    _run(["chroot", str(tree), "systemctl", "set-default", "--quiet", "multi-user.target"])
    return tree
