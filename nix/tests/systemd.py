"""The executor `systemd` on a real PID 1: results, logs, ends, disturbances.

Written against the `machine` of the NixOS test driver. CI_RUNNER_TEST_JOBS sets how many jobs run while something is killed.
"""

import base64
import contextlib
import json
import os
from collections.abc import Iterator
from typing import Any

JOBS = int(os.environ.get("CI_RUNNER_TEST_JOBS", "10"))
GO = "/srv/go"
# With the profiles open, build and strict.
POOLS = ["bare", "default", "closed"]
FORBIDDEN = [
    "unshare -U true",
    "mount -t tmpfs x /mnt",
    "touch /etc/x",
    "ls /var/lib/ci-runner",
    "ls /run/ci-runner",
    "ls /run/ci-runner-spawner/attempts",
    "kill -0 1",
    "mkdir /sys/fs/cgroup/x",
]
# Stays until GO is there, then exits with its argument; says what is done to it.
WAITER = (
    'for signal in HUP INT TERM USR1; do trap "echo disturbed by $signal" $signal; done; echo start of $1; '
    f"while [ ! -e {GO} ]; do sleep 0.1; done; echo end of $1; exit $1"
)


def quoted(words: list[str]) -> str:
    """Words for the guest's shell, whatever they hold."""
    return " ".join("'" + word.replace("'", "'\\''") + "'" for word in words)


def add(words: list[str], options: str = "") -> str:
    pool = "" if "--pool" in options else "--pool default"
    return machine.succeed(f"ci-runner add {pool} {options} -- {quoted(words)}").strip()


def shell(text: str, options: str = "") -> str:
    return add(["sh", "-c", text], options)


def show(job: str) -> dict[str, Any]:
    return json.loads(machine.succeed(f"ci-runner show {job} --output json"))


def finished(job: str, seconds: int = 30) -> dict[str, Any]:
    machine.execute(f"ci-runner wait {job} --timeout {seconds}s", timeout=seconds + 10)
    shown = show(job)
    assert shown["state"] == "finished", shown
    return shown


def log_of(job: str) -> str:
    return machine.succeed(f"ci-runner logs {job}")


def check(shown: dict[str, Any], outcome: str, result: str, **more: Any) -> None:
    attempt = shown["attempts"][-1]
    assert (shown["outcome"], attempt["result"]) == (outcome, result), shown
    for name, value in more.items():
        assert shown[name] == value, (name, value, shown)


def running(job: str) -> None:
    machine.wait_until_succeeds(f"test \"$(ci-runner show {job} --output json | grep -c '\"state\":\"running\"')\" = 1", timeout=20)


def no_unit_is_left() -> None:
    machine.wait_until_succeeds("test -z \"$(systemctl list-units --all --plain --no-legend 'ci-job-*')\"", timeout=20)
    # The attacker's store is nobody's: nobody forgets its attempt.
    machine.wait_until_succeeds("test -z \"$(ls /run/ci-runner-spawner/attempts | grep -v feedf00d)\"", timeout=20)


@contextlib.contextmanager
def undisturbed(fault: str) -> Iterator[None]:
    """Jobs run, something happens, every one of them ends as if nothing had been."""
    with subtest(f"{JOBS} jobs: {fault}"):
        machine.succeed(f"rm -f {GO}")
        ids = [add(["sh", "-c", WAITER, "job", str(number)]) for number in range(JOBS)]
        for job in ids:
            running(job)
        before = machine.succeed("systemctl list-units --plain --no-legend 'ci-job-*' | cut -d' ' -f1").split()
        pids = {unit: machine.get_unit_property(unit, "MainPID") for unit in before}
        assert len(before) == JOBS, before
        yield
        machine.wait_until_succeeds("ci-runner status --output json | grep -q '\"state\":\"running\"'", timeout=30)
        after = {unit: machine.get_unit_property(unit, "MainPID") for unit in before}
        assert pids == after, (pids, after)
        machine.succeed(f"touch {GO}")
        for number, job in enumerate(ids):
            shown = finished(job)
            check(shown, "failed" if number else "succeeded", "exited", exit_code=number)
            assert len(shown["attempts"]) == 1, shown
            assert log_of(job) == f"start of {number}\nend of {number}\n", log_of(job)
        no_unit_is_left()


machine.start()
machine.wait_for_unit("ci-runner-spawner.service")
machine.wait_for_unit("ci-runner.service")

