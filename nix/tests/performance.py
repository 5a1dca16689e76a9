"""Throughput and latency of the installed service, printed; the bounds are generous.

Written against the `machine` of the NixOS test driver. Times are taken inside of the machine.
"""

import json

JOBS = 1000
CALLS = 50


def seconds(commands: str, timeout: int) -> float:
    """How long the shell of the machine takes for `commands`."""
    clock = machine.succeed(
        f"exec 3>&1 >/dev/null; cd /tmp; date +%s%N >&3; {commands}; date +%s%N >&3",
        timeout=timeout,
    )
    before, after = clock.split()
    return (int(after) - int(before)) / 1e9


def at_most(what: str, measured: float, bound: float) -> None:
    machine.log(f"performance: {what}: {measured:.4f} s (bound {bound} s)")
    assert measured <= bound, f"{what}: {measured} s is over {bound} s"


machine.wait_for_unit("ci-runner.service", timeout=120)

with subtest("throughput of jobs that do nothing"):
    lines = "\n".join(json.dumps({"command": ["true"]}) for _ in range(JOBS))
    machine.succeed(f"cat >/tmp/jobs.jsonl <<'END'\n{lines}\nEND")
    took = seconds(
        "ci-runner add -f jobs.jsonl >ids; xargs ci-runner wait --timeout 300s <ids", timeout=360
    )
    machine.log(f"performance: {JOBS / took:.0f} jobs/s")
    at_most(f"{JOBS} jobs, queued and run", took, 120)

with subtest("latency of one durable acknowledgement"):
    took = seconds(f"for i in $(seq {CALLS}); do add_job true; done", timeout=120)
    at_most("one add_job", took / CALLS, 1)

with subtest("latency from the client to the result"):
    took = seconds(
        f"for i in $(seq {CALLS}); do ci-runner wait --timeout 60s $(add_job true); done",
        timeout=240,
    )
    at_most("one add_job and its wait", took / CALLS, 2)

with subtest("restart until ready"):
    at_most("systemctl restart", seconds("systemctl restart ci-runner", timeout=120), 10)
