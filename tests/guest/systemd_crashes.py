"""The executor `systemd` when its spawner or a shim dies at a step of the protocol (see campaign.py).

    tests/guest/run --system systemd tests/guest/systemd_crashes.py

Written against the `machine` of the NixOS test driver, on the system of nix/tests/systemd.nix.
"""

from campaign import SHIM_POINTS, Campaign

SPAWNER_POINTS = [
    "spawner-before-mkdir",
    "spawner-after-mkdir",
    "spawner-after-lock",
    "spawner-after-fork",
    "unit-after-call",
    "unit-before-verdict",
    "unit-after-verdict",
    "spawner-before-ended",
    "unit-before-release",
    "spawner-before-forget",
    "spawner-amid-forget",
    "spawner-after-forget",
]


def no_unit() -> None:
    machine.wait_until_succeeds("test -z \"$(systemctl list-units --all --plain --no-legend 'ci-job-*')\"", timeout=90)


Campaign(machine, "ci-runner-spawner").run(subtest, SPAWNER_POINTS + SHIM_POINTS, no_unit)
