"""Pools that run as a person, and sandboxes that a job chooses: who may submit what to where, and what the spawner refuses
whoever asks.

Written against the `machine` of the NixOS test driver.
"""

import base64
import json
from typing import Any

SRC = "/home/ada/src"


def quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def call(user: str, words: str, directory: str = "/") -> tuple[int, str]:
    command = f"cd {directory} && exec {words} 2>&1"
    return machine.execute(f"runuser -u {user} -- sh -c {quoted(command)}", timeout=30)


def add(user: str, text: str, options: str = "", directory: str = "/") -> str:
    status, said = call(user, f"ci-runner add {options} --shell {quoted(text)}", directory)
    assert status == 0, (status, said)
    return said.strip()


def refused(user: str, options: str, want: str, directory: str = "/") -> None:
    status, said = call(user, f"ci-runner add {options} -- true", directory)
    assert status == 3 and want in said, (status, said)


def finished(job: str) -> dict[str, Any]:
    machine.execute(f"ci-runner wait {job} --timeout 30s", timeout=40)
    shown = json.loads(machine.succeed(f"ci-runner show {job} --output json"))
    assert shown["state"] == "finished", shown
    return shown


def succeeded(job: str) -> str:
    shown = finished(job)
    log = machine.succeed(f"ci-runner logs {job}")
    assert shown["outcome"] == "succeeded", (shown["cause"], log)
    return log


def failed_to_start(job: str, want: str) -> None:
    shown = finished(job)
    assert shown["attempts"][-1]["result"] == "failed_to_start" and want in shown["cause"], shown


def running(job: str) -> None:
    machine.wait_until_succeeds(f"ci-runner show {job} --output json | grep -q '\"state\":\"running\"'", timeout=20)


machine.start()
machine.succeed(
    f"install -d -o ada -g users /home/ada {SRC} {SRC}/out /home/ada/wide /home/ada/.ssh /srv/ada",
    "install -d -o bob -g users /srv/bob",
    "install -m 600 -o ada -g users /dev/stdin /home/ada/.ssh/key <<<secret",
    f"runuser -u ada -- sh -c 'echo one >{SRC}/a; echo two >{SRC}/b'",
)
machine.wait_for_unit("ci-runner-spawner.service")
machine.wait_for_unit("ci-runner.service")

with subtest("add_job in a person's tree builds it there, as that person"):
    status, job = call("ada", "add_job 'cat a b >both && id -un && umask && pwd && touch ../inside || echo closed'", SRC)
    assert status == 0, job
    log = succeeded(job.strip())
    assert log.splitlines()[:3] == ["ada", "0022", SRC] and log.splitlines()[-1] == "closed", log
    assert machine.succeed(f"stat -c %U-%a {SRC}/both; cat {SRC}/both") == "ada-644\none\ntwo\n"
    assert json.loads(machine.succeed(f"ci-runner show {job.strip()} --output json"))["pool"] == "ada"

with subtest("elsewhere the same call runs as nobody that exists, in an empty workspace"):
    log = succeeded(add("ada", "id -u; pwd; ls -A", directory="/home/ada/.ssh"))
    uid, directory, *files = log.splitlines()
    assert int(uid) >= 61184 and directory == "/var/tmp/ci-job" and files == [], log

with subtest("of a person's home only the pool's paths are there, and nothing of the runner"):
    checks = [
        f"touch {SRC}/x && rm {SRC}/x",
        "touch /srv/ada/x && rm /srv/ada/x",
        "! ls /home/ada/.ssh",
        "! ls /home/ada/wide",
        "! ls /srv/bob/x",
        "! touch /etc/x /usr/x /srv/x /home/ada/x",
        "! ls /run/ci-runner",
        "! ls /run/ci-runner-spawner",
        "! ls /var/log/ci-runner/jobs",
        "test -z \"$(ls /run/user)\"",
        f"cp /bin/sh {SRC}/sh && ! chmod u+s {SRC}/sh && rm {SRC}/sh",
        "test \"$HOME\" = /var/tmp/ci-job",
    ]
    for check in checks:
        succeeded(add("ada", check, f"--pool ada --dir {SRC}"))
    for check in [*checks[2:3], "touch /home/ada/wide/x", *checks[5:9]]:
        succeeded(add("ada", check, "--pool wide"))

with subtest("a pool of a person is for its submitters"):
    refused("bob", "--pool ada", '"ada" is for jobs of ada, and this one is of bob')
    refused("bob", f"--pool ada --dir {SRC}", "is for jobs of ada")
    succeeded(add("bob", f"id -un | grep -x ada && touch {SRC}/out/by-bob", f"--pool inner --dir {SRC}/out"))
    succeeded(add("root", "id -un | grep -x ada", "--pool ada"))
    log = succeeded(add("bob", "id -u", directory="/"))
    assert int(log) >= 61184, log
    job = add("ada", "id -un", f"--pool ada --dir {SRC}")
    succeeded(job)
    status, said = call("bob", f"ci-runner retry {job}")
    assert status == 3 and "is for jobs of ada" in said, (status, said)
    status, said = call("bob", "ci-runner schedule add nightly --cron @daily --pool ada -- true")
    if status == 0:
        status, said = call("bob", "ci-runner schedule run nightly")
    assert status == 3 and "is for jobs of ada" in said, (status, said)