with subtest("exit codes and signals are the job's own"):
    codes = [0, 1, 7, 127, 203, 255]
    jobs = [shell(f"exit {code}") for code in codes]
    for code, job in zip(codes, jobs):
        check(finished(job), "failed" if code else "succeeded", "exited", exit_code=code)
    signals = [1, 2, 9, 11, 13, 15]
    jobs = [shell(f"kill -{signal} $$") for signal in signals]
    for signal, job in zip(signals, jobs):
        check(finished(job), "failed", "signaled", signal=signal)

with subtest("words, environment and output arrive byte for byte"):
    odd = ["", "a b", "$HOME %n %% \\ \\x41", "new\nline\ttab", "'\"`", "äöü €", "\x01\x7f", "x" * 100_000]
    job = add(["printf", "%s\\0", *odd])
    check(finished(job), "succeeded", "exited")
    encoded = machine.succeed(f"base64 -w0 /var/log/ci-runner/jobs/0/{job}-1.log")
    assert base64.b64decode(encoded) == b"".join(word.encode() + b"\0" for word in odd)
    job = add(["sh", "-c", "printf %s \"$ODD\"; test \"$HOME\" = \"$TMPDIR\" && test \"$PWD\" = \"$TMPDIR\" && touch here"], "--env " + quoted(["ODD=$x %n \\ 'y"]))
    check(finished(job), "succeeded", "exited")
    assert log_of(job).rstrip("\n") == "$x %n \\ 'y", log_of(job)

with subtest("no word of the job can be read from the unit"):
    job = add(["sh", "-c", "sleep 30", "a-telling-word"], "--env WORD=another-telling-word")
    running(job)
    unit = machine.succeed("systemctl list-units --plain --no-legend 'ci-job-*' | cut -d' ' -f1").strip()
    shown = machine.succeed(f"systemctl show {unit}; systemctl cat {unit}; cat /run/systemd/transient/{unit}")
    assert "telling-word" not in shown, shown
    machine.succeed(f"ci-runner cancel {job}")
    check(finished(job), "cancelled", "signaled", signal=15)

with subtest("what cannot start says why"):
    check(finished(add(["/no/such/program"])), "failed", "failed_to_start", cause="failed to start: cannot run `/no/such/program`: No such file or directory")
    check(finished(add(["true"], "--dir /no/such")), "failed", "failed_to_start", cause="failed to start: cannot enter directory `/no/such`: No such file or directory")

with subtest("a secret is in the environment, not in the log"):
    machine.succeed("echo -n hunter2hunter2 >/srv/secret")
    job = shell("echo it is $TOKEN; test $TOKEN = hunter2hunter2", "--secret TOKEN=@/srv/secret")
    check(finished(job), "succeeded", "exited")
    assert log_of(job) == "it is ***\n", log_of(job)

with subtest("profiles are what they say, and the policy has the last word"):
    uids = set()
    filters = []
    for pool in POOLS:
        job = shell("id -u; grep Seccomp_filters: /proc/self/status; ls /sys/class/net | wc -w", f"--pool {pool}")
        check(finished(job), "succeeded", "exited")
        uid, seccomp, networks = log_of(job).splitlines()
        uids.add(uid)
        filters.append(int(seccomp.split()[1]))
        assert (networks == "1") or pool != "closed", (pool, networks)
    assert "0" not in uids and len(uids) == 3, uids
    assert filters[0] < min(filters[1:]), filters
    for path in ["/run/systemd/notify", "/run/systemd/journal/socket"]:
        connect = f"import socket; socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).connect('{path}')"
        outcomes = [finished(add(["python3", "-c", connect], f"--pool {pool}"))["outcome"] for pool in POOLS]
        assert outcomes == ["succeeded", "failed", "failed"], (path, outcomes)
    for forbidden in FORBIDDEN:
        jobs = [shell(forbidden, f"--pool {pool}") for pool in POOLS[1:]]
        outcomes = [finished(job)["outcome"] for job in jobs]
        assert outcomes == ["failed", "failed"], (forbidden, outcomes)

with subtest("a job that trapped TERM and exits well after its deadline timed out"):
    job = shell("trap 'exit 0' TERM; sleep 60 & wait", "--timeout 1s")
    check(finished(job), "timed_out", "timed_out")
    assert "timeout of 1 s passed" in log_of(job)
    job = shell("trap '' TERM; while true; do sleep 1; done", "--timeout 1s")
    check(finished(job), "timed_out", "timed_out")

