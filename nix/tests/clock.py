"""The machine's clock is set forward by a year, and back by two, while jobs run and wait.

Written against the `machine` of the NixOS test driver. Durations (timeouts, delays) must not notice;
dates (`--at`, `--expires`, schedules) follow the clock, once and not a hundred times. /proc/uptime
tells what time really passed.
"""

# machine: qemu

import json
from typing import Any

YEAR = 365 * 24 * 3600
SLACK = 60
# A wall-clock time that comes nearer by a jump is seen this late at most.
LOOK = 30
POOLS: list[dict[str, Any]] = [{"pool": "default"}, {"pool": "native", "dir": "/tmp"}]
STAMP = "cut -d ' ' -f 1 /proc/uptime"


def add(jobs: list[dict[str, Any]]) -> list[str]:
    lines = "\n".join(json.dumps(job) for job in jobs)
    return machine.succeed(f"ci-runner add -f /dev/stdin <<'END'\n{lines}\nEND", timeout=60).split()


def show(job: str) -> dict[str, Any]:
    shown: dict[str, Any] = json.loads(machine.succeed(f"ci-runner show {job} --output json", timeout=60))
    return shown


def printed(command: str) -> list[float]:
    """The numbers that jobs printed; the runner's own lines, as their receipt, left out."""
    lines = machine.succeed(command).splitlines()
    return [float(line.split()[-1]) for line in lines if not line.startswith("[ci-runner]")]


def uptime() -> float:
    return float(machine.succeed(STAMP))


def ticks(schedule: str) -> int:
    """How many jobs a schedule has queued."""
    return len(json.loads(machine.succeed(f"ci-runner list --name {schedule} --output json", timeout=60)))


def wait_for_state(job: str, state: str, timeout: int) -> None:
    machine.wait_until_succeeds(
        f"ci-runner show {job} --output json | grep -q '\"state\": *\"{state}\"'", timeout=timeout
    )


def set_clock(seconds: int) -> None:
    """Sets it forward or back, to ten seconds before a full minute."""
    machine.succeed(f"date --set=@$((($(date +%s) + {seconds}) / 60 * 60 + 50))")


class Phase:
    """Jobs of every kind, queued before the clock is set."""

    def __init__(self) -> None:
        self.ticks = ticks("tick")
        tomorrow = machine.succeed("date --utc --date='tomorrow' +%FT%TZ").strip()
        self.began = uptime()
        endless = "exec sleep 3000"
        ids = add(
            [
                *({"shell": endless, "timeout": 3600, "retry": 0, **pool} for pool in POOLS),
                *({"shell": endless, "timeout": TIMEOUT, "retry": 0, **pool} for pool in POOLS),
                {"shell": f'{STAMP}; [ "$CI_RUNNER_ATTEMPT" -gt 1 ]', "retry": 1, "retry_delay": DELAY, **POOLS[1]},
                {"shell": STAMP, "in": DELAY},
                {"command": ["true"], "in": 7200},
                {"command": ["true"], "at": tomorrow},
                {"command": ["true"], "hold": True, "expires": 3600},
            ]
        )
        self.long, self.short = ids[:2], ids[2:4]
        self.again, self.delayed, self.patient, self.dated, self.held = ids[4:]
        machine.succeed(
            "until [ $(ci-runner list --state running --output json | grep -o '\"id\"' | wc -l) -eq 4 ] "
            f"&& ci-runner show {self.again} --output json | grep -q exited; do sleep 0.5; done",
            timeout=TIMEOUT,
        )
        assert uptime() - self.began < TIMEOUT, "too slow a machine: the timeout passed before the clock was set"

    def check_durations(self) -> None:
        """They run on a clock that nobody sets."""
        machine.execute(f"ci-runner wait --timeout {DELAY + SLACK}s {' '.join(self.short)}", timeout=60)
        for job in self.short:
            shown = show(job)
            assert shown["outcome"] == "timed_out", shown
            # PID 1 counts from a moment before the job could begin.
            assert TIMEOUT - 5 <= shown["run_seconds"] < TIMEOUT + SLACK, shown
        machine.succeed(f"ci-runner wait --timeout {DELAY + SLACK}s {self.delayed} {self.again}", timeout=60)
        (waited,) = (begun - self.began for begun in printed(f"ci-runner logs {self.delayed}"))
        assert DELAY <= waited < DELAY + SLACK, f"queued for {DELAY} s, begun after {waited} s"
        first, second = printed(f"ci-runner logs --attempt 1 {self.again}; ci-runner logs --attempt 2 {self.again}")
        assert DELAY <= second - first < DELAY + SLACK, f"retried after {second - first} s"
        assert show(self.patient)["state"] == "queued", show(self.patient)
        for job in self.long:
            assert show(job)["state"] == "running", show(job)
        assert uptime() - self.began < 2 * (DELAY + SLACK)

    def check_ticks(self, schedule: str = "tick") -> None:
        """The next full minute is met, and the year between is not made up for."""
        machine.wait_until_succeeds(
            f"test $(ci-runner list --name {schedule} --output json | grep -o '\"id\"' | wc -l) -gt {self.ticks}",
            timeout=LOOK,
        )
        minutes = (uptime() - self.began) / 60
        assert ticks(schedule) - self.ticks <= minutes + 2, f"{ticks(schedule) - self.ticks} runs in {minutes} minutes"

    def end(self) -> None:
        """The queue goes on: new jobs run, and old ones can be ended."""
        new = add([{"command": ["true"], **pool} for pool in POOLS])
        machine.succeed(f"ci-runner wait --timeout {SLACK}s {' '.join(new)}", timeout=60)
        machine.succeed(f"ci-runner cancel {' '.join(self.long)}", timeout=60)
        machine.execute(f"ci-runner wait --timeout {SLACK}s {' '.join(self.long)}", timeout=60)
        for job in self.long:
            assert show(job)["outcome"] == "cancelled", show(job)