with subtest("a directory outside of the paths is refused when it is submitted"):
    for directory in ["/home/ada", "/home/ada/srcs", f"{SRC}/../.ssh", "/etc"]:
        refused("ada", f"--pool ada --dir {directory}", "is not in the paths of the pool")

with subtest("a path that is not the user's, or a link, fails the start"):
    failed_to_start(add("ada", "true", "--pool stolen"), "/srv/bob belongs to user")
    machine.succeed("mv /srv/ada /srv/ada-real && ln -s /home/ada/.ssh /srv/ada")
    failed_to_start(add("ada", "cat /srv/ada/key", "--pool ada"), "/srv/ada is a symbolic link")
    machine.succeed("rm /srv/ada && ln -s /etc /srv/ada")
    failed_to_start(add("ada", "touch /srv/ada/x", "--pool ada"), "/srv/ada is a symbolic link")
    machine.succeed("rm /srv/ada && mv /srv/ada-real /srv/ada")
    # A job of one pool plants the link for the next.
    succeeded(add("ada", f"mv {SRC}/out {SRC}/out-real && ln -s /home/ada/.ssh {SRC}/out", f"--pool ada --dir {SRC}"))
    failed_to_start(add("ada", f"cat {SRC}/out/key", "--pool inner"), f"{SRC}/out is a symbolic link")
    machine.succeed(f"rm {SRC}/out && mv {SRC}/out-real {SRC}/out")
    succeeded(add("ada", f"touch {SRC}/out/x", "--pool inner"))

# Puts the link in place of the directory, and back, as fast as it can.
SWAP = f"""
import ctypes, os, time
libc = ctypes.CDLL(None)
os.chdir("{SRC}")
os.symlink("/home/ada/.ssh", "link")
end = time.time() + 20
while time.time() < end and not os.path.exists("stop"):
    libc.renameat2(-100, b"out", -100, b"link", 2)
    time.sleep(0.0005)
if os.path.islink("out"):
    libc.renameat2(-100, b"out", -100, b"link", 2)
os.unlink("link")
"""
with subtest("a link that is put there while the unit is set up reaches nothing"):
    swapper = add("ada", f"python3 -c {quoted(SWAP)}", f"--pool ada --dir {SRC}")
    machine.wait_for_file(f"{SRC}/link", timeout=20)
    jobs = [add("ada", f"cat {SRC}/out/key", "--pool inner") for _ in range(40)]
    causes: dict[str, int] = {}
    for job in jobs:
        shown = finished(job)
        log = machine.succeed(f"ci-runner logs {job}")
        assert shown["outcome"] == "failed" and "secret" not in log, (shown, log)
        words = ["symbolic link", "leads to another directory", "exit code 1"]
        cause = next((word for word in words if word in shown["cause"]), shown["cause"])
        causes[cause] = causes.get(cause, 0) + 1
    machine.log(f"ends of 40 jobs beside a swapped link: {causes}")
    machine.succeed(f"touch {SRC}/stop")
    succeeded(swapper)
    machine.succeed(f"rm {SRC}/stop")

with subtest("the control: without the walk and the comparison the link leads where it points"):
    unit = (
        "systemd-run --wait --pipe --quiet -p User=ada -p ProtectHome=tmpfs -p ProtectSystem=strict"
        f" -p BindPaths={SRC}/out cat {SRC}/out/key"
    )
    machine.succeed(f"mv {SRC}/out {SRC}/out-real && ln -s /home/ada/.ssh {SRC}/out")
    assert machine.succeed(unit) == "secret\n"
    machine.succeed(f"rm {SRC}/out && mv {SRC}/out-real {SRC}/out")

with subtest("a job chooses among the sandboxes of its pool"):
    filters = "grep Seccomp_filters: /proc/self/status; ls /sys/class/net | wc -w"
    counts = {}
    for profile in ["open", "build", "strict"]:
        job = add("ada", filters, f"--pool default --profile {profile}")
        counts[profile] = [int(line.split()[-1]) for line in succeeded(job).splitlines()]
        assert json.loads(machine.succeed(f"ci-runner show {job} --output json"))["profile"] == profile
    assert counts["open"][0] < counts["build"][0] and counts["strict"][1] == 1, counts
    assert succeeded(add("ada", filters, "--pool default")).split()[1] == str(counts["build"][0])
    assert succeeded(add("ada", filters, "--profile open")).split()[1] == str(counts["open"][0])
    refused("ada", "--pool ada --profile open", '"open" is not for the pool "ada"')
    refused("ada", "--profile lax", "lax")

