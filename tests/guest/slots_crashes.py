"""Native jobs under a user per slot when their spawner or a shim dies at a step of the protocol.

    tests/guest/run --system slots tests/guest/slots_crashes.py

Written against the `machine` of the NixOS test driver, on the system of nix/tests/slots.nix.
For each fail point: the first process that passes it kills itself. Then every job has to end, each attempt has to have run at
most once (and exactly once unless its shim was the victim), and no cgroup, directory or process may be left.
CI_RUNNER_TEST_CYCLES sets how often each point is tried.
"""

import json
import os

CYCLES = int(os.environ.get("CI_RUNNER_TEST_CYCLES", "2"))
SPAWNER_POINTS = [
    "spawner-before-mkdir",
    "spawner-after-mkdir",
    "spawner-after-lock",
    "spawner-after-fork",
    "spawner-before-ended",
    "spawner-after-ended",
    "spawner-before-forget",
    "spawner-amid-forget",
    "spawner-after-forget",
]
SHIM_POINTS = [
    "shim-before-identity",
    "shim-before-began",
    "shim-after-began",
    "shim-after-exec",
    "shim-after-main-end",
    "shim-before-exit-record",
    "shim-after-exit-tmp",
    "shim-after-exit-record",
]
DROP_IN = "/run/systemd/system/ci-runner-jobs.service.d/fail.conf"
COUNTERS = "/run/ci-runner-jobs/passes"
JOBS = 4


def arm(point: str) -> None:
    machine.succeed(
        f"rm -rf {COUNTERS}; mkdir -m 700 {COUNTERS}; mkdir -p $(dirname {DROP_IN}); "
        f"printf '[Service]\\nEnvironment=CI_RUNNER_FAIL={point} CI_RUNNER_FAIL_DIR={COUNTERS}\\n' >{DROP_IN}; "
        "systemctl daemon-reload; systemctl restart ci-runner-jobs"
    )


def submit() -> list[str]:
    line = json.dumps({"shell": "echo ran; sleep 0.2; echo done", "pool": "default", "retry": 5, "retry_delay": 0.1})
    lines = "\n".join([line] * JOBS)
    return machine.succeed(f"ci-runner add -f /dev/stdin <<'END'\n{lines}\nEND").split()


def check(point: str, ids: list[str]) -> None:
    status, text = machine.execute(f"ci-runner wait --timeout 40s {' '.join(ids)}", timeout=60)
    assert status == 0, f"{point}: {text}"
    tries = 0
    for job in ids:
        shown = json.loads(machine.succeed(f"ci-runner show {job} --output json"))
        for attempt in shown["attempts"]:
            tries += 1
            number, result = attempt["number"], attempt["result"]
            log = machine.succeed(f"cat /var/log/ci-runner/jobs/*/{job}-{number}.log 2>/dev/null || true")
            ran = log.count("ran\n")
            assert ran <= 1, f"{point}: job {job} attempt {number} ran {ran} times: {shown}"
            if result == "exited":
                assert (ran, log.count("done\n")) == (1, 1), f"{point}: job {job} attempt {number}: {log!r}"
            else:
                assert result == "lost" and point.startswith("shim-"), f"{point}: {shown}"
    assert tries <= JOBS + 1, f"{point}: {tries} attempts of {JOBS} jobs, but one process was killed"
    machine.succeed(f"test -s {COUNTERS}/{point}", timeout=5)
    groups = "/sys/fs/cgroup/system.slice/ci-runner-jobs.service"
    machine.wait_until_succeeds(f"test -z \"$(find {groups} -name 'ci-job-*')\"", timeout=30)
    machine.fail("ps -eo user:32= | grep ^ci-runner-job-")
    machine.wait_until_succeeds("test -z \"$(ls /run/ci-runner-jobs/attempts)\"", timeout=20)
    machine.fail("pgrep -x ci-shim")


machine.start()
machine.wait_for_unit("ci-runner.service")
for point in SPAWNER_POINTS + SHIM_POINTS:
    with subtest(f"dies at {point}, {CYCLES} times"):
        for _ in range(CYCLES):
            arm(point)
            check(point, submit())
