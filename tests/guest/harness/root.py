"""The guest's root directory: Debian with systemd, built once and kept by the hash of its recipe."""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

from .unavailable import Unavailable

PACKAGES = (
    "systemd-sysv dbus dbus-user-session udev kmod libpam-systemd libnss-systemd"
    " iproute2 procps curl git ca-certificates python3"
)

# Documentation is left out, and dpkg does not sync: 30 seconds in place of 70.
RECIPE = [
    "mmdebstrap",
    "--variant=minbase",
    "--dpkgopt=force-unsafe-io",
    "--dpkgopt=path-exclude=/usr/share/doc/*",
    "--dpkgopt=path-exclude=/usr/share/man/*",
    "--include=" + ",".join(PACKAGES.split()),
    '--customize-hook=echo guest >"$1/etc/hostname";'
    ' echo 8a3c0c6d5b1e4f0f9d2a7c6b5e4f3a21 >"$1/etc/machine-id"; : >"$1/etc/fstab"',
    "trixie",
]
BUILD_TIMEOUT_SECONDS = 600


def cache_directory() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "ci-runner-guest"


def prepare() -> Path:
    """The root's path; builds it where it is not there yet. Two runs at once build it once."""
    digest = hashlib.sha256("\0".join(RECIPE).encode()).hexdigest()[:12]
    cache = cache_directory()
    cache.mkdir(parents=True, exist_ok=True)
    root = cache / f"root-{digest}"
    with open(cache / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not root.is_dir():
            _build(root)
    return root


def _build(root: Path) -> None:
    print(f"guest: building {root} (once, about 30 seconds)", file=sys.stderr, flush=True)
    partial = root.with_name(root.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    try:
        subprocess.run(
            [*RECIPE, str(partial)],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=BUILD_TIMEOUT_SECONDS,
        )
    except FileNotFoundError:
        raise Unavailable("mmdebstrap is not installed") from None
    except subprocess.TimeoutExpired:
        raise Unavailable(f"mmdebstrap took more than {BUILD_TIMEOUT_SECONDS} s") from None
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stdout.splitlines() if line.startswith("E:")] or ["no reason given"]
        raise Unavailable(f"mmdebstrap failed: {lines[0]}") from None
    partial.rename(root)
