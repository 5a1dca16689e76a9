#!/usr/bin/env python3
"""`switch-to-configuration test` of NixOS, for a guest that is Debian: the same comparison of units, the same order of actions.

It stands in a rendered system as bin/switch-to-configuration. What the present system is, PID 1 and /etc/systemd/system say;
the new one is the directory above `bin`. Written after NixOS' own program (nixos/modules/system/activation in nixpkgs):

- only active units with a file under /etc/systemd/system are looked at, so transient ones never are;
- where [Unit] differs in X-Reload-Triggers or in words for people alone, the unit is reloaded or left; anything else counts;
- X-RestartIfChanged=false: left. X-StopIfChanged=false: restarted in one step. Else stopped before and started after;
- sockets and slices are left; what is no longer there is stopped, unless X-StopOnRemoval=false.

Users that are no longer declared stay here; on NixOS they go (and get the same number when they come back).
"""

import shutil
import subprocess
import sys
from pathlib import Path

UNITS = Path("/etc/systemd/system")
OURS = ("ci-runner", "ci_")
# Keys of [Unit] whose change alone is none.
IGNORED = {"Description", "Documentation", "OnFailure", "OnSuccess", "OnFailureJobMode", "IgnoreOnIsolate", "StopWhenUnneeded"}
IGNORED |= {"RefuseManualStart", "RefuseManualStop", "AllowIsolation", "CollectMode", "SourcePath"}

Unit = dict[tuple[str, str], list[str]]


def parse(path: Path) -> Unit:
    unit: Unit = {}
    section = ""
    for line in path.read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif "=" in line and not line.startswith(("#", ";")):
            key, _, value = line.partition("=")
            unit.setdefault((section, key), []).append(value)
    return {key: values for key, values in unit.items() if key[0] != "Install"}


def compare(old: Unit, new: Unit) -> str:
    """`same`, `reload` or `changed`."""
    differ = {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}
    differ -= {("Unit", key) for key in IGNORED}
    if differ == {("Unit", "X-Reload-Triggers")}:
        return "reload"
    return "changed" if differ else "same"


def says(unit: Unit, section: str, key: str, default: bool) -> bool:
    return unit.get((section, key), [str(default)])[-1].lower() in ("true", "yes", "1", "on")


def systemctl(*words: str) -> None:
    if len(words) > 1 or words[0] in ("daemon-reload",):
        print("systemctl", *words, flush=True)
        subprocess.run(["systemctl", *words], check=True)


def is_active(name: str) -> bool:
    return subprocess.run(["systemctl", "is-active", "--quiet", name], check=False).returncode == 0


def ours(place: Path) -> dict[str, Path]:
    return {path.name: path for path in place.glob("*.*") if path.is_file() and path.name.startswith(OURS)}


def decide(old: dict[str, Path], new: dict[str, Path]) -> dict[str, list[str]]:
    doing: dict[str, list[str]] = {"stop": [], "reload": [], "restart": [], "start": []}
    for name, path in sorted(old.items()):
        if not is_active(name):
            continue
        before = parse(path)
        if name not in new:
            if says(before, "Unit", "X-StopOnRemoval", True):
                doing["stop"].append(name)
            continue
        after = parse(new[name])
        change = compare(before, after)
        if change == "reload":
            doing["reload"].append(name)
        elif change == "changed" and name.endswith(".service") and says(after, "Service", "X-RestartIfChanged", True):
            if says(after, "Service", "X-StopIfChanged", True):
                doing["stop"].append(name)
                doing["start"].append(name)
            else:
                doing["restart"].append(name)
    return doing


def wanted(new: dict[str, Path]) -> list[str]:
    return [name for name, path in sorted(new.items()) if "\nWantedBy=" in path.read_text()]


def activate(system: Path, old: dict[str, Path], new: dict[str, Path]) -> None:
    """The files of the new system in place of the old one's; on NixOS /etc itself is exchanged."""
    gone = [name for name in old if name not in new]
    if gone:
        subprocess.run(["systemctl", "disable", "--quiet", *gone], check=True)
        for name in gone:
            old[name].unlink()
    shutil.copytree(system / "etc", "/etc", dirs_exist_ok=True)
    if wanted(new):
        subprocess.run(["systemctl", "enable", "--quiet", *wanted(new)], check=True)


def main() -> None:
    if sys.argv[1:] != ["test"]:
        sys.exit("usage: switch-to-configuration test")
    system = Path(sys.argv[0]).resolve().parent.parent
    old, new = ours(UNITS), ours(system / "etc/systemd/system")
    doing = decide(old, new)
    systemctl("stop", *doing["stop"])
    activate(system, old, new)
    subprocess.run(["systemd-sysusers", "/etc/sysusers.d/nixos.conf"], check=True)
    systemctl("daemon-reload")
    subprocess.run(["systemd-tmpfiles", "--create", "/etc/tmpfiles.d/nixos.conf"], check=True)
    systemctl("reload", *doing["reload"])
    systemctl("restart", *doing["restart"])
    # What the targets want and is not there, and what was stopped for its change.
    missing = [name for name in wanted(new) if not is_active(name)]
    systemctl("start", *sorted({*doing["start"], *missing}))


if __name__ == "__main__":
    main()