# Takes lines away from the units of jobs, as a kernel without them would.
DROP_IN = "/run/systemd/system/ci-job-.service.d/weaker.conf"
WEAKER = {
    "PrivateUsers": ("build", "PrivateUsers=no\n"),
    "PrivateNetwork": ("strict", "PrivateNetwork=no\n"),
}
with subtest("a sandbox that the host does not give refuses the job, unless the pool says degrade"):
    machine.succeed("ip link add dummy0 type dummy 2>/dev/null || ip link add veth0 type veth peer name veth1 2>/dev/null || true")
    for seal, (profile, lines) in WEAKER.items():
        if seal == "PrivateNetwork" and machine.execute("test $(grep -c : /proc/net/dev) -gt 1")[0] != 0:
            machine.log("no second network device can be had here: PrivateNetwork is not tried")
            continue
        machine.succeed(f"mkdir -p $(dirname {DROP_IN}); cat >{DROP_IN} <<'END'\n[Service]\n{lines}END\nsystemctl daemon-reload")
        failed_to_start(add("ada", "touch /var/tmp/ran", f"--pool default --profile {profile}"), f"does not give the sandbox its {seal}=")
        job = add("ada", "echo ran", f"--pool lax --profile {profile}")
        log = succeeded(job)
        assert seal in json.loads(machine.succeed(f"ci-runner show {job} --output json"))["attempts"][0]["lacks"], job
        assert f"{seal}=" in machine.succeed(f"ci-runner show {job}"), machine.succeed(f"ci-runner show {job}")
        assert f"does not give the sandbox its {seal}=: the job runs without" in log and log.endswith("ran\n"), log
        machine.succeed("journalctl -u ci-runner-spawner -o cat | grep -q 'the job runs without'")
    machine.succeed(f"rm {DROP_IN}; systemctl daemon-reload")
    job = add("ada", "echo ran", "--pool lax")
    assert succeeded(job) == "ran\n"
    assert json.loads(machine.succeed(f"ci-runner show {job} --output json"))["attempts"][0]["lacks"] == []
    succeeded(add("ada", "true", "--pool default --profile strict"))

# A daemon that was taken over says what it likes: the policy is what counts.
ATTACK = """
import fcntl, json, os, socket, sys

def start(**words):
    fd = os.memfd_create("spec", os.MFD_ALLOW_SEALING)
    spec = {"argv": ["id", "-un"], "env": [], "dir": words.pop("dir", None), "umask": 18}
    os.write(fd, json.dumps(spec).encode())
    fcntl.fcntl(fd, 1033, 1 | 2 | 4 | 8)
    link = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link.connect("/run/ci-runner-spawner/socket")
    link.settimeout(10)
    link.send(json.dumps([{"hello": {"protocol": 1, "store": "feedf00d", "generation": 1}}]).encode())
    link.recv(65536)
    start.number += 1
    message = {"key": {"store": "feedf00d", "job": start.number, "attempt": 1}, "pool": "ada", "slot": 0,
        "timeout_ms": 5000, "soft_timeout_ms": None, "grace_ms": 0, "log_bytes_max": 1000, "secrets": False,
        "submitter": int(sys.argv[1]), **words}
    socket.send_fds(link, [json.dumps([{"start": message}]).encode()], [fd])
    heard = link.recv(65536).decode()
    return heard

start.number = 0
answers = {
    "another submitter": start(submitter=int(sys.argv[2])),
    "no submitter": start(submitter=None),
    "the daemon": start(submitter=os.getuid()),
    "a profile of another pool": start(profile="open"),
    "a profile that is none": start(profile="root"),
    "a pool with another's tree": start(pool="stolen"),
    "a path": start(paths=["/etc"]),
    "a user": start(user="root"),
    "a directory": start(dir="/home/ada/.ssh"),
    "a directory with dots": start(dir="/home/ada/src/../.ssh"),
    "the control": start(dir="/home/ada/src"),
}
print(json.dumps(answers))
"""
with subtest("a daemon that was taken over chooses no other sandbox, submitter, tree or user"):
    encoded = base64.b64encode(ATTACK.encode()).decode()
    uids = machine.succeed("id -u ada; id -u bob").split()
    command = f"echo {encoded} | base64 -d >/srv/attack.py; runuser -u ci-runner -- python3 /srv/attack.py {' '.join(uids)}"
    answers = json.loads(machine.succeed(command, timeout=60))
    control = answers.pop("the control")
    assert '"started":' in control, control
    for name, answer in answers.items():
        never = "failed_to_start" in answer or "refused" in answer
        assert never and '"started":' not in answer, (name, answer)

with subtest("what systemd-analyze says of the spawner and of a person's job"):
    job = add("ada", "sleep 60", "--pool ada")
    running(job)
    unit = machine.succeed(f"systemctl list-units --plain --no-legend 'ci-job-*-{job}-1.service' | cut -d' ' -f1").strip()
    for name, limit in [("ci-runner-spawner.service", 2.0), (unit, 2.0)]:
        text = machine.succeed(f"systemd-analyze security --no-pager {name} | grep 'Overall exposure level'")
        exposure = float(text.split(": ", 1)[1].split()[0])
        machine.log(f"{name}: exposure {exposure}")
        assert exposure <= limit, (name, exposure)
    machine.succeed(f"ci-runner cancel {job}")
