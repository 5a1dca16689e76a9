"""Processes that die at a step of the protocol, for scripts that look at what becomes of the jobs.

For each fail point: the first process that passes it kills itself. Then every job has to end, each attempt has to have run at
most once (and exactly once unless its shim was the victim), and nothing of it may be left.
CI_RUNNER_TEST_CYCLES sets how often each point is tried.
"""

import json
import os
from collections.abc import Callable

CYCLES = int(os.environ.get("CI_RUNNER_TEST_CYCLES", "2"))
JOBS = 4
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


class Campaign:
    """One service whose processes die; its runtime directory has its name."""

    def __init__(self, machine, service: str) -> None:
        self.machine = machine
        self.service = service
        self.counters = f"/run/{service}/passes"
        self.drop_in = f"/run/systemd/system/{service}.service.d/fail.conf"

    def run(self, subtest, points: list[str], nothing_left: Callable[[], None]) -> None:
        """All points; `nothing_left` looks for what only this executor leaves."""
        self.machine.start()
        self.machine.wait_for_unit("ci-runner.service")
        for point in points:
            with subtest(f"dies at {point}, {CYCLES} times"):
                for _ in range(CYCLES):
                    self.arm(point)
                    self.check(point, self.submit())
                    nothing_left()

    def arm(self, point: str) -> None:
        self.machine.succeed(
            f"rm -rf {self.counters}; mkdir -m 700 {self.counters}; mkdir -p $(dirname {self.drop_in}); "
            f"printf '[Service]\\nEnvironment=CI_RUNNER_FAIL={point} CI_RUNNER_FAIL_DIR={self.counters}\\n' >{self.drop_in}; "
            f"systemctl daemon-reload; systemctl restart {self.service}"
        )

    def submit(self) -> list[str]:
        line = json.dumps({"shell": "echo ran; sleep 0.2; echo done", "pool": "default", "retry": 5, "retry_delay": 0.1})
        lines = "\n".join([line] * JOBS)
        return self.machine.succeed(f"ci-runner add -f /dev/stdin <<'END'\n{lines}\nEND").split()

    def check(self, point: str, ids: list[str]) -> None:
        status, text = self.machine.execute(f"ci-runner wait --timeout 40s {' '.join(ids)}", timeout=60)
        assert status == 0, f"{point}: {text}"
        tries = sum(self.check_job(point, job) for job in ids)
        assert tries <= JOBS + 1, f"{point}: {tries} attempts of {JOBS} jobs, but one process was killed"
        self.machine.succeed(f"test -s {self.counters}/{point}", timeout=5)
        self.machine.wait_until_succeeds(f'test -z "$(ls /run/{self.service}/attempts)"', timeout=20)
        self.machine.fail("pgrep -x ci-shim")

    def check_job(self, point: str, job: str) -> int:
        """How many attempts it had; each is right."""
        shown = json.loads(self.machine.succeed(f"ci-runner show {job} --output json"))
        for attempt in shown["attempts"]:
            number, result = attempt["number"], attempt["result"]
            log = self.machine.succeed(f"cat /var/log/ci-runner/jobs/*/{job}-{number}.log 2>/dev/null || true")
            ran = log.count("ran\n")
            assert ran <= 1, f"{point}: job {job} attempt {number} ran {ran} times: {shown}"
            if result == "exited":
                assert (ran, log.count("done\n")) == (1, 1), f"{point}: job {job} attempt {number}: {log!r}"
            else:
                assert result == "lost" and point.startswith("shim-"), f"{point}: {shown}"
        return len(shown["attempts"])
