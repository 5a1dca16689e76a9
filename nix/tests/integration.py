"""What jobs notice of a killed, restarted, reloaded or hung daemon: nothing.

Written against the `machine` of the NixOS test driver. Each job writes one line when it starts and
one when it ends, so that a job run twice, or ended early, is seen in the file.
"""

import json

JOBS = 50
JOB = "echo start $CI_RUNNER_JOB_ID $$ >>/tmp/story; until [ -e /tmp/go ]; do sleep 0.2; done; echo end $CI_RUNNER_JOB_ID >>/tmp/story"


def main_pid() -> str:
    return machine.get_unit_property("ci-runner.service", "MainPID")


def wait_for_another(pid: str, timeout: int) -> None:
    """Waits for a daemon other than `pid` that says it is ready."""
    machine.wait_until_succeeds(
        f'test "$(systemctl show -P MainPID ci-runner)" -ne {pid}'
        ' && test "$(systemctl show -P SubState ci-runner)" = running'
        ' && test "$(systemctl show -P MainPID ci-runner)" -ne 0',
        timeout=timeout,
    )
    machine.wait_until_succeeds("ci-runner status", timeout=timeout)


def start_jobs(count: int) -> list[str]:
    """Queues jobs that end when /tmp/go appears; returns once all of them run."""
    machine.succeed("rm -f /tmp/go /tmp/story")
    ids = machine.succeed(
        f"cd /tmp && for i in $(seq {count}); do ci-runner add --retry 0 --shell '{JOB}'; done",
        timeout=120,
    ).split()
    machine.wait_until_succeeds(f"test $(grep -c ^start /tmp/story) -eq {count}", timeout=120)
    return ids


def job_processes() -> list[str]:
    return [line.split()[2] for line in machine.succeed("grep ^start /tmp/story").splitlines()]


def undisturbed() -> None:
    """The same processes as at the start, none begun again, none ended."""
    story = machine.succeed("cat /tmp/story").splitlines()
    assert len(story) == JOBS and all(line.startswith("start ") for line in story), story
    machine.succeed(f"kill -0 {' '.join(job_processes())}")


machine.wait_for_unit("ci-runner.service", timeout=120)
ids = start_jobs(JOBS)

with subtest("kill -9 of the daemon"):
    before = main_pid()
    machine.succeed("systemctl kill --signal=KILL --kill-whom=main ci-runner")
    wait_for_another(before, timeout=30)
    undisturbed()

with subtest("five of them in a row do not end the service"):
    for _ in range(5):
        before = main_pid()
        machine.succeed("systemctl kill --signal=KILL --kill-whom=main ci-runner")
        wait_for_another(before, timeout=30)
    undisturbed()

with subtest("systemctl restart"):
    before = main_pid()
    machine.succeed("systemctl restart ci-runner", timeout=60)
    wait_for_another(before, timeout=30)
    undisturbed()

with subtest("nobody who submits during restarts is refused"):
    machine.succeed(
        "touch /tmp/printed; (for i in $(seq 100); do ci-runner add -- true >>/tmp/printed 2>>/tmp/refused; done; touch /tmp/submitted)"
        " >/dev/null 2>&1 &"
    )
    restarts = 0
    while machine.execute("test -e /tmp/submitted")[0] != 0:
        machine.succeed("systemctl restart ci-runner", timeout=60)
        restarts += 1
        # It has to get somewhere: a daemon that is restarted all the time serves nobody.
        machine.wait_until_succeeds(
            f"test -e /tmp/submitted || test -s /tmp/refused || test $(wc -l </tmp/printed) -ge {10 * restarts}", timeout=60
        )
        assert machine.succeed("cat /tmp/refused") == ""
    assert restarts >= 2, restarts
    printed = machine.succeed("cat /tmp/printed").split()
    assert len(set(printed)) == 100, printed
    # Each is in the queue; it cannot run, the slots are taken.
    machine.succeed(f"ci-runner cancel {' '.join(printed)}", timeout=60)
    undisturbed()

with subtest("systemctl reload keeps the daemon too"):
    before = main_pid()
    machine.succeed("systemctl reload ci-runner", timeout=60)
    assert main_pid() == before
    undisturbed()

with subtest("stop, and start again later"):
    before = main_pid()
    machine.succeed("systemctl stop ci-runner", timeout=60)
    undisturbed()
    machine.succeed("systemctl start ci-runner", timeout=60)
    wait_for_another(before, timeout=30)
    undisturbed()

with subtest("a hung daemon is replaced by the watchdog"):
    before = main_pid()
    machine.succeed("systemctl kill --signal=STOP --kill-whom=main ci-runner")
    wait_for_another(before, timeout=60)
    undisturbed()

with subtest("systemctl daemon-reexec"):
    before = main_pid()
    machine.succeed("systemctl daemon-reexec", timeout=60)
    machine.wait_until_succeeds("ci-runner status", timeout=30)
    assert main_pid() == before
    undisturbed()

with subtest("every job ends once, with its own result"):
    machine.succeed("touch /tmp/go")
    machine.succeed(f"ci-runner wait --timeout 120s {' '.join(ids)}", timeout=180)
    story = machine.succeed("cat /tmp/story").splitlines()
    for job in ids:
        assert sum(line.startswith(f"start {job} ") for line in story) == 1, job
        assert story.count(f"end {job}") == 1, job
        shown = json.loads(machine.succeed(f"ci-runner show {job} --output json"))
        assert shown["outcome"] == "succeeded" and len(shown["attempts"]) == 1, shown

with subtest("control: without KillMode=process the same restart ends the job"):
    machine.succeed(
        "mkdir -p /run/systemd/system/ci-runner.service.d",
        "printf '[Service]\\nKillMode=control-group\\n'"
        " >/run/systemd/system/ci-runner.service.d/control.conf",
        "systemctl daemon-reload",
    )
    start_jobs(1)
    process = job_processes()[0]
    machine.succeed(f"kill -0 {process}")
    machine.succeed("systemctl restart ci-runner", timeout=60)
    machine.wait_until_fails(f"kill -0 {process}", timeout=30)
    machine.succeed(
        "rm -r /run/systemd/system/ci-runner.service.d",
        "systemctl daemon-reload",
        "systemctl restart ci-runner",
        "ci-runner selftest",
        timeout=180,
    )
