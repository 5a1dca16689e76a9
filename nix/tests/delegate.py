# machine: qemu
"""The service is restarted without `Delegate=` while native jobs with limits run in its cgroups, and with it again.

Written against the `machine` of the NixOS test driver. It needs real controllers: PID 1 has to leave them where jobs are.
"""

import json
from typing import Any

SCALE = getattr(machine, "time_scale", 1)
MEBIBYTE = 1 << 20
GO = "/srv/go"
GROUPS = "/sys/fs/cgroup/ci_runner.slice/ci-runner.service"
WAITER = (
    'for signal in HUP INT TERM USR1 PIPE; do trap "echo disturbed by $signal" $signal; done; echo start of $1 in $$; '
    f"while [ ! -e {GO} ]; do sleep 0.2; done; echo end of $1; exit $1"
)
# Waits, and then takes more than it may have.
HOG = (
    "import os, time\nprint('start', os.getpid(), flush=True)\n"
    f"while not os.path.exists('{GO}'): time.sleep(0.2)\n"
    "block = bytearray(200 << 20)\nprint('has it all')\n"
)


def add(options: str, *words: str) -> str:
    quoted = " ".join("'" + word.replace("'", "'\\''") + "'" for word in words)
    return machine.succeed(f"ci-runner add --pool default {options} -- {quoted}").strip()


def shown(job: str) -> dict[str, Any]:
    return json.loads(machine.succeed(f"ci-runner show {job} --output json"))


def log_of(job: str) -> str:
    return machine.succeed(f"ci-runner logs {job}")


def running(job: str) -> None:
    machine.wait_until_succeeds(f"ci-runner logs {job} | grep -q start", timeout=60)


def ended(job: str) -> dict[str, Any]:
    machine.execute(f"ci-runner wait {job} --timeout {60 * SCALE}s", timeout=70)
    view = shown(job)
    assert view["state"] == "finished", view
    return view


def group_of(job: str) -> str:
    return machine.succeed(f"find {GROUPS} -name 'ci-job-*-{job}-1'").strip()


def switch(name: str | None) -> None:
    before = machine.get_unit_property("ci-runner.service", "MainPID")
    place = system() + (f"/specialisation/{name}" if name else "")
    told = machine.succeed(f"{place}/bin/switch-to-configuration test 2>&1", timeout=120)
    machine.log(f"switched to {name or 'the first system'}: {'; '.join(told.splitlines())}")
    machine.wait_until_succeeds("ci-runner status", timeout=60)
    assert machine.get_unit_property("ci-runner.service", "MainPID") != before


def system() -> str:
    if machine.execute("test -e /run/current-system")[0] == 0:
        return machine.succeed("readlink -f /run/booted-system").strip()
    return "/system"


def limits(job: str) -> str:
    group = group_of(job)
    assert group, f"job {job} has no cgroup"
    return str(machine.succeed(f"cat {group}/memory.max {group}/pids.max").split())


machine.start()
machine.wait_for_unit("ci-runner.service")
machine.wait_until_succeeds("ci-runner status", timeout=60)

with subtest("native jobs keep their cgroups and limits when the service is restarted without any delegated"):
    machine.succeed(f"rm -f {GO}")
    jobs = [add("--memory 64M --pids 20", "sh", "-c", WAITER, "job", str(number)) for number in range(2)]
    hog = add("--memory 64M", "python3", "-c", HOG)
    for job in [*jobs, hog]:
        running(job)
    before = [limits(job) for job in [*jobs, hog]]
    machine.log(f"limits {before}, {machine.succeed(f'cat {GROUPS}/cgroup.subtree_control')}")
    switch("units")
    assert [limits(job) for job in [*jobs, hog]] == before
    machine.log(f"without Delegate=: {machine.succeed(f'cat {GROUPS}/cgroup.subtree_control; cat /proc/$(systemctl show -P MainPID ci-runner)/cgroup')}")
    unit = add("", "sh", "-c", WAITER, "job", "3")
    running(unit)
    machine.succeed(f"touch {GO}")
    for number, job in enumerate(jobs):
        view = ended(job)
        attempt = view["attempts"][0]
        assert (attempt["result"], attempt["exit_code"], len(view["attempts"])) == ("exited", number, 1), view
        assert attempt["peak_memory_of"] == "attempt" and attempt["pids_peak"] is not None, attempt
        assert log_of(job).count("start") == 1 and "disturbed" not in log_of(job), log_of(job)
    # The limit is still a limit.
    view = ended(hog)
    assert [attempt["result"] for attempt in view["attempts"]] == ["oom_killed"] and "has it all" not in log_of(hog), view
    assert shown(unit)["exit_code"] == 3 or ended(unit)["exit_code"] == 3
    machine.wait_until_succeeds("test -z \"$(find /sys/fs/cgroup -name 'ci-job-*')\"", timeout=60)

with subtest("units go on when the service has cgroups delegated again, and native jobs have limits"):
    machine.succeed(f"rm -f {GO}")
    unit = add("", "sh", "-c", WAITER, "job", "5")
    running(unit)
    switch(None)
    job = add("--memory 64M --pids 20", "sh", "-c", WAITER, "job", "6")
    running(job)
    assert limits(job) == f"['{64 * MEBIBYTE}', '20']", limits(job)
    machine.succeed(f"touch {GO}")
    for id, code in [(unit, 5), (job, 6)]:
        view = ended(id)
        assert ([attempt["result"] for attempt in view["attempts"]], view["exit_code"]) == (["exited"], code), view
