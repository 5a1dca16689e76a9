"""The installed service: unit, status line, client, journal, metrics.

Written against the `machine` of the NixOS test driver.
"""

import json

# Of `systemd-analyze security`, times ten: no job is a child of the service.
EXPOSURE_MAX = 15


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

with subtest("systemd finds nothing wrong with the unit"):
    said = machine.succeed("systemd-analyze verify --man=no ci-runner.service 2>&1")
    assert said.strip() == "", said
    report = machine.succeed(
        f"systemd-analyze security --no-pager --threshold={EXPOSURE_MAX} ci-runner.service"
    )
    machine.log("unit: " + report.splitlines()[-1])

with subtest("the journal says once that the service is ready"):
    said = machine.succeed("journalctl --quiet --output=cat -u ci-runner | grep 'is ready'")
    assert len(said.splitlines()) == 1, said

with subtest("a member of the group queues a job and learns its result"):
    job = machine.succeed(as_user("alice", "add_job 'echo from-the-job'")).strip()
    machine.succeed(as_user("alice", f"ci-runner wait --timeout 60s {job}"), timeout=90)
    assert "from-the-job" in machine.succeed(as_user("alice", f"ci-runner logs {job}"))
    shown = json.loads(machine.succeed(f"ci-runner show {job} --output json"))
    assert (shown["outcome"], shown["exit_code"]) == ("succeeded", 0), shown

with subtest("a job runs as a user of its own, without the environment of a service"):
    job = machine.succeed("cd /tmp && ci-runner add --shell 'id -un; env'").strip()
    machine.succeed(f"ci-runner wait --timeout 60s {job}", timeout=90)
    log = machine.succeed(f"ci-runner logs {job}")
    user = log.splitlines()[0]
    assert user.startswith("ci-job-"), log
    machine.fail(f"id {user}")
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



def records(match: str) -> list[dict[str, str]]:
    """What the journal holds for one field's value, oldest first."""
    lines = machine.succeed(f"journalctl --quiet --output=json {match}").splitlines()
    return [json.loads(line) for line in lines]


def check_story(job: str, words: list[str]) -> None:
    """One record for each of the words, found by id and by correlation id, and none of another job."""
    machine.wait_until_succeeds(
        f"test $(journalctl --quiet --output=cat CI_RUNNER_JOB_ID={job} | wc -l) -ge {len(words)}", timeout=30
    )
    by_id = records(f"CI_RUNNER_JOB_ID={job}")
    messages = [record["MESSAGE"] for record in by_id]
    assert len(messages) == len(words), messages
    for word, record in zip(words, by_id):
        assert word in record["MESSAGE"], messages
        assert record["CI_RUNNER_CORRELATION_ID"] == by_id[0]["CI_RUNNER_CORRELATION_ID"], record
    for record in by_id[1:]:
        assert record["CI_RUNNER_ATTEMPT"] and record["CI_RUNNER_POOL"] == "default", record
    found = records(f"CI_RUNNER_CORRELATION_ID={by_id[0]['CI_RUNNER_CORRELATION_ID']}")
    assert [record["MESSAGE"] for record in found] == messages, found


with subtest("the journal tells the story of one job, by its id and by its correlation id"):
    check_story(job, ["queued by root", "attempt 1", "tried again", "attempt 2", "failed: exit code 7"])

with subtest("the story goes on in the next daemon"):
    machine.succeed("rm -f /srv/go")
    job = machine.succeed(
        "cd /tmp && ci-runner add --correlation of-my-own --shell 'until [ -e /srv/go ]; do sleep 0.1; done'"
    ).strip()
    machine.wait_until_succeeds(f"ci-runner show {job} | grep running", timeout=30)
    machine.succeed("systemctl restart ci-runner", timeout=60)
    machine.succeed(f"touch /srv/go; ci-runner wait --timeout 30s {job}", timeout=60)
    check_story(job, ["queued by root", "runs", "succeeded"])
    assert records("CI_RUNNER_CORRELATION_ID=of-my-own")