HOSTILE = (
    "trap '' TERM HUP INT; for i in 1 2 3 4 5; do (setsid sh -c \"trap '' TERM; while true; do sleep 7777; done\" &) ; done; "
    "setsid setsid sleep 7777 & (kill -STOP $(sh -c 'echo $PPID') &) ; while true; do sleep 7777; done"
)
with subtest("cancel leaves nothing of a hostile job"):
    job = shell(HOSTILE)
    running(job)
    machine.wait_until_succeeds("test $(pgrep -c -x sleep) -ge 6", timeout=20)
    machine.succeed(f"ci-runner cancel {job}")
    shown = finished(job)
    assert shown["outcome"] == "cancelled", shown
    machine.fail("pgrep -x sleep")

with subtest("what a job leaves behind is killed, and does not change its result"):
    job = shell("setsid sleep 7777 & setsid sleep 7777 & exit 0")
    check(finished(job), "succeeded", "exited")
    assert "killed 2 processes that the job left behind" in log_of(job), log_of(job)
    machine.fail("pgrep -x sleep")
    check(finished(shell("setsid sleep 7777 & exit 3")), "failed", "exited", exit_code=3)

with subtest("a unit that is stopped by hand is lost, whatever it exits with"):
    for trap in ["trap 'exit 0' TERM; ", "trap 'exit 7' TERM; ", "", "trap '' TERM; "]:
        job = shell(trap + "sleep 60 & wait; sleep 60")
        running(job)
        machine.succeed("systemctl stop 'ci-job-*'", timeout=30)
        check(finished(job), "failed", "lost", cause="lost: its unit was stopped by hand")
    job = shell("exit 0")
    check(finished(job), "succeeded", "exited")

with subtest("a job without its shim is lost, and gone"):
    job = shell("trap '' PIPE TERM; while sleep 0.1; do echo x; done; exit 0")
    running(job)
    machine.succeed("pkill -KILL ci-shim")
    check(finished(job), "failed", "lost")
    machine.wait_until_fails("pgrep -x sleep", timeout=10)
no_unit_is_left()

with undisturbed("the spawner is killed"):
    machine.succeed("systemctl kill --kill-whom=main -s KILL ci-runner-spawner; sleep 1; systemctl is-active ci-runner-spawner")

with undisturbed("the spawner is restarted"):
    machine.succeed("systemctl restart ci-runner-spawner")

with undisturbed("the spawner executes its program anew"):
    machine.succeed("systemctl reload ci-runner-spawner; sleep 0.5; systemctl is-active ci-runner-spawner")

with undisturbed("the daemon is killed"):
    machine.succeed("systemctl kill --kill-whom=main -s KILL ci-runner")

with undisturbed("both are killed, PID 1 executes itself anew and reloads"):
    machine.succeed(
        "systemctl kill --kill-whom=main -s KILL ci-runner-spawner ci-runner; systemctl daemon-reexec; systemctl daemon-reload"
    )

with undisturbed("PID 1 executes itself anew"):
    machine.succeed("systemctl daemon-reexec")

with undisturbed("D-Bus is killed"):
    machine.succeed("systemctl kill -s KILL dbus")

with subtest("jobs that end while the spawner is away keep their results"):
    machine.succeed(f"rm -f {GO}")
    jobs = [add(["sh", "-c", WAITER, "job", str(number)]) for number in range(5)]
    for job in jobs:
        running(job)
    machine.succeed(f"systemctl stop ci-runner-spawner; touch {GO}")
    machine.wait_until_fails("pgrep -f 'while \\[ ! -e'", timeout=20)
    waits = shell("true")
    for answer in [f"ci-runner why {waits}", "ci-runner status", "ci-runner doctor || true"]:
        machine.wait_until_succeeds(f"{{ {answer}; }} | grep -q 'spawner of units is not connected'", timeout=20)
    machine.succeed("systemctl start ci-runner-spawner")
    check(finished(waits), "succeeded", "exited")
    for number, job in enumerate(jobs):
        check(finished(job), "failed" if number else "succeeded", "exited", exit_code=number)
        assert log_of(job).endswith(f"end of {number}\n")

with subtest("a stranger may not use the spawner's socket"):
    machine.fail(
        "setpriv --reuid=65534 --clear-groups python3 -c "
        "'import socket; socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect(\"/run/ci-runner-spawner/socket\")'"
    )

