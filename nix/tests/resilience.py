"""Running jobs and one disturbance of the service at a time; each batch has to end as if nothing had been.

Written against the `machine` of the NixOS test driver. A batch is disturbed if one of its processes
is another one afterwards, was signalled, ended early or began twice; every job has an exit code
and a last line of its own, so that a result given to the wrong job is seen too.

CI_RUNNER_TEST_JOBS sets how many jobs a batch has; there are 60 slots.
"""

import contextlib
import json
import os
import time
from collections.abc import Iterator

JOBS = int(os.environ.get("CI_RUNNER_TEST_JOBS", "50"))
WATCHDOG_SECONDS = 5  # as resilience.nix has it
BUSY = 12
DROP_IN = "/run/systemd/system/ci-runner.service.d"

# Says what happens to it, and waits in open(2) until somebody writes to the pipe. Exits with EXIT.
JOB = (
    'say() { echo "$* $CI_RUNNER_JOB_ID $$" >>/tmp/story; }; '
    "for signal in HUP INT TERM USR1 PIPE; do trap \"say $signal\" $signal; done; "
    "say start; read -r _ </tmp/go; say end; echo result of $CI_RUNNER_JOB_ID; exit "
)


def exit_code(number: int) -> int:
    """Of the batch's job with this number: half of them succeed."""
    return 0 if number % 2 == 0 else 10 + number


def start_batch(count: int = JOBS) -> list[str]:
    """Queues a batch; returns its ids once every job runs."""
    machine.succeed("rm -f /tmp/go /tmp/story; mkfifo -m 666 /tmp/go")
    lines = "\n".join(
        json.dumps({"name": f"batch-{number}", "shell": JOB + str(exit_code(number)), "dir": "/tmp", "retry": 0})
        for number in range(count)
    )
    ids = machine.succeed(f"ci-runner add -f /dev/stdin <<'END'\n{lines}\nEND", timeout=60).split()
    machine.wait_until_succeeds(f"test $(grep -c ^start /tmp/story) -eq {count}", timeout=60)
    return ids


def story() -> list[list[str]]:
    """Lines of word, job, process."""
    return [line.split() for line in machine.succeed("cat /tmp/story").splitlines()]


def check_undisturbed(ids: list[str]) -> None:
    lines = story()
    words = [line for line in lines if line[0] != "start"]
    assert not words, f"jobs were disturbed: {words}"
    assert sorted(line[1] for line in lines) == sorted(ids), f"not one start each: {lines}"
    machine.succeed("kill -0 " + " ".join(line[2] for line in lines))


def finish_batch(ids: list[str]) -> None:
    """Lets the jobs end and looks at every result."""
    machine.succeed("echo >/tmp/go", timeout=30)
    machine.execute(f"ci-runner wait --timeout 60s {' '.join(ids)}", timeout=90)
    ends = [line[1] for line in story() if line[0] == "end"]
    assert sorted(ends) == sorted(ids), f"not one end each: {ends}"
    shown = machine.succeed(
        f"for id in {' '.join(ids)}; do ci-runner show $id --output json | tr -d '\\n'; echo; "
        "ci-runner logs $id | tail -n 1; done",
        timeout=120,
    ).splitlines()
    for number, job in enumerate(ids):
        result, last = json.loads(shown[2 * number]), shown[2 * number + 1]
        wanted = exit_code(number)
        outcome = "succeeded" if wanted == 0 else "failed"
        assert (result["outcome"], result["exit_code"]) == (outcome, wanted), result
        assert len(result["attempts"]) == 1, result
        assert last.endswith(f"result of {job}"), last


@contextlib.contextmanager
def undisturbed(fault: str) -> Iterator[list[str]]:
    """A subtest around one fault: a batch before, and a check of it afterwards."""
    with subtest(f"{JOBS} jobs and {fault}"):
        ids = start_batch()
        yield ids
        machine.wait_until_succeeds("ci-runner status", timeout=30)
        check_undisturbed(ids)
        finish_batch(ids)