with subtest("systemctl status shows queue, running and success rate"):
    # Two jobs that wait for the file, on slots of their own.
    machine.succeed("rm -f /srv/go")
    waiting = "until [ -e /srv/go ]; do sleep 0.1; done"
    ids = machine.succeed(
        f"cd /tmp && for i in 1 2; do ci-runner add --shell '{waiting}'; done"
    ).split()
    machine.wait_until_succeeds(
        "systemctl status ci-runner | grep -E 'Status: \"0 queued, 2 running.*[0-9]+ ?%'", timeout=30
    )
    machine.succeed(f"touch /srv/go && ci-runner wait --timeout 30s {' '.join(ids)}", timeout=60)
    machine.wait_until_succeeds("systemctl status ci-runner | grep '0 queued, 0 running'", timeout=30)

with subtest("metrics and health answer"):
    machine.wait_for_open_port(9100, timeout=30)
    metrics = machine.succeed("curl --fail --silent http://127.0.0.1:9100/metrics")
    for family in ["ci_runner_build_info", "ci_runner_jobs_total", "ci_runner_slots"]:
        assert family in metrics, family
    machine.succeed("curl --fail --silent http://127.0.0.1:8080/readyz")


def scrape() -> str:
    return machine.succeed("curl --fail --silent http://127.0.0.1:9100/metrics")


def succeeded(metrics: str) -> float:
    """Jobs that succeeded, of all pools."""
    lines = [line for line in metrics.splitlines() if line.startswith("ci_runner_jobs_total{")]
    return sum(float(line.split()[-1]) for line in lines if 'outcome="succeeded"' in line)


with subtest("the exporter is a unit of its own and sees the host as it is"):
    machine.wait_for_unit("ci-runner-exporter.service", timeout=30)
    said = machine.succeed("systemd-analyze verify --man=no ci-runner-exporter.service 2>&1")
    assert said.strip() == "", said
    report = machine.succeed("systemd-analyze security --no-pager ci-runner-exporter.service")
    machine.log("exporter: " + report.splitlines()[-1])
    user = machine.succeed("ps -o user:32= -C ci-runner | sort -u").split()
    assert user == ["ci-runner", "ci-runner-exporter"], user
    metrics = scrape()
    for line in [
        "ci_runner_up 1",
        'node_systemd_unit_state{name="ci-runner.service",state="active",type="notify-reload"} 1',
        'node_systemd_service_restart_total{name="ci-runner-exporter.service"} 0',
    ]:
        assert line in metrics.splitlines(), f"{line} in {metrics}"
    # What nobody confines sees no more: the same collectors have figures, the same file systems are there.
    unconfined = machine.succeed("ci-runner exporter --once 2>/dev/null")
    for start in ["node_scrape_collector_success{", "node_filesystem_readonly{"]:
        ours, theirs = (
            [line for line in text.splitlines() if line.startswith(start)] for text in [scrape(), unconfined]
        )
        assert ours == theirs, f"{ours} and {theirs}"
        machine.log(f"{start}: {ours}")
    assert 'node_scrape_collector_success{collector="systemd"} 1' in metrics.splitlines(), metrics

with subtest("the host's figures go on while the daemon is down, and asking does not start it"):
    before = succeeded(scrape())
    assert before > 0
    machine.succeed("systemctl kill --signal=KILL ci-runner.service")
    machine.wait_until_succeeds("systemctl is-active ci-runner", timeout=30)
    machine.wait_until_succeeds(
        "curl --fail --silent http://127.0.0.1:9100/metrics | grep -x 'ci_runner_up 1'", timeout=30
    )
    assert succeeded(scrape()) >= before, "a counter went backwards"
    machine.succeed("systemctl stop ci-runner.service 2>/dev/null")
    for _ in range(3):
        metrics = scrape()
        assert "ci_runner_up 0" in metrics.splitlines(), metrics
        assert "node_load1 " in metrics and "ci_runner_jobs_total" not in metrics, metrics
    down = 'node_systemd_unit_state{name="ci-runner.service",state="inactive",type="notify-reload"} 1'
    assert down in metrics.splitlines(), metrics
    assert machine.get_unit_property("ci-runner.service", "ActiveState") == "inactive"
    machine.succeed("systemctl start ci-runner.service", timeout=60)
    machine.wait_until_succeeds(
        "curl --fail --silent http://127.0.0.1:9100/metrics | grep -x 'ci_runner_up 1'", timeout=30
    )
    assert succeeded(scrape()) >= before, "a counter went backwards"

with subtest("the installed service proves itself"):
    machine.succeed("cd /tmp && ci-runner selftest", timeout=180)
