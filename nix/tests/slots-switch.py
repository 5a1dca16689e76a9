"""`slotUsers` changes on a machine while native jobs run: each goes on where it began, new ones start as configured.

Written against the `machine` of the NixOS test driver. On a guest that is not NixOS, /system has the rendered systems.
"""

import contextlib
import json
from collections.abc import Iterator
from typing import Any

JOBS = 4
GO = "/srv/go"
NOTE = "/var/lib/ci-runner/jobs-sockets"
WAITER = (
    'for signal in HUP INT TERM USR1 PIPE; do trap "echo disturbed by $signal" $signal; done; echo start of $1 by $(id -un) in $$; '
    f"while [ ! -e {GO} ]; do sleep 0.1; done; echo end of $1; exit $1"
)


def quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def add(text: str, words: str = "") -> str:
    return machine.succeed(f"ci-runner add --pool default -- sh -c {quoted(text)} {words}").strip()


def shown(job: str) -> dict[str, Any]:
    return json.loads(machine.succeed(f"ci-runner show {job} --output json"))


def status() -> dict[str, Any]:
    return json.loads(machine.succeed("ci-runner status --output json"))


def log_of(job: str) -> str:
    return machine.succeed(f"ci-runner logs {job}")


def system() -> str:
    """Where the systems are."""
    if machine.execute("test -e /run/current-system")[0] == 0:
        return machine.succeed("readlink -f /run/booted-system").strip()
    return "/system"


def switch(name: str | None) -> None:
    before = machine.get_unit_property("ci-runner.service", "MainPID")
    place = SYSTEM + (f"/specialisation/{name}" if name else "")
    told = machine.succeed(f"{place}/bin/switch-to-configuration test 2>&1", timeout=120)
    machine.log(f"switched to {name or 'the first system'}: {'; '.join(told.splitlines())}")
    machine.wait_until_succeeds("ci-runner status", timeout=30)
    assert machine.get_unit_property("ci-runner.service", "MainPID") != before, "another way to start jobs is another daemon"


def start_jobs() -> list[str]:
    jobs = [add(WAITER, f"job {number}") for number in range(JOBS)]
    for job in jobs:
        machine.wait_until_succeeds(f"ci-runner logs {job} | grep -q 'start of'", timeout=20)
    return jobs


def user_of(jobs: list[str]) -> set[str]:
    return {log_of(job).split(" by ")[1].split()[0].rstrip("0123456789") for job in jobs}


def alive(jobs: list[str]) -> None:
    for job in jobs:
        pid = log_of(job).split()[-1]
        machine.succeed(f"test $(cut -d' ' -f3 /proc/{pid}/stat) != Z")
        assert shown(job)["state"] == "running", shown(job)


def ended(jobs: list[str]) -> None:
    for number, job in enumerate(jobs):
        machine.execute(f"ci-runner wait {job} --timeout 30s", timeout=40)
        view = shown(job)
        attempts = [(attempt["result"], attempt["exit_code"]) for attempt in view["attempts"] or []]
        assert attempts == [("exited", number)], view
        log = log_of(job)
        assert log.count("start of") == 1 and log.endswith(f"end of {number}\n") and "disturbed" not in log, log


def nothing_is_left() -> None:
    for place in ["/run/ci-runner-jobs/attempts", "/run/ci-runner/spawner/attempts"]:
        machine.wait_until_succeeds(f'test -z "$(ls {place} 2>/dev/null)"', timeout=20)
    machine.wait_until_succeeds("test -z \"$(find /sys/fs/cgroup -name 'ci-job-*')\"", timeout=20)
    machine.wait_until_fails("ps -eo user:32= | grep ^ci-runner-job-", timeout=20)


def former_spawner_is_let_go() -> None:
    machine.wait_until_succeeds("journalctl -u ci-runner -o cat | grep -q 'no attempt is open with the former native spawner'", timeout=20)
    machine.succeed("journalctl --rotate && journalctl --vacuum-time=1s")


@contextlib.contextmanager
def changed(what: str, user: str, to: str | None, user_then: str) -> Iterator[list[str]]:
    """Jobs run, another spawner is configured, and nobody notices but the jobs that come then."""
    with subtest(what):
        machine.succeed(f"rm -f {GO}")
        jobs = start_jobs()
        assert user_of(jobs) == {user}, user_of(jobs)
        switch(to)
        alive(jobs)
        later = start_jobs()
        assert user_of(later) == {user_then}, user_of(later)
        assert status()["slots"]["used"] == 2 * JOBS and not status()["problems"], status()
        yield jobs
        machine.succeed(f"touch {GO}")
        ended(jobs)
        ended(later)
        former_spawner_is_let_go()
        nothing_is_left()


SLOT, OWN = "ci-runner-job-", "ci-runner"

machine.start()
machine.wait_for_unit("ci-runner-jobs.service")
machine.wait_for_unit("ci-runner.service")
SYSTEM = system()

with changed("slotUsers off: what the service of root started goes on there", SLOT, "own", OWN):
    pass

with changed("slotUsers on: what the daemon's own spawner started goes on there", OWN, None, SLOT):
    pass
machine.wait_until_fails("pgrep -f 'ci-runner-spawne[r] .*--runtime-dir'", timeout=20)

with changed("the same over a crash of the daemon, and a cancel", SLOT, "own", OWN) as jobs:
    machine.succeed("systemctl kill --kill-whom=main -s KILL ci-runner")
    machine.wait_until_succeeds("ci-runner status", timeout=30)
    alive(jobs)
    machine.succeed(f"ci-runner cancel {jobs[-1]}")
    # It ignores the signal, and is killed after the grace.
    machine.wait_until_succeeds(f"ci-runner show {jobs[-1]} --output json | grep -q cancelled", timeout=20)
    assert shown(jobs[-1])["attempts"][0]["result"] == "signaled", shown(jobs[-1])
    machine.log(log_of(jobs[-1]))
    jobs.pop()

with subtest("to and fro while jobs of every way run"):
    machine.succeed(f"rm -f {GO}")
    first = [add(WAITER, f"job {number}") for number in range(2)]
    for job in first:
        machine.wait_until_succeeds(f"ci-runner logs {job} | grep -q 'start of'", timeout=20)
    switch(None)
    second = [add(WAITER, f"job {number}") for number in range(2)]
    for job in second:
        machine.wait_until_succeeds(f"ci-runner logs {job} | grep -q 'start of'", timeout=20)
    switch("units")
    third = [add(WAITER, f"job {number}") for number in range(2)]
    for job in third:
        machine.wait_until_succeeds(f"ci-runner logs {job} | grep -q 'start of'", timeout=30)
    alive(first + second)
    assert len(machine.succeed("systemctl list-units --plain --no-legend 'ci-job-*'").splitlines()) == 2
    switch("own")
    alive(first + second)
    assert (user_of(first), user_of(second)) == ({OWN}, {SLOT})
    machine.succeed(f"touch {GO}")
    for jobs in [first, second, third]:
        ended(jobs)
    nothing_is_left()
    switch(None)

with subtest("the control: without the note of the service, its jobs are lost while they run"):
    machine.succeed(f"rm -f {GO}")
    jobs = start_jobs()
    machine.succeed(f": >{NOTE}")
    switch("own")
    for job in jobs:
        machine.wait_until_succeeds(f"ci-runner show {job} --output json | grep -q '\"result\":\"lost\"'", timeout=20)
        machine.succeed(f"test -e /proc/{log_of(job).split()[-1]}")
    machine.succeed(f"touch {GO}")