@contextlib.contextmanager
def unit_with(text: str) -> Iterator[None]:
    """The unit with other settings, until the end of the block."""
    machine.succeed(
        f"mkdir -p {DROP_IN}; cat >{DROP_IN}/test.conf <<'END'\n{text}\nEND\nsystemctl daemon-reload"
    )
    yield
    machine.succeed(f"rm -r {DROP_IN}; systemctl daemon-reload")


def main_pid() -> str:
    return machine.get_unit_property("ci-runner.service", "MainPID")


def wait_for_another(pid: str, timeout: int = 30) -> None:
    """Waits for a daemon other than `pid` that says it is ready."""
    machine.wait_until_succeeds(
        "eval $(systemctl show --property=MainPID,SubState ci-runner); "
        f'test "$SubState" = running && test "$MainPID" -ne 0 && test "$MainPID" -ne {pid}',
        timeout=timeout,
    )


def signal_daemon(signal: str) -> str:
    """Returns the daemon it was."""
    pid = main_pid()
    machine.succeed(f"systemctl kill --signal={signal} --kill-whom=main ci-runner")
    return pid


def daemon_program() -> str:
    return machine.succeed(f"readlink /proc/{main_pid()}/exe").strip()


machine.wait_for_unit("ci-runner.service", timeout=120)

with undisturbed("systemctl restart"):
    before = main_pid()
    machine.succeed("systemctl restart ci-runner", timeout=60)
    wait_for_another(before)

with undisturbed("systemctl reload"):
    before = main_pid()
    machine.succeed("systemctl reload ci-runner", timeout=60)
    assert main_pid() == before

with undisturbed("kill -9 of the daemon"):
    wait_for_another(signal_daemon("KILL"))

with undisturbed("five crashes in a row"):
    for _ in range(5):
        wait_for_another(signal_daemon("KILL"))

with undisturbed("a hung daemon, until the watchdog acts"):
    took: list[float] = []
    # A busy machine may need longer once; three times is no chance.
    while len(took) < 3 and (not took or took[-1] > WATCHDOG_SECONDS + 2):
        began = time.monotonic()
        wait_for_another(signal_daemon("STOP"))
        took.append(time.monotonic() - began)
        machine.log(f"resilience: back {took[-1]:.1f} s after it hung (watchdog {WATCHDOG_SECONDS} s)")
    assert took[-1] <= WATCHDOG_SECONDS + 2, f"{took} s"

with undisturbed(f"{BUSY} busy processes, and no false alarm of the watchdog"):
    before = main_pid()
    machine.succeed(
        "systemd-run --quiet --collect --unit=busy bash -c "
        f"'for _ in $(seq {BUSY}); do while :; do :; done & done; wait'"
    )
    machine.sleep(3 * WATCHDOG_SECONDS)
    machine.succeed("ci-runner status", timeout=WATCHDOG_SECONDS)
    machine.succeed("systemctl kill --signal=KILL busy")
    assert main_pid() == before, machine.succeed("journalctl -u ci-runner -n 20")

with undisturbed("stop, and a start later"):
    machine.succeed("systemctl stop ci-runner", timeout=60)
    machine.require_unit_state("ci-runner.service", "inactive")
    machine.succeed("systemctl start ci-runner", timeout=60)

with undisturbed("a new binary, and the old one again"):
    old = daemon_program()
    place = "/var/lib/ci-runner-newer"
    machine.succeed(
        f'mkdir -p {place} && cp "$(dirname {old})"/ci-runner* {place} && chmod -R a+rX {place}'
    )
    # Another build of the same version, as far as anybody can tell from outside.
    machine.succeed(f"for program in {place}/*; do printf newer >>$program; done")
    command = machine.succeed(
        f"tr '\\0' ' ' </proc/{main_pid()}/cmdline | cut -d ' ' -f 2-"
    ).strip()
    with unit_with(f"[Service]\nExecStart=\nExecStart={place}/ci-runner {command}"):
        machine.succeed("systemctl restart ci-runner", timeout=60)
        assert daemon_program() == f"{place}/ci-runner", daemon_program()
        machine.wait_until_succeeds("ci-runner status", timeout=30)
    machine.succeed("systemctl restart ci-runner", timeout=60)
    assert daemon_program() == old, daemon_program()