# A daemon that was taken over: it may say anything on the socket that its user may use.
ATTACK = """
import fcntl, json, os, socket, sys

def spec():
    fd = os.memfd_create("spec", os.MFD_ALLOW_SEALING)
    words = {"argv": ["touch", "/var/log/ci-runner/jobs/taken-over"], "env": [], "dir": None, "umask": 18}
    os.write(fd, json.dumps(words).encode())
    fcntl.fcntl(fd, 1033, 1 | 2 | 4 | 8)
    return fd

def say(*packets):
    link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link.connect("/run/ci-runner-spawner/socket")
    link.settimeout(10)
    heard = ""
    for text, fds in packets:
        try:
            socket.send_fds(link, [text.encode()], fds) if fds else link.send(text.encode())
            heard = link.recv(65536).decode()
        except OSError as error:
            return heard + str(error)
    return heard

hello = (json.dumps([{"hello": {"protocol": 1, "store": "feedf00d", "generation": 1}}]), [])
good = {"key": {"store": "feedf00d", "job": 1, "attempt": 1}, "pool": "default", "slot": 0, "timeout_ms": 5000,
        "soft_timeout_ms": None, "grace_ms": 0, "log_bytes_max": 1000, "secrets": False}

def start(**words):
    return (json.dumps([{"start": {**good, **words}}]), [spec()])

answers = {
    "no hello": say(start()),
    "a property": say(hello, start(properties={"User": "root"})),
    "a user": say(hello, start(user="root")),
    "another profile": say(hello, start(profile="open")),
    "no profile at all": say(hello, start(profile="root")),
    "another pool": say(hello, start(pool="unknown")),
    "a pool with a path": say(hello, start(pool="../../etc")),
    "another store": say(hello, start(key={"store": "0badcafe", "job": 1, "attempt": 1})),
    "a store with a path": say((json.dumps([{"hello": {"protocol": 1, "store": "../../..", "generation": 1}}]), [])),
    "a forget of another store": say(hello, (json.dumps([{"forget": {"store": "0badcafe", "job": 1, "attempt": 1}}]), [])),
    "no memory file": say(hello, (start()[0], [os.open("/etc/passwd", os.O_RDONLY)])),
    "no descriptor": say(hello, (start()[0], [])),
    "nonsense": say(hello, ("[" * 30000, [])),
    "the control": say(hello, start(key={"store": "feedf00d", "job": 2, "attempt": 1})),
}
print(json.dumps(answers))
"""
with subtest("a daemon that was taken over gets nothing that the policy does not name"):
    encoded = base64.b64encode(ATTACK.encode()).decode()
    command = f"echo {encoded} | base64 -d >/srv/attack.py; runuser -u ci-runner -- python3 /srv/attack.py"
    answers = json.loads(machine.succeed(command, timeout=60))
    control = answers.pop("the control")
    assert '"started":' in control, control
    for name, answer in answers.items():
        never = "failed_to_start" in answer or "refused" in answer
        assert never and '"started":' not in answer, (name, answer)
    units = machine.succeed("journalctl -o cat | grep -c 'Started ci-job-feedf00d'").strip()
    assert units == "1", units
    machine.fail("test -e /var/log/ci-runner/jobs/taken-over")

with subtest("what systemd-analyze says of spawner and jobs"):
    limits = {"ci-runner-spawner.service": 2.0}
    for pool, limit in [("default", 2.0), ("closed", 0.7)]:
        job = shell("sleep 60", f"--pool {pool}")
        running(job)
        limits[machine.succeed(f"systemctl list-units --plain --no-legend 'ci-job-*-{job}-1.service' | cut -d' ' -f1").strip()] = limit
    for unit, limit in limits.items():
        text = machine.succeed(f"systemd-analyze security --no-pager {unit} | grep 'Overall exposure level'")
        exposure = float(text.split(": ", 1)[1].split()[0])
        machine.log(f"{unit}: exposure {exposure}")
        assert exposure <= limit, (unit, exposure)
    machine.succeed("ci-runner cancel --all")

with subtest("removing old logs works although root wrote them"):
    machine.succeed("test -n \"$(ls /var/log/ci-runner/jobs/0)\"")
    machine.succeed("runuser -u ci-runner -- rm -r /var/log/ci-runner/jobs/0")

with subtest("daemon and root write logs into one directory"):
    native = shell("echo native", "--pool native")
    check(finished(native), "succeeded", "exited")
    unit = shell("echo unit")
    check(finished(unit), "succeeded", "exited")
    assert (log_of(native), log_of(unit)) == ("native\n", "unit\n")
    machine.succeed("stat -c %U-%a /var/log/ci-runner/jobs/0 | grep -x ci-runner-2770")

no_unit_is_left()
machine.fail("systemctl list-units --failed --plain --no-legend | grep ci-")
