"""How fast the executor `systemd` is, beside bare transient units with equal properties in the same run. Prints figures; judges nothing.

    cargo build --release -p ci-runner && cargo build --release -p ci-runner-spawner --example units
    CI_RUNNER_UNITS=DIR/release/examples/units tests/guest/run --bin DIR/release --system systemd tests/guest/units_speed.py

The machine that runs it should do nothing else. The pools are those of nix/tests/systemd.nix.
"""

import os

UNITS = os.environ.get("CI_RUNNER_UNITS", "")
JOBS = int(os.environ.get("CI_RUNNER_TEST_JOBS", "100"))
POOLS = {"open": "bare", "build": "default", "strict": "closed"}
FILTERS = [
    "SystemCallFilter",
    "SystemCallArchitectures",
    "RestrictAddressFamilies",
    "RestrictNamespaces",
    "RestrictSUIDSGID",
    "RestrictRealtime",
    "LockPersonality",
    "ProtectKernelModules",
    "ProtectKernelLogs",
    "ProtectClock",
    "ProtectHostname",
]

if not UNITS:
    print("skipped: units_speed (CI_RUNNER_UNITS does not name the example `units`)")
else:
    machine.wait_for_unit("ci-runner.service", timeout=60)
    machine.wait_until_succeeds("ci-runner status", timeout=30)
    machine.copy_from_host(UNITS, "/usr/local/bin/units")
    machine.succeed("chmod 755 /usr/local/bin/units")
    for profile, pool in POOLS.items():
        print(machine.succeed(f"units bare {profile} {JOBS // 2}").strip())
        print(machine.succeed(f"units latency {pool} {JOBS // 2}").strip())
    for without in [["SystemCallFilter"], FILTERS]:
        print(machine.succeed(f"units bare build {JOBS // 2} {' '.join(without)}").strip())
    # Last: the daemon loses its spawner to it.
    for profile, pool in POOLS.items():
        for in_flight in (1, 4):
            command = f"units rate /run/ci-runner-spawner/socket {pool} {profile} {JOBS} {in_flight} 5"
            print(machine.succeed(command, timeout=600).strip())