with undisturbed("systemctl daemon-reload and daemon-reexec"):
    before = main_pid()
    machine.succeed("systemctl daemon-reload", timeout=60)
    machine.succeed("systemctl daemon-reexec", timeout=60)
    assert main_pid() == before
    machine.wait_until_succeeds("systemctl is-active ci-runner", timeout=30)
    machine.succeed("systemctl restart ci-runner", timeout=60)

with undisturbed("kill -9 of the spawner"):
    spawner = machine.succeed("pgrep -x ci-runner-spawn").strip()
    machine.succeed(f"kill -9 {spawner}")
    machine.wait_until_succeeds(f"pgrep -x ci-runner-spawn | grep -vx {spawner}", timeout=30)

with undisturbed("kill -9 of daemon and spawner at once"):
    before = main_pid()
    spawner = machine.succeed("pgrep -x ci-runner-spawn").strip()
    machine.succeed(f"kill -9 {before} {spawner}")
    wait_for_another(before)

with undisturbed("a journal that reads nothing, until its socket is full"):
    machine.succeed("systemctl kill --signal=STOP --kill-whom=main systemd-journald")
    try:
        # About 1000 records, which nobody reads.
        lines = "\n".join(json.dumps({"command": ["true"], "dir": "/tmp"}) for _ in range(300))
        quick = machine.succeed(f"ci-runner add -f /dev/stdin <<'END'\n{lines}\nEND", timeout=60)
        machine.succeed(f"ci-runner wait --timeout 60s {' '.join(quick.split())}", timeout=90)
    finally:
        machine.succeed("systemctl kill --signal=CONT --kill-whom=main systemd-journald")

with undisturbed("a restart of D-Bus"):
    machine.succeed("systemctl kill --signal=KILL --kill-whom=main dbus.service || true")
    machine.wait_until_succeeds("busctl status", timeout=30)

with subtest("after all that the service can do what it could"):
    machine.succeed("cd /tmp && ci-runner selftest", timeout=180)

# The protections, taken away one by one: what was shown above was not shown by chance.

with subtest("control: without KillMode=process a restart ends the jobs"):
    with unit_with("[Service]\nKillMode=control-group"):
        ids = start_batch(2)
        machine.succeed("systemctl restart ci-runner", timeout=60)
        try:
            check_undisturbed(ids)
        except Exception as error:
            machine.log(f"resilience: as expected: {error}")
        else:
            raise Exception("nothing was disturbed")
    machine.succeed("systemctl restart ci-runner", timeout=60)

with subtest("control: without a watchdog a hung daemon stays"):
    with unit_with("[Service]\nWatchdogSec=0"):
        machine.succeed("systemctl restart ci-runner", timeout=60)
        pid = signal_daemon("STOP")
        machine.sleep(WATCHDOG_SECONDS + 4)
        assert main_pid() == pid
        machine.succeed(f"kill -9 {pid}")
        wait_for_another(pid)
    machine.succeed("systemctl restart ci-runner", timeout=60)

with subtest("control: with the usual start limit five crashes end the service"):
    with unit_with("[Unit]\nStartLimitIntervalSec=60s\nStartLimitBurst=5"):
        for _ in range(6):
            if machine.get_unit_property("ci-runner.service", "ActiveState") == "active":
                pid = signal_daemon("KILL")
                machine.wait_until_succeeds(
                    f"eval $(systemctl show --property=MainPID,SubState ci-runner); "
                    f'test "$SubState" = failed || {{ test "$SubState" = running && test "$MainPID" -ne {pid}; }}',
                    timeout=30,
                )
        machine.require_unit_state("ci-runner.service", "failed")
    machine.succeed("systemctl reset-failed ci-runner && systemctl start ci-runner", timeout=60)
