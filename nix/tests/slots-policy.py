"""Native jobs under a user per slot: root's policy says who they are, also when it changes under them, and no daemon does.

Written against the `machine` of the NixOS test driver.
"""

import base64
import json
from typing import Any

GO = "/srv/go"


def quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def add(text: str) -> str:
    return machine.succeed(f"ci-runner add --pool small -- sh -c {quoted(text)}").strip()


def finished(job: str) -> dict[str, Any]:
    machine.execute(f"ci-runner wait {job} --timeout 30s", timeout=40)
    shown = json.loads(machine.succeed(f"ci-runner show {job} --output json"))
    assert shown["state"] == "finished", shown
    return shown


def log_of(job: str) -> str:
    return machine.succeed(f"ci-runner logs {job}")


def succeeded(job: str) -> str:
    shown = finished(job)
    assert shown["outcome"] == "succeeded", (shown, log_of(job))
    return log_of(job)


def nothing_is_left() -> None:
    machine.wait_until_succeeds("test -z \"$(ls /run/ci-runner-jobs/attempts)\"", timeout=20)
    groups = "/sys/fs/cgroup/system.slice/ci-runner-jobs.service"
    machine.wait_until_succeeds(f"test -z \"$(find {groups} -name 'ci-job-*')\"", timeout=20)
    machine.fail("ps -eo user:32= | grep ^ci-runner-job-")


machine.start()
machine.wait_for_unit("ci-runner-jobs.service")
machine.wait_for_unit("ci-runner.service")

POLICY = "/etc/ci-runner/jobs.json"
SMALL = [f"ci-runner-job-small-{number}" for number in range(2)]
HOLD = f"id -un; touch /tmp/of-$USER; while [ ! -e {GO} ]; do sleep 0.1; done; echo end"
# What an attempt's lock file says without the user.
AGE = """
import glob
for path in glob.glob("/run/ci-runner-jobs/attempts/*/lock"):
    with open(path, "r+") as lock:
        lines = lock.read().splitlines(True)
        lock.seek(0)
        lock.writelines(line.rstrip(" ") for line in lines[:5])
        lock.truncate()
"""


def reload_with(users: list[str]) -> None:
    started = "journalctl -u ci-runner-jobs -o cat | grep -c 'native jobs started'"
    before = int(machine.succeed(started))
    policy["pools"]["small"]["users"] = users
    encoded = base64.b64encode(json.dumps(policy).encode()).decode()
    machine.succeed(f"echo {encoded} | base64 -d >{POLICY}.new; mv -fT {POLICY}.new {POLICY}; systemctl reload ci-runner-jobs")
    machine.wait_until_succeeds(f"test $({started}) -gt {before}", timeout=20)
    machine.wait_until_succeeds("ci-runner status --output json | grep -q '\"state\":\"running\"'", timeout=30)


def hold_both() -> list[str]:
    """Two jobs, in the order of their users."""
    machine.succeed(f"rm -f {GO}")
    jobs = [add(HOLD) for _ in SMALL]
    for job in jobs:
        machine.wait_until_succeeds(f"ci-runner logs {job} | grep -q ci-runner-job", timeout=20)
    return sorted(jobs, key=lambda job: log_of(job).split()[0])


policy = json.loads(machine.succeed(f"grep -v ^# {POLICY}"))
for age in [None, AGE]:
    of_whom = "attempts of an earlier version" if age else "attempts"
    with subtest(f"a user is removed from the policy under {of_whom}: the other's job is alone with its own"):
        first, second = hold_both()
        if age:
            machine.succeed(f"python3 -c {quoted(age)}")
        reload_with(SMALL[1:])
        machine.succeed(f"ci-runner cancel {first}")
        assert finished(first)["outcome"] == "cancelled"
        third = add("id -un; pgrep -u $USER -x sleep || echo alone")
        # It has the place that is free, and nobody to be.
        refused = f"job {third} could not be started, .* all 1 users of the pool"
        machine.wait_until_succeeds(f"journalctl -u ci-runner -o cat | grep '{refused}'", timeout=20)
        machine.succeed(f"touch {GO}")
        assert succeeded(second) == f"{SMALL[1]}\nend\n", log_of(second)
        assert succeeded(third) == f"{SMALL[1]}\nalone\n", log_of(third)
        reload_with(SMALL)
    with subtest(f"users are reordered under {of_whom}: a dead shim's job is ended, and not the other"):
        first, second = hold_both()
        if age:
            machine.succeed(f"python3 -c {quoted(age)}")
        reload_with(SMALL[::-1])
        machine.succeed(f"kill -KILL $(ps -o ppid= -p $(pgrep -o -u {SMALL[0]} -x sh))")
        assert finished(first)["attempts"][0]["result"] == "lost"
        machine.fail(f"ls /tmp/of-{SMALL[0]}")
        machine.succeed(f"ls /tmp/of-{SMALL[1]}")
        third = add("id -un")
        assert succeeded(third) == f"{SMALL[0]}\n", log_of(third)
        machine.succeed(f"touch {GO}")
        assert succeeded(second) == f"{SMALL[1]}\nend\n", log_of(second)
        reload_with(SMALL)
    nothing_is_left()

ATTACK = """
import fcntl, json, os, socket

def start(hello=True, **words):
    fd = os.memfd_create("spec", os.MFD_ALLOW_SEALING)
    os.write(fd, json.dumps({"argv": ["id", "-un"], "env": [], "dir": None, "umask": 18}).encode())
    fcntl.fcntl(fd, 1033, 1 | 2 | 4 | 8)
    link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link.connect("/run/ci-runner-jobs/socket")
    link.settimeout(10)
    if hello:
        link.send(json.dumps([{"hello": {"protocol": 1, "store": "feedf00d", "generation": 1}}]).encode())
        link.recv(65536)
    message = {"key": {"store": "feedf00d", "job": 1, "attempt": 1}, "pool": "default", "slot": 0,
        "timeout_ms": 5000, "soft_timeout_ms": None, "grace_ms": 0, "log_bytes_max": 1000, "secrets": False, **words}
    socket.send_fds(link, [json.dumps([{"start": message}]).encode()], [fd])
    return link.recv(65536).decode()

answers = {
    "a user": start(user="root"),
    "a number": start(uid=0),
    "another pool": start(pool="unknown"),
    "a pool with a path": start(pool="../../etc"),
    "no hello": start(hello=False),
    "the control": start(slot=4711),
}
print(json.dumps(answers))
"""
with subtest("a daemon that was taken over chooses no user"):
    encoded = base64.b64encode(ATTACK.encode()).decode()
    command = f"echo {encoded} | base64 -d >/srv/attack.py; runuser -u ci-runner -- python3 /srv/attack.py"
    answers = json.loads(machine.succeed(command, timeout=60))
    control = answers.pop("the control")
    assert '"started":' in control, control
    for name, answer in answers.items():
        assert "refused" in answer and '"started":' not in answer, (name, answer)
    machine.fail("setpriv --reuid=65534 --clear-groups python3 /srv/attack.py")
machine.fail("systemctl list-units --failed --plain --no-legend | grep ci-")
