"""Native jobs under a user per slot when their spawner or a shim dies at a step of the protocol (see campaign.py).

    tests/guest/run --system slots tests/guest/slots_crashes.py

Written against the `machine` of the NixOS test driver, on the system of nix/tests/slots.nix.
"""

from campaign import SHIM_POINTS, Campaign

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
GROUPS = "/sys/fs/cgroup/system.slice/ci-runner-jobs.service"


def no_group_and_no_process() -> None:
    machine.wait_until_succeeds(f"test -z \"$(find {GROUPS} -name 'ci-job-*')\"", timeout=30)
    machine.fail("ps -eo user:32= | grep ^ci-runner-job-")


Campaign(machine, "ci-runner-jobs").run(subtest, SPAWNER_POINTS + SHIM_POINTS, no_group_and_no_process)
