"""Switches to other systems and back while jobs run: rebuild, upgrade, rollback, the module off and on.

Written against the `machine` of the NixOS test driver. Each switch finds JOBS running jobs, half of them units and half native,
and has to leave each of them as it was: the same process, no signal, one start, its own exit code and its own log.
On a guest that is not NixOS, /system has the rendered systems, with a program that does what switch-to-configuration does.
"""

import contextlib
import json
import os
from collections.abc import Iterator

JOBS = int(os.environ.get("CI_RUNNER_TEST_JOBS", "12"))
GO = "/srv/go"
DAEMON = "ci-runner.service"
# Of units, and of native jobs under a user per slot.
SPAWNERS = ["ci-runner-spawner.service", "ci-runner-jobs.service"]
# Says what is done to it, and stays until GO is there.
JOB = (
    'for signal in HUP INT TERM USR1 PIPE; do trap "echo disturbed by $signal" $signal; done; echo start of $1 in $$; '
    f"while [ ! -e {GO} ]; do sleep 0.2; done; echo end of $1; exit $1"
)
# A job's processes by a word of their own on the command line.
# Not those that a shell has forked and that have not executed their program yet: their parent has the same words.
PIDS = (
    "for p in $(pgrep -f '^sh -c .*batch-[0-9]+ *$'); do parent=$(awk '/^PPid/ {print $2}' /proc/$p/status 2>/dev/null) || continue; "
    "grep -qs 'batch-' /proc/$parent/cmdline || echo $p; done | sort"
)
disturbed = 0
twice = 0


def system() -> str:
    """Where the systems are."""
    if machine.execute("test -e /run/current-system")[0] == 0:
        return machine.succeed("readlink -f /run/booted-system").strip()
    return "/system"


def switch(name: str | None) -> None:
    place = SYSTEM + (f"/specialisation/{name}" if name else "")
    told = machine.succeed(f"{place}/bin/switch-to-configuration test 2>&1", timeout=120)
    machine.log(f"switched to {name or 'the first system'}: {'; '.join(told.splitlines())}")


def start_jobs() -> list[str]:
    machine.succeed(f"rm -f {GO}")
    lines = "\n".join(
        json.dumps({"command": ["sh", "-c", JOB, "job", str(number), f"batch-{number}"], "retry": 0}
                   | ({"pool": "native", "labels": ["native"]} if number % 2 else {"pool": "default"}))
        for number in range(JOBS)
    )
    ids = machine.succeed(f"ci-runner add -f /dev/stdin <<'END'\n{lines}\nEND", timeout=60).split()
    machine.wait_until_succeeds(f"test $({PIDS} | wc -l) -eq {JOBS}", timeout=60)
    return ids


def finish_jobs(ids: list[str], pids: str) -> None:
    global disturbed, twice
    disturbed += len(set(pids.split()) ^ set(machine.succeed(PIDS).split()))
    machine.succeed(f"touch {GO}")
    machine.execute(f"ci-runner wait --timeout 120s {' '.join(ids)}", timeout=130)
    for number, job in enumerate(ids):
        shown = json.loads(machine.succeed(f"ci-runner show {job} --output json"))
        results = [(attempt["result"], attempt["exit_code"]) for attempt in shown["attempts"]]
        log = machine.succeed(f"ci-runner logs {job}")
        twice += log.count("start of") - 1
        disturbed += log.count("disturbed")
        assert results == [("exited", number)], (job, results, log)
        assert log.splitlines()[1:] == [f"end of {number}"], log


@contextlib.contextmanager
def undisturbed(what: str) -> Iterator[None]:
    with subtest(f"{JOBS} jobs: {what}"):
        ids = start_jobs()
        pids = machine.succeed(PIDS)
        yield
        machine.wait_until_succeeds("ci-runner status", timeout=60)
        finish_jobs(ids, pids)
        assert (disturbed, twice) == (0, 0), (disturbed, twice)


def pid(unit: str) -> str:
    return machine.get_unit_property(unit, "MainPID")


def expect(daemon: str, spawner_executed: bool = False) -> None:
    """What became of the services: the daemon `same` or `other`, a spawner never another process."""
    assert (pid(DAEMON) == PID[DAEMON]) == (daemon == "same"), (daemon, PID[DAEMON], pid(DAEMON))
    for spawner in SPAWNERS:
        assert pid(spawner) == PID[spawner], (spawner, PID[spawner], pid(spawner))
        if spawner_executed:
            machine.wait_until_succeeds(f"test $(readlink /proc/{pid(spawner)}/exe) != {PROGRAM}", timeout=20)
    PID.update({unit: pid(unit) for unit in PID})


