"""Power cuts and orderly reboots, with jobs that run, jobs that wait and jobs that are being submitted.

Written against the `machine` of the NixOS test driver. What was acknowledged is told on the console,
which the host keeps: so it is known of every submission up to the last moment.
"""

# machine: qemu

import json
import re
from typing import Any

SLOTS = 4  # of each pool, as power.nix has it
WAITING = 20
SUBMITTERS = 3
DROP_IN = "/run/systemd/system/ci-runner.service.d"

# Runs until the machine goes; the next attempt ends at once.
JOB = '[ "$CI_RUNNER_ATTEMPT" -gt 1 ] || exec sleep 1000'
# The same, but it takes the polite signal for a reason to end well.
POLITE = '[ "$CI_RUNNER_ATTEMPT" -gt 1 ] || { trap "exit 0" TERM; sleep 1000 & wait; }'


def add(jobs: list[dict[str, Any]]) -> list[str]:
    lines = "\n".join(json.dumps(job) for job in jobs)
    return machine.succeed(f"ci-runner add -f /dev/stdin <<'END'\n{lines}\nEND", timeout=60).split()


def results(job: dict[str, Any]) -> list[str]:
    return [attempt["result"] for attempt in job["attempts"]]


def boot_id() -> str:
    return machine.succeed("cat /proc/sys/kernel/random/boot_id")


def finished(ids: list[str]) -> dict[str, dict[str, Any]]:
    """Waits for the jobs to end; each by its id."""
    machine.wait_for_unit("ci-runner.service", timeout=120)
    machine.execute(f"ci-runner wait --timeout 600s {' '.join(ids)} >/dev/null", timeout=60)
    shown = json.loads(machine.succeed(f"ci-runner show {' '.join(ids)} --output json", timeout=60))
    jobs = {str(job["id"]): job for job in (shown if isinstance(shown, list) else [shown])}
    assert sorted(jobs) == sorted(ids), f"lost: {set(ids) - set(jobs)}"
    return jobs


def start_jobs() -> tuple[list[str], list[str]]:
    """Fills every slot: jobs that may run again, and such that may not. They run when it returns."""
    where: list[dict[str, Any]] = [{"pool": "default"}, {"pool": "native", "dir": "/tmp"}]
    again = add([{"shell": JOB, "retry": 1, "retry_delay": 0, **place} for place in where for _ in range(SLOTS - 2)])
    never = add([{"shell": shell, "retry": 0, **place} for place in where for shell in (JOB, POLITE)])
    machine.wait_until_succeeds(
        "test $(ci-runner list --state running --output json | grep -o '\"id\"' | wc -l) "
        f"-eq {len(again + never)}",
        timeout=60,
    )
    return again, never


def check_lost(again: list[str], never: list[str]) -> None:
    jobs = finished(again + never)
    for job in again:
        assert (results(jobs[job]), jobs[job]["outcome"]) == (["lost", "exited"], "succeeded"), jobs[job]
    for job in never:
        assert (results(jobs[job]), jobs[job]["outcome"]) == (["lost"], "failed"), jobs[job]


def acknowledged() -> list[str]:
    """Ids that submitters told on the console."""
    return re.findall(r"ACKNOWLEDGED (\d+)\b", machine.get_console_log())


def restart_daemon_with(text: str) -> None:
    machine.succeed(
        f"mkdir -p {DROP_IN}; printf '[Service]\\n%s\\n' '{text}' >{DROP_IN}/test.conf; systemctl daemon-reload; "
        "systemctl restart ci-runner",
        timeout=60,
    )
    machine.wait_until_succeeds("ci-runner status", timeout=30)


def submit_on_a_stuck_disk() -> str:
    """What `add` prints while no commit can reach the disk."""
    machine.succeed("sync; fsfreeze --freeze /")
    _, output = machine.execute("timeout 20 ci-runner add -- true", timeout=60)
    return output.strip()


machine.start(allow_reboot=True)
machine.wait_for_unit("ci-runner.service", timeout=120)

with subtest("power cut with running, waiting and incoming jobs: nothing acknowledged is lost"):
    done = add([{"command": ["true"]}, {"shell": "exit 7", "retry": 0}])
    finished(done)
    again, never = start_jobs()
    waiting = add([{"command": ["true"]} for _ in range(WAITING)])
    machine.succeed(
        f"for _ in $(seq {SUBMITTERS}); do while id=$(ci-runner add -- true); do echo ACKNOWLEDGED $id; done "
        ">/dev/console 2>/dev/null & done"
    )
    poll = 0
    while len(acknowledged()) < 10 * SUBMITTERS and poll < 600:
        machine.sleep(1)
        poll += 1
    before = boot_id()
    machine.crash()
    told = acknowledged()
    assert len(told) >= 10 * SUBMITTERS, told
    machine.start(allow_reboot=True)
    assert boot_id() != before
    check_lost(again, never)
    jobs = finished(waiting + told)
    for job in jobs.values():
        assert (results(job), job["outcome"]) == (["exited"], "succeeded"), job
    assert [job["exit_code"] for job in finished(done).values()] == [0, 7]
    machine.log(f"power: {len(told)} submissions were acknowledged until the cut, all are there")

with subtest("an orderly reboot, and a daemon that outlives its jobs: they are lost, not failed"):
    # It is stopped seconds after its jobs.
    restart_daemon_with("ExecStop=/bin/sleep 5")
    again, never = start_jobs()
    waiting = add([{"command": ["true"]} for _ in range(WAITING)])
    machine.reboot()
    check_lost(again, never)
    for job in finished(waiting).values():
        assert (results(job), job["outcome"]) == (["exited"], "succeeded"), job

with subtest("control: who is acknowledged before the commit can be lost"):
    restart_daemon_with("")
    assert submit_on_a_stuck_disk() == "", "acknowledged, and the disk was stuck"
    machine.succeed("fsfreeze --unfreeze /")
    restart_daemon_with("Environment=CI_RUNNER_FAIL=daemon-acknowledges-early")
    early = submit_on_a_stuck_disk()
    assert early.isdigit(), early
    machine.crash()
    machine.start(allow_reboot=True)
    machine.wait_for_unit("ci-runner.service", timeout=120)
    machine.fail(f"ci-runner show {early}")
