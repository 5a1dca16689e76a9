"""The installed service: unit, status line, client, journal, metrics.

Written against the `machine` of the NixOS test driver.
"""

import json


def as_user(user: str, command: str) -> str:
    """`command` as `user` would type it, in a directory that jobs can enter too."""
    return f"cd /tmp && runuser -u {user} -- {command}"


machine.wait_for_unit("ci-runner.service", timeout=120)

with subtest("the unit is what the module says"):
    for name, value in {
        "Type": "notify-reload",
        "KillMode": "process",
        "Delegate": "yes",
        "RuntimeDirectoryPreserve": "yes",
        "WatchdogUSec": "30s",
        "User": "ci-runner",
    }.items():
        actual = machine.get_unit_property("ci-runner.service", name)
        assert actual == value, f"{name} is {actual}, not {value}"

with subtest("a member of the group queues a job and learns its result"):
    job = machine.succeed(as_user("alice", "add_job 'echo from-the-job'")).strip()
    machine.succeed(as_user("alice", f"ci-runner wait --timeout 60s {job}"), timeout=90)
    assert "from-the-job" in machine.succeed(as_user("alice", f"ci-runner logs {job}"))
    shown = json.loads(machine.succeed(f"ci-runner show {job} --output json"))
    assert (shown["outcome"], shown["exit_code"]) == ("succeeded", 0), shown

with subtest("a job runs as the user of the service, without its environment"):
    job = machine.succeed("cd /tmp && ci-runner add --shell 'id -un; env'").strip()
    machine.succeed(f"ci-runner wait --timeout 60s {job}", timeout=90)
    log = machine.succeed(f"ci-runner logs {job}")
    assert "ci-runner" in log.splitlines()[0], log
    for name in ["NOTIFY_SOCKET=", "WATCHDOG_USEC=", "JOURNAL_STREAM=", "INVOCATION_ID="]:
        assert name not in log, log

with subtest("somebody outside of the group is turned away"):
    machine.fail(as_user("mallory", "add_job 'echo never'"))

with subtest("a failing job is a result, tried again as often as it asks"):
    job = machine.succeed(
        "cd /tmp && ci-runner add --retry 1 --retry-delay 0s --shell 'exit 7'"
    ).strip()
    machine.fail(f"ci-runner wait --timeout 60s {job}", timeout=90)
    shown = json.loads(machine.succeed(f"ci-runner show {job} --output json"))
    assert (shown["outcome"], shown["exit_code"]) == ("failed", 7), shown
    assert len(shown["attempts"]) == 2, shown

with subtest("the journal tells the story of one job"):
    machine.wait_until_succeeds(
        f"journalctl --quiet CI_RUNNER_JOB_ID={job} | grep .", timeout=30
    )

with subtest("systemctl status shows queue, running and success rate"):
    machine.wait_until_succeeds(
        "systemctl show --property=StatusText --value ci-runner | grep -i running", timeout=30
    )

with subtest("metrics and health answer"):
    machine.wait_for_open_port(9100, timeout=30)
    metrics = machine.succeed("curl --fail --silent http://127.0.0.1:9100/metrics")
    for family in ["ci_runner_build_info", "ci_runner_jobs_total", "ci_runner_slots"]:
        assert family in metrics, family
    machine.succeed("curl --fail --silent http://127.0.0.1:8080/readyz")

with subtest("the installed service proves itself"):
    machine.succeed("cd /tmp && ci-runner selftest", timeout=180)
