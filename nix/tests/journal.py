"""What jobs print in the journal (`journal = true`): one story for each job, complete and once, whatever journald and the daemon do.

Written against the `machine` of the NixOS test driver.
"""

import json

JOURNALD = "systemd-journald.service"


def add(pool: str, text: str, options: str = "") -> str:
    return machine.succeed(f"ci-runner add --pool {pool} {options} --shell '{text}'").strip()


def finish(jobs: list[str], seconds: int = 60) -> None:
    machine.succeed(f"ci-runner wait --timeout {seconds}s {' '.join(jobs)}", timeout=seconds + 10)


def records(match: str) -> list[dict[str, str]]:
    lines = machine.succeed(f"journalctl --quiet --output=json {match}").splitlines()
    return [json.loads(line) for line in lines]


def output(job: str) -> list[str]:
    found = [record for record in records(f"CI_RUNNER_JOB_ID={job}") if record.get("CI_RUNNER_STREAM") == "output"]
    assert all(record["SYSLOG_IDENTIFIER"] == "ci-runner-job" for record in found), found
    return [record["MESSAGE"] for record in found if not record["MESSAGE"].startswith("[ci-runner] receipt")]


def wait_for_output(job: str, lines: int) -> list[str]:
    machine.wait_until_succeeds(
        f"test $(journalctl --quiet --output=cat CI_RUNNER_JOB_ID={job} CI_RUNNER_STREAM=output | grep -vc '^.ci-runner. receipt') -ge {lines}",
        timeout=30,
    )
    return output(job)


def numbers(count: int) -> list[str]:
    return [f"line {number}" for number in range(1, count + 1)]


def print_numbers(count: int) -> str:
    return f"for n in $(seq {count}); do echo line $n; done"


def stop_journald(signal: str) -> None:
    machine.succeed(f"systemctl kill --signal={signal} --kill-whom=main {JOURNALD}")


machine.wait_for_unit("ci-runner.service", timeout=120)
machine.wait_until_succeeds("ci-runner status", timeout=30)

for pool in ["default", "native"]:
    with subtest(f"one story for each job: {pool}"):
        machine.succeed("echo hidden-word-of-mine >/tmp/secret")
        job = add(pool, 'echo one; echo "secret: $WORD" >&2; printf last', "--correlation story-1 --secret WORD=@/tmp/secret")
        finish([job])
        assert wait_for_output(job, 3) == ["one", "secret: ***", "last"], output(job)
        story = records(f"CI_RUNNER_JOB_ID={job}")
        words = [record["MESSAGE"] for record in story]
        # Output and the daemon's words come by two ways: only what lies further apart than a moment is in order.
        assert words[0].startswith(f"job {job} queued by"), words
        assert any(word.startswith(f"job {job} runs (attempt 1") for word in words), words
        assert any(word == f"job {job} succeeded" for word in words), words
        assert all(record["CI_RUNNER_CORRELATION_ID"] == "story-1" for record in story), story
        printed = next(record for record in story if record["MESSAGE"] == "last")
        assert (printed["CI_RUNNER_POOL"], printed["CI_RUNNER_ATTEMPT"], printed["PRIORITY"]) == (pool, "1", "6"), printed
        assert printed["_SYSTEMD_UNIT"] == "ci-runner.service", printed

with subtest("a pool without it"):
    job = add("silent", "echo nothing to see")
    finish([job])
    machine.wait_until_succeeds(f"journalctl --quiet CI_RUNNER_JOB_ID={job} | grep succeeded", timeout=30)
    assert output(job) == [], output(job)

with subtest("restarts of the daemon lose and repeat no line"):
    slow = "for n in $(seq 40); do echo line $n; sleep 0.1; done"
    jobs = [add("default", slow), add("native", slow)]
    ended = add("default", f"sleep 1; {print_numbers(20)}")
    for restart in range(3):
        # Each comes amid lines of theirs.
        for job in jobs:
            wait_for_output(job, 8 * (restart + 1))
        machine.succeed("systemctl restart ci-runner", timeout=60)
    finish([*jobs, ended])
    for job in jobs:
        assert wait_for_output(job, 40) == numbers(40), output(job)
    assert wait_for_output(ended, 20) == numbers(20), output(ended)

with subtest("kill -9 of the daemon: nothing is lost, and what comes twice has the same offset"):
    job = add("default", "for n in $(seq 40); do echo line $n; sleep 0.1; done")
    wait_for_output(job, 8)
    machine.succeed("systemctl kill --signal=KILL --kill-whom=main ci-runner")
    machine.wait_until_succeeds("ci-runner status", timeout=30)
    finish([job])
    wait_for_output(job, 40)
    shown = [record for record in records(f"CI_RUNNER_JOB_ID={job} CI_RUNNER_STREAM=output")]
    by_offset = {int(record["CI_RUNNER_LOG_OFFSET"]): record["MESSAGE"] for record in shown}
    lines = [by_offset[at] for at in sorted(by_offset) if not by_offset[at].startswith("[ci-runner]")]
    assert lines == numbers(40), lines

with subtest("a journald that reads nothing holds up no job, and gets all of it later"):
    stop_journald("STOP")
    try:
        jobs = [add("default", print_numbers(100)) for _ in range(10)]
        finish(jobs)
        # The control: who waits for journald hangs.
        status, _ = machine.execute("seq 5000000 | timeout 3 systemd-cat", timeout=20)
        assert status == 124, f"somebody reads the journal: {status}"
    finally:
        stop_journald("CONT")
    for job in jobs:
        assert wait_for_output(job, 100) == numbers(100), output(job)

with subtest("a journald that is stopped, and comes back"):
    sockets = "systemd-journald.socket systemd-journald-dev-log.socket"
    machine.succeed(f"systemctl stop {sockets} {JOURNALD}")
    job = add("default", print_numbers(50))
    finish([job])
    machine.succeed(f"systemctl start {sockets} {JOURNALD}")
    assert wait_for_output(job, 50) == numbers(50), output(job)

with subtest("a flood says what was left out, and the daemon is heard all the same"):
    job = add("default", "seq -f %060.0f 50000")
    finish([job])
    machine.wait_until_succeeds(f"journalctl --quiet CI_RUNNER_JOB_ID={job} PRIORITY=4 | grep 'lines are not in the journal'", timeout=60)
    other = add("default", "echo after the flood")
    finish([other])
    assert wait_for_output(other, 1) == ["after the flood"], output(other)
    machine.wait_until_succeeds(f"journalctl --quiet CI_RUNNER_JOB_ID={other} | grep succeeded", timeout=30)
    assert not machine.succeed("journalctl --quiet -u systemd-journald -o cat").count("Suppressed"), "too much"
    machine.succeed("curl -sf 127.0.0.1:9100/metrics | grep -E '^ci_runner_log_records_dropped_total [1-9]'")
