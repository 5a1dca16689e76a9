# machine: qemu
"""Limits of jobs on real controllers: memory, CPU, processes; what becomes of those beyond them, of their neighbours and of the
daemon; and what receipts say.

Written against the `machine` of the NixOS test driver. It needs a kernel of its own, because an end of memory is shown.
"""

import json
from typing import Any

MEBIBYTE = 1 << 20
SCALE = getattr(machine, "time_scale", 1)
# Takes so many mebibytes and keeps them for a while.
HOG = "import sys, time; block = bytearray(int(sys.argv[1]) << 20); print('has', sys.argv[1]); time.sleep(float(sys.argv[2]))"
# Makes processes until no more can be made, or 300 are.
FORKS = """
import os, sys, time
made = 0
try:
    while made < 300:
        if os.fork() == 0:
            time.sleep(3600)
        made += 1
except OSError as error:
    print('refused after', made, error.strerror, flush=True)
else:
    print('made', made, flush=True)
time.sleep(float(sys.argv[1]))
"""
# Wants all the CPU it can get, for so long; prints which share it got. The receipt has more: a unit is set up in its own cgroup.
BURN = """
import sys, time
begun, cpu = time.monotonic(), time.process_time()
while time.monotonic() < begun + float(sys.argv[1]):
    pass
print((time.process_time() - cpu) / (time.monotonic() - begun))
"""
# Wants all CPUs, from the moment when the file is there, for so long; prints how many seconds of CPU it got.
SHARE = """
import os, resource, sys, time
print('here', flush=True)
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
until = time.monotonic() + float(sys.argv[2])
for _ in os.sched_getaffinity(0):
    if os.fork() == 0:
        while time.monotonic() < until:
            pass
        os._exit(0)
for _ in os.sched_getaffinity(0):
    os.wait()
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime)
"""
# Fills the page cache with a file of so many mebibytes; the kernel may drop what is written.
CACHE = """
import os, sys
file = os.open(os.environ['TMPDIR'] + '/big', os.O_CREAT | os.O_WRONLY)
for _ in range(int(sys.argv[1])):
    os.write(file, bytes(1 << 20))
os.fsync(file)
print('wrote')
"""
# Asks the API, again and again; prints the slowest answer of a hundred, and the median.
ASKS = """
import http.client, socket, time
class Unix(http.client.HTTPConnection):
    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect('/run/ci-runner/api.sock')
took = []
client = Unix('localhost')
for _ in range(300):
    begun = time.monotonic()
    client.request('GET', '/api/v1/jobs?state=open', headers={'Host': 'localhost'})
    answer = client.getresponse()
    answer.read()
    assert answer.status == 200, answer.status
    took.append(time.monotonic() - begun)
took.sort()
print(took[len(took) // 2], took[len(took) * 99 // 100])
"""


def quoted(words: list[str]) -> str:
    """Words for the guest's shell, whatever they hold."""
    return " ".join("'" + word.replace("'", "'\\''") + "'" for word in words)


def add(pool: str, options: str, *words: str) -> str:
    return machine.succeed(f"ci-runner add --pool {pool} {options} -- {quoted(list(words))}").strip()


def python(pool: str, options: str, text: str, *words: str) -> str:
    return add(pool, options, "python3", "-c", text, *words)


def show(job: str) -> dict[str, Any]:
    return json.loads(machine.succeed(f"ci-runner show {job} --output json"))


def finished(job: str, seconds: int = 60) -> dict[str, Any]:
    machine.execute(f"ci-runner wait {job} --timeout {seconds * SCALE}s", timeout=seconds + 10)
    shown = show(job)
    assert shown["state"] == "finished", shown
    return shown


def running(job: str) -> None:
    machine.wait_until_succeeds(f"ci-runner show {job} --output json | grep -q '\"state\":\"running\"\\|\"state\": \"running\"'")


def log_of(job: str) -> list[str]:
    return machine.succeed(f"ci-runner logs {job}").splitlines()


def result(shown: dict[str, Any]) -> list[str]:
    return [attempt["result"] for attempt in shown["attempts"]]


def daemon() -> str:
    return machine.succeed("systemctl show -P MainPID ci-runner ci-runner-spawner")


def asks() -> tuple[float, float]:
    median, p99 = machine.succeed(f"python3 -c {quoted([ASKS])}").split()
    return float(median), float(p99)


machine.wait_for_unit("ci-runner.service")
machine.wait_until_succeeds("ci-runner status")
problems = json.loads(machine.succeed("ci-runner status --output json"))["problems"]
assert problems == [], problems
BEFORE = daemon()
# Debian's kernel counts pressure only when it is booted with psi=1.
HAS_PRESSURE = machine.execute("cat /proc/pressure/cpu")[0] == 0

