"""The end of the host: running attempts are lost, and nothing that was acknowledged is.

Written against the `machine` of the NixOS test driver. Each batch has jobs that finished before,
jobs that run, and jobs that wait for a slot; then the host goes.
"""

import json
from collections.abc import Callable
from typing import Any

RUNNING = 10  # as many as reboot.nix has slots
WAITING = 50

# Tells that it runs; ends at once in a later boot.
JOB = 'echo "$CI_RUNNER_JOB_ID $CI_RUNNER_ATTEMPT" >>/var/tmp/story; [ -e /var/tmp/go ] || sleep 1000'
# The same, but it takes the polite signal for a reason to end well.
POLITE = 'trap "exit 0" TERM; ' + JOB.replace("sleep 1000", "{ sleep 1000 & wait; }")


def add(jobs: list[dict[str, Any]]) -> list[str]:
    lines = "\n".join(json.dumps({"dir": "/tmp", **job}) for job in jobs)
    return machine.succeed(f"ci-runner add -f /dev/stdin <<'END'\n{lines}\nEND", timeout=60).split()


def show(job: str) -> dict[str, Any]:
    shown: dict[str, Any] = json.loads(machine.succeed(f"ci-runner show {job} --output json"))
    return shown


def attempts(job: str) -> list[tuple[str, str | None]]:
    return [(attempt["result"], attempt["cause"]) for attempt in show(job)["attempts"]]


def runs(job: str) -> int:
    """How often the job's command was begun, counted by itself."""
    return int(machine.succeed(f"grep -c '^{job} ' /var/tmp/story || true"))


def survive(end_of_host: Callable[[], None]) -> None:
    machine.wait_for_unit("ci-runner.service", timeout=120)
    machine.succeed("rm -f /var/tmp/go; install -m 666 /dev/null /var/tmp/story")
    finished = add([{"command": ["true"]}, {"shell": "exit 7", "retry": 0}])
    machine.execute(f"ci-runner wait --timeout 60s {' '.join(finished)}", timeout=90)
    again = add([{"shell": JOB, "retry": 1, "retry_delay": 0} for _ in range(RUNNING - 3)])
    never = add([{"shell": JOB, "retry": 0} for _ in range(2)] + [{"shell": POLITE, "retry": 0}])
    machine.wait_until_succeeds(f"test $(wc -l </var/tmp/story) -eq {RUNNING}", timeout=60)
    waiting = add([{"command": ["true"]} for _ in range(WAITING)])
    machine.succeed("touch /var/tmp/go; sync")
    before = machine.succeed("cat /proc/sys/kernel/random/boot_id")

    end_of_host()
    machine.wait_for_unit("ci-runner.service", timeout=120)
    assert machine.succeed("cat /proc/sys/kernel/random/boot_id") != before
    everything = " ".join(finished + again + never + waiting)
    machine.execute(f"ci-runner wait --timeout 120s {everything}", timeout=150)

    for job in waiting:
        assert show(job)["outcome"] == "succeeded", show(job)
    for job in again:
        assert show(job)["outcome"] == "succeeded", show(job)
        assert [result for result, _ in attempts(job)] == ["lost", "exited"], show(job)
        assert runs(job) == 2, show(job)
    for job in never:
        assert show(job)["outcome"] == "failed", show(job)
        assert [result for result, _ in attempts(job)] == ["lost"], show(job)
        assert runs(job) == 1, show(job)
    assert [show(job)["exit_code"] for job in finished] == [0, 7]


def crash() -> None:
    machine.crash()
    machine.start(allow_reboot=True)


machine.start(allow_reboot=True)

with subtest("an orderly reboot: running attempts are lost, their policies decide, the rest goes on"):
    survive(machine.reboot)

with subtest("the host ends in one moment: the same"):
    survive(crash)

with subtest("control: without a policy for lost attempts nothing runs twice"):
    # What makes the jobs above run again is their policy, not the reboot.
    machine.succeed("rm -f /var/tmp/go; install -m 666 /dev/null /var/tmp/story")
    jobs = add([{"shell": JOB, "retry": 3, "retry_on": ["exit"]}])
    machine.wait_until_succeeds("test -s /var/tmp/story", timeout=60)
    machine.succeed("touch /var/tmp/go; sync")
    machine.reboot()
    machine.wait_for_unit("ci-runner.service", timeout=120)
    machine.execute(f"ci-runner wait --timeout 60s {jobs[0]}", timeout=90)
    assert [result for result, _ in attempts(jobs[0])] == ["lost"], show(jobs[0])
    assert runs(jobs[0]) == 1