machine.start()
for unit in [*SPAWNERS, DAEMON]:
    machine.wait_for_unit(unit)
SYSTEM = system()
PID = {unit: pid(unit) for unit in [DAEMON, *SPAWNERS]}
if SYSTEM == "/system":
    # Another build: the same code, other bytes.
    machine.succeed("mkdir -p /opt/next/bin && cp /opt/ci/bin/* /opt/next/bin && for f in /opt/next/bin/*; do echo next >>$f; done")
PROGRAM = machine.succeed(f"readlink /proc/{pid(SPAWNERS[0])}/exe").strip()

with undisturbed("a switch to the same system"):
    switch(None)
    expect("same")

with undisturbed("other settings are reloaded, and the rollback too"):
    switch("settings")
    expect("same")
    machine.succeed("grep -x 'retry_delay = 7' /etc/ci-runner/config.toml")
    switch(None)
    expect("same")

with undisturbed("another port restarts the daemon"):
    switch("http")
    expect("other")
    machine.wait_for_open_port(8081, timeout=30)
    switch(None)
    expect("other")

with undisturbed("another port of the metrics restarts the exporter alone"):
    switch("metrics")
    expect("same")
    machine.wait_for_open_port(9101, timeout=30)
    switch(None)
    expect("same")
    machine.wait_for_open_port(9100, timeout=30)

with undisturbed("changed units: the daemon is restarted, the spawners are not"):
    switch("units")
    expect("other")
    assert machine.get_unit_property(DAEMON, "TimeoutStopUSec") == "31s"
    switch(None)
    expect("other")

with undisturbed("other policies are read by the spawners that run"):
    switch("policy")
    expect("same")
    for options in ["--pool more --label more", "--pool even-more --label even-more"]:
        job = machine.succeed(f"ci-runner add {options} -- true").strip()
        machine.succeed(f"ci-runner wait --timeout 60s {job}", timeout=70)
    switch(None)
    expect("same")

with undisturbed("an upgrade: a new daemon, and the spawners execute their new program"):
    switch("upgrade")
    expect("other", spawner_executed=True)

with undisturbed("a rollback to the old package"):
    switch(None)
    expect("other")
    for spawner in SPAWNERS:
        machine.wait_until_succeeds(f"test $(readlink /proc/{pid(spawner)}/exe) = {PROGRAM}", timeout=20)

with undisturbed("the module switched off and on again"):
    switch("disabled")
    assert machine.get_unit_property(DAEMON, "ActiveState") == "inactive"
    assert all(pid(spawner) == PID[spawner] for spawner in SPAWNERS)
    switch(None)
    machine.wait_for_unit(DAEMON)
    expect("other")

with undisturbed("five switches, one after the other"):
    for name in ["upgrade", "settings", "units", "policy", None]:
        switch(name)

with undisturbed("a policy that cannot be read leaves the spawner as it is"):
    PID.update({unit: pid(unit) for unit in PID})
    for spawner, file in zip(SPAWNERS, ["/etc/ci-runner/policy.json", "/etc/ci-runner/jobs.json"]):
        policy = machine.succeed(f"readlink -f {file}").strip()
        machine.succeed(f"cp {policy} /srv/policy && rm {file} && echo nonsense >{file}")
        machine.succeed(f"systemctl reload {spawner}")
        machine.wait_until_succeeds(f"journalctl -u {spawner} -o cat | grep -q 'goes on as it is'", timeout=20)
        # On NixOS this is a link into the store, which the next activation makes anew; here a copy does.
        machine.succeed(f"mv /srv/policy {file}")
    expect("same")

with subtest("the control: a service that may be stopped takes its jobs with it"):
    # The same stop, without the protections of the unit.
    ids = start_jobs()
    machine.succeed(
        "mkdir -p /run/systemd/system/ci-runner-jobs.service.d && "
        "printf '[Service]\\nKillMode=control-group\\nTimeoutStopSec=2s\\n' >/run/systemd/system/ci-runner-jobs.service.d/control.conf && "
        "systemctl daemon-reload && systemctl restart ci-runner-jobs"
    )
    left = int(machine.succeed("pgrep -c -f '^sh -c .*batch-[0-9]+ *$' || true"))
    assert left == JOBS - JOBS // 2, left  # the units live on
    machine.succeed("rm -r /run/systemd/system/ci-runner-jobs.service.d && systemctl daemon-reload && systemctl restart ci-runner-jobs")
    machine.succeed(f"touch {GO}")

machine.log(f"jobs disturbed {disturbed}, executed twice {twice}")