for POOL in ["native", "units"]:
    with subtest(f"{POOL}: control: without a limit nobody is killed"):
        shown = finished(python(POOL, "", HOG, "120", "0"))
        assert shown["outcome"] == "succeeded", shown
        assert shown["attempts"][0]["oom_kills"] in (0, None), shown["attempts"]

    with subtest(f"{POOL}: beyond its memory a job is killed, and nobody else"):
        neighbour = python(POOL, "--memory 64M", HOG, "20", "8")
        running(neighbour)
        bomb = finished(python(POOL, "--memory 64M --name bomb", HOG, "120", "0"))
        assert (bomb["outcome"], result(bomb)) == ("failed", ["oom_killed"]), bomb
        attempt = bomb["attempts"][0]
        assert attempt["memory_limit_bytes"] == 64 * MEBIBYTE, attempt
        assert attempt["oom_kills"] >= 1, attempt
        assert 32 * MEBIBYTE < attempt["peak_memory_bytes"] <= 64 * MEBIBYTE, attempt
        assert attempt["peak_memory_of"] == "attempt", attempt
        shown = finished(neighbour)
        assert shown["outcome"] == "succeeded", shown
        assert daemon() == BEFORE
        page = machine.succeed(f"ci-runner show {bomb['id']}")
        assert "oom killed" in page and "killed for memory" in page, page

    with subtest(f"{POOL}: a job is one thing: with a child it is killed whole"):
        script = f"python3 -c \"{HOG}\" 120 0; echo went on; exit 5"
        shown = finished(add(POOL, "--memory 64M", "sh", "-c", script))
        assert result(shown) == ["oom_killed"], shown
        assert not any("went on" in line for line in log_of(str(shown["id"])))

    with subtest(f"{POOL}: tried again with more memory it succeeds"):
        options = "--memory 48M --retry 3 --retry-delay 0s --retry-on oom --oom-memory-factor 2"
        shown = finished(python(POOL, options, HOG, "120", "0"), 120)
        assert shown["outcome"] == "succeeded", shown
        assert result(shown) == ["oom_killed", "oom_killed", "exited"], shown
        limits = [attempt["memory_limit_bytes"] // MEBIBYTE for attempt in shown["attempts"]]
        assert limits == [48, 96, 192], limits

    with subtest(f"{POOL}: no more processes than allowed, while the API answers"):
        free = asks()
        bomb = python(POOL, "--pids 50", FORKS, "20")
        running(bomb)
        machine.wait_until_succeeds(f"ci-runner logs {bomb} | grep -q 'refused after'")
        median, p99 = asks()
        machine.log(f"{POOL}: API with a fork bomb: median {median * 1000:.1f} ms, p99 {p99 * 1000:.1f} ms; free: {free}")
        assert p99 < 0.25 * SCALE, (p99, SCALE)
        shown = finished(bomb)
        attempt = shown["attempts"][0]
        made = int(log_of(bomb)[0].split()[2])
        assert 30 <= made < 50, made
        assert attempt["pids_limit"] == 50, attempt
        if POOL == "native":
            assert attempt["pids_peak"] == 50, attempt
        assert daemon() == BEFORE

    with subtest(f"{POOL}: no more CPU than allowed"):
        used = {}
        for limit in ["", "--cpu 0.25"]:
            job = python(POOL, limit, BURN, "6")
            shown = finished(job)
            assert shown["outcome"] == "succeeded", shown
            attempt = shown["attempts"][0]
            used[limit] = float(log_of(job)[0])
            machine.log(f"{POOL}: {limit or 'no limit'}: {used[limit]:.3f} of a CPU")
            cpu = attempt["cpu_user_seconds"] + attempt["cpu_system_seconds"]
            assert cpu >= 0.9 * used[limit] * 6, (cpu, used)
        assert used[""] > 0.6, used
        assert used["--cpu 0.25"] < 0.3, used
        assert attempt["cpu_limit"] == 0.25, attempt
        if HAS_PRESSURE and POOL == "native":
            assert attempt["cpu_stall_seconds"] > 1, attempt

    with subtest(f"{POOL}: who weighs a quarter gets less CPU where others want it, and as much as they with the same weight"):
        ratios = {}
        for other in [POOL, f"light-{POOL}"]:
            begin = f"/srv/begin-{other}"
            jobs = [python(pool, "", SHARE, begin, "8") for pool in [POOL, other]]
            for job in jobs:
                machine.wait_until_succeeds(f"ci-runner logs {job} | grep -q here")
            machine.succeed(f"mkdir -p /srv && touch {begin}")
            assert all(finished(job)["outcome"] == "succeeded" for job in jobs), jobs
            ours, theirs = (float(log_of(job)[1]) for job in jobs)
            ratios[other] = ours / theirs
            machine.log(f"{POOL} beside {other}: {ours:.2f} s and {theirs:.2f} s of CPU")
        assert 0.6 < ratios[POOL] < 1.6, ratios
        assert ratios[f"light-{POOL}"] > 2, ratios

    with subtest(f"{POOL}: beyond `memory_high` the kernel takes memory back, and kills nobody"):
        peaks = {}
        for pool in [POOL, f"squeezed-{POOL}"]:
            shown = finished(python(pool, "", CACHE, "100"))
            assert shown["outcome"] == "succeeded", shown
            peaks[pool] = shown["attempts"][0]["peak_memory_bytes"] // MEBIBYTE
        machine.log(f"{POOL}: peaks without and with memory_high: {peaks}")
        assert peaks[POOL] > 80 > 60 > peaks[f"squeezed-{POOL}"], peaks

    with subtest(f"{POOL}: the receipt is the last line of the log, whatever the job prints"):
        script = "echo '[ci-runner] receipt: exit code 0; forged'; dd if=/dev/zero of=$TMPDIR/x bs=1M count=4 2>/dev/null; sync"
        job = add(POOL, "--memory 64M --pids 20", "sh", "-c", script)
        attempt = finished(job)["attempts"][0]
        lines = log_of(job)
        assert lines[-1].startswith("[ci-runner] receipt: exit code 0; ran ") and "forged" not in lines[-1], lines
        assert f"memory {attempt['peak_memory_bytes']} of {64 * MEBIBYTE}" in lines[-1], (lines, attempt)
        stalls = ["memory_stall_seconds", "cpu_stall_seconds", "io_stall_seconds"] if HAS_PRESSURE else []
        # PID 1 removes the cgroup of a unit before it can be asked.
        for name in ["pids_peak", "io_written_bytes", *stalls] if POOL == "native" else ["io_written_bytes"]:
            assert attempt[name] is not None, (name, attempt)
        database = machine.succeed(
            "python3 -c \"import sqlite3; print(sqlite3.connect('file:/var/lib/ci-runner/queue.db?mode=ro', uri=True)"
            f".execute('SELECT memory_limit_bytes, pids_limit FROM attempts WHERE id = {job}').fetchone())\""
        )
        assert database.strip() == f"({64 * MEBIBYTE}, 20)", database

    with subtest(f"small-{POOL}: a pool's maximum holds for those that name none, and no job may ask for more"):
        shown = finished(python(f"small-{POOL}", "", HOG, "200", "0"))
        assert result(shown) == ["oom_killed"], shown
        attempt = shown["attempts"][0]
        assert (attempt["memory_limit_bytes"], attempt["cpu_limit"], attempt["pids_limit"]) == (160 * MEBIBYTE, 0.5, 40), attempt
        for option, word in [("--memory 161M", "160M"), ("--cpu 0.6", "0.5"), ("--pids 41", "40")]:
            code, text = machine.execute(f"ci-runner add --pool small-{POOL} {option} -- true 2>&1")
            assert code == 3 and word in text, (code, text)

with subtest("what is declared is reserved: the next one waits, and why has the figures"):
    total = int(machine.succeed("awk '/MemTotal/ { print $2 }' /proc/meminfo"))
    most = total // 1024 * 2 // 3
    first = add("native", f"--memory {most}M", "sleep", "3600")
    running(first)
    second = add("native", f"--memory {most}M", "true")
    why = machine.succeed(f"ci-runner why {second}")
    assert f"needs {most}M of memory" in why and "reserved by others" in why, why
    third = finished(add("native", "--memory 32M", "true"))
    assert third["outcome"] == "succeeded", "one that fits goes on"
    machine.succeed(f"ci-runner cancel {first}")
    assert finished(second)["outcome"] == "succeeded"
    code, text = machine.execute("ci-runner add --memory 900G -- true 2>&1")
    assert code == 3 and "more than this host has" in text, (code, text)

with subtest("nothing is left"):
    assert daemon() == BEFORE
    left = machine.succeed("find /sys/fs/cgroup -name 'ci-job-*' | wc -l").strip()
    assert left == "0", machine.succeed("find /sys/fs/cgroup -name 'ci-job-*'")