machine.wait_for_unit("ci-runner.service", timeout=120)
started = uptime()
machine.succeed("ci-runner wait $(ci-runner add --pool default -- true)", timeout=60)
# Seconds; longer than it takes to queue a phase's jobs and to see them run, on a slow machine too.
TIMEOUT = min(120, max(15, int(6 * (uptime() - started))))
DELAY = TIMEOUT + 5
machine.log(f"clock: timeouts of {TIMEOUT} s, delays of {DELAY} s")
machine.succeed(
    "ci-runner schedule add tick --cron '* * * * *' --missed all -- true",
    "ci-runner schedule add rare --cron \"$(date --date='10 minutes' +%M) * * * *\" --missed all -- true",
)

with subtest("the clock is set forward by a year: durations stay, dates come, schedules do not storm"):
    forward = Phase()
    set_clock(YEAR)
    # That the daemon sees the new date is what makes the rest worth something.
    wait_for_state(forward.dated, "finished", 2 * LOOK)
    wait_for_state(forward.held, "finished", 2 * LOOK)
    assert show(forward.dated)["outcome"] == "succeeded", show(forward.dated)
    assert show(forward.held)["outcome"] == "expired", show(forward.held)
    forward.check_ticks()
    forward.check_durations()
    forward.end()
    assert ticks("rare") == 0

with subtest("and the next daemon does not make up for that year either"):
    machine.succeed("systemctl restart ci-runner", timeout=60)
    machine.wait_until_succeeds("ci-runner status", timeout=30)
    forward.check_ticks()  # those that were there before count
    assert ticks("rare") == 0, f"{ticks('rare')} runs for a year that never was"

with subtest("the clock is set back by two years: durations stay, dates wait, schedules go on"):
    back = Phase()
    set_clock(-2 * YEAR)
    back.check_ticks()
    back.check_durations()
    assert show(back.dated)["state"] == "queued", show(back.dated)
    assert show(back.held)["state"] == "queued", show(back.held)
    back.end()

with subtest("and the next daemon goes on in the past"):
    machine.succeed("systemctl restart ci-runner", timeout=60)
    machine.wait_until_succeeds("ci-runner status", timeout=30)
    back.ticks = ticks("tick")
    set_clock(0)
    back.check_ticks()
    assert show(back.patient)["state"] == "queued", show(back.patient)
