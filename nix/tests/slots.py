"""Native jobs under a user per slot: who they are, what is wiped between them, and that nothing disturbs or repeats one.

Written against the `machine` of the NixOS test driver.
"""

import base64
import contextlib
import json
from collections.abc import Iterator
from typing import Any

JOBS = 8
GO = "/srv/go"
WAITER = (
    'for signal in HUP INT TERM USR1; do trap "echo disturbed by $signal" $signal; done; echo start of $1; '
    f"while [ ! -e {GO} ]; do sleep 0.1; done; echo end of $1; exit $1"
)


def quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def add(text: str, options: str = "--pool default", words: str = "") -> str:
    return machine.succeed(f"ci-runner add {options} -- sh -c {quoted(text)} {words}").strip()


def finished(job: str) -> dict[str, Any]:
    machine.execute(f"ci-runner wait {job} --timeout 30s", timeout=40)
    shown = json.loads(machine.succeed(f"ci-runner show {job} --output json"))
    assert shown["state"] == "finished", shown
    return shown


def log_of(job: str) -> str:
    return machine.succeed(f"ci-runner logs {job}")


def succeeded(job: str) -> str:
    shown = finished(job)
    assert shown["outcome"] == "succeeded", (shown, log_of(job))
    return log_of(job)


def running(job: str) -> None:
    machine.wait_until_succeeds(f"ci-runner show {job} --output json | grep -q '\"state\":\"running\"'", timeout=20)


def nothing_is_left() -> None:
    machine.wait_until_succeeds("test -z \"$(ls /run/ci-runner-jobs/attempts)\"", timeout=20)
    groups = "/sys/fs/cgroup/system.slice/ci-runner-jobs.service"
    machine.wait_until_succeeds(f"test -z \"$(find {groups} -name 'ci-job-*')\"", timeout=20)
    machine.fail("ps -eo user:32= | grep ^ci-runner-job-")


@contextlib.contextmanager
def undisturbed(fault: str) -> Iterator[None]:
    """Jobs run, something happens, every one of them ends as if nothing had been."""
    with subtest(f"{JOBS} jobs: {fault}"):
        machine.succeed(f"rm -f {GO}")
        jobs = [add(WAITER, words=f"job {number}") for number in range(JOBS)]
        for job in jobs:
            running(job)
        yield
        machine.wait_until_succeeds("ci-runner status --output json | grep -q '\"state\":\"running\"'", timeout=30)
        machine.succeed(f"touch {GO}")
        for number, job in enumerate(jobs):
            shown = finished(job)
            assert (shown["exit_code"], len(shown["attempts"])) == (number, 1), shown
            assert log_of(job) == f"start of {number}\nend of {number}\n", log_of(job)
        nothing_is_left()


machine.start()
machine.wait_for_unit("ci-runner-jobs.service")
machine.wait_for_unit("ci-runner.service")

with subtest("each job that runs has a user of its own, and a directory that is that user's"):
    machine.succeed(f"rm -f {GO}")
    text = f"id -un; id -Gn; stat -c %U-%a .; pwd; echo $HOME $TMPDIR $CI_RUNNER_WORKSPACE $USER; umask; {WAITER}"
    jobs = [add(text, words="job 0") for _ in range(JOBS)]
    for job in jobs:
        running(job)
    machine.succeed(f"touch {GO}")
    users = set()
    for job in jobs:
        user, groups, owner, directory, names, umask, *_ = succeeded(job).splitlines()
        users.add(user)
        assert groups == user and owner == f"{user}-700" and umask == "0022", (user, groups, owner, umask)
        assert names == f"{directory} {directory} {directory} {user}", (directory, names)
    assert users == {f"ci-runner-job-{number}" for number in range(JOBS)}, users
    user = succeeded(add("id -un", "--pool small")).strip()
    assert user in ("ci-runner-job-small-0", "ci-runner-job-small-1"), user
    nothing_is_left()

with subtest("hundreds of short jobs, with claims made ahead, never share a user"):
    # A user that was given twice would find the other's mark.
    text = "test ! -e /tmp/mark-$USER && touch /tmp/mark-$USER && sleep 0.0$((RANDOM % 5)); test -e /tmp/mark-$USER && rm /tmp/mark-$USER"
    lines = "".join(json.dumps({"shell": text, "pool": "default"}) + "\n" for _ in range(300))
    encoded = base64.b64encode(lines.encode()).decode()
    machine.succeed(f"echo {encoded} | base64 -d >/srv/jobs; ci-runner add -f /srv/jobs >/srv/ids", timeout=60)
    machine.succeed("ci-runner wait $(cat /srv/ids) --timeout 100s", timeout=120)
    tries = machine.succeed("for id in $(cat /srv/ids); do ci-runner show $id --output json; done | grep -o '\"attempt_count\":[0-9]*' | sort | uniq -c", timeout=60)
    assert tries.split() == ["300", '"attempt_count":1'], tries
    nothing_is_left()

LEAVE = r"""
import ctypes, os
libc = ctypes.CDLL(None)
assert libc.shmget(0x5EC, 4096, 0o1666) >= 0 and libc.semget(0x5ED, 1, 0o1666) >= 0 and libc.msgget(0x5EE, 0o1666) >= 0
for path in ["/dev/shm/left", "/tmp/left", "/var/tmp/left"]:
    open(path, "w").close()
os.makedirs("/tmp/left-dir/deep")
os.chmod("/tmp/left-dir/deep", 0)
os.symlink("/etc", "/tmp/left-link")
os.makedirs("deep/er")
os.chmod("deep", 0)
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        os.execvp("sleep", ["sleep", "7777"])
"""
with subtest("between two jobs of a user everything of the first goes"):
    succeeded(add(f"exec python3 -c {quoted(LEAVE)}", "--pool small"))
    machine.fail("pgrep -x sleep")
    machine.fail("ls -d /dev/shm/left /tmp/left* /var/tmp/left 2>/dev/null | grep .")
    machine.fail("awk '$1 >= 1516 && $1 <= 1518' /proc/sysvipc/* | grep .")
    for directory in machine.succeed("ls -d /var/lib/ci-runner-jobs/tmp/small-*").split():
        machine.fail(f"ls -A {directory} | grep .")

with subtest("a job finds a kernel without keyrings: a user's would outlive its processes"):
    code = "import ctypes, errno; libc = ctypes.CDLL(None, use_errno=True); print(libc.syscall(250, 1, 0), errno.errorcode[ctypes.get_errno()])"
    assert succeeded(add(f"exec python3 -c {quoted(code)}")) == "-1 ENOSYS\n"

HIDE = r"""
import os, tempfile
for root in ["/tmp", "/var/tmp", "/dev/shm"]:
    base = tempfile.mkdtemp(prefix="hidden-", dir=root)
    for mode in [0o000, 0o500, 0o100]:
        os.makedirs(f"{base}/{mode}/pkg")
        open(f"{base}/{mode}/pkg/token", "w").close()
        os.chmod(f"{base}/{mode}/pkg", mode)
        os.chmod(f"{base}/{mode}", mode)
    os.chdir(base)
    for _ in range(2000):
        os.mkdir("deep")
        os.chdir("deep")
    open("token", "w").close()
    for others in ["/srv-others", "/srv-others/inner"]:
        open(f"{root}{others}/hidden", "w").close()
        os.makedirs(f"{root}{others}/hidden-dir/token")
"""
with subtest("closed and deep directories go, and what is in directories of others"):
    for root in ["/tmp", "/var/tmp", "/dev/shm"]:
        machine.succeed(f"mkdir -m 1777 {root}/srv-others; mkdir -m 777 {root}/srv-others/inner; touch {root}/srv-others/roots")
    succeeded(add(f"exec python3 -c {quoted(HIDE)}", "--pool small"))
    machine.fail("find /tmp /var/tmp /dev/shm -user ci-runner-job-small-0 -o -user ci-runner-job-small-1 | grep .")
    for root in ["/tmp", "/var/tmp", "/dev/shm"]:
        machine.succeed(f"test -e {root}/srv-others/roots && rm -r {root}/srv-others")

with subtest("what a user has when the spawner starts goes before its first job"):
    machine.succeed("systemctl stop ci-runner-jobs")
    for user in ["ci-runner-job-small-0", "ci-runner-job-small-1"]:
        machine.succeed(f"runuser -u {user} -- sh -c 'umask 077; mkdir -p /var/tmp/left-$0/x; echo token >/var/tmp/left-$0/x/token' {user}")
    machine.succeed("systemctl start ci-runner-jobs")
    log = succeeded(add("id -un; ls -d /var/tmp/left-$USER || echo none", "--pool small"))
    assert log.endswith("none\n"), log
    machine.succeed("rm -rf /var/tmp/left-*")

with subtest("a user of whom something stays gets no job, and the log says why"):
    # Nobody can remove a file on which another is mounted.
    for user in ["ci-runner-job-small-0", "ci-runner-job-small-1"]:
        machine.succeed(f"runuser -u {user} -- touch /var/tmp/held-{user}; mount --bind /var/tmp/held-{user} /var/tmp/held-{user}")
    job = add("echo ran", "--pool small")
    said = f"job {job} could not be started, .*: /var/tmp/held-ci-runner-job-small-.*busy"
    machine.wait_until_succeeds(f"journalctl -u ci-runner -o cat | grep '{said}'", timeout=20)
    machine.succeed("umount /var/tmp/held-ci-runner-job-small-1")
    assert succeeded(job) == "ran\n"
    assert succeeded(add("id -un", "--pool small")) == "ci-runner-job-small-1\n"
    machine.succeed("umount /var/tmp/held-ci-runner-job-small-0")
    machine.succeed(f"ci-runner show {job} --output json | grep '\"attempt_count\":1'")
    succeeded(add("true", "--pool small"))

with subtest("a job makes no setuid files and reaches neither the system bus nor the service manager"):
    connect = "import socket, sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    bus = "/run/dbus/system_bus_socket"
    for text in [
        "cp /bin/sh shell && chmod 4755 shell",
        "touch shell && chmod 2755 shell",
        "mkdir -m 2755 directory",
        f"python3 -c '{connect}' {bus}",
        f"python3 -c '{connect}' /run/systemd/private",
        "ls /run/dbus",
    ]:
        shown = finished(add(text, "--pool small"))
        assert shown["outcome"] == "failed" and shown["attempts"][0]["result"] == "exited", (text, shown)
    # The controls: each can be done, and by that user too where it is outside of the service.
    succeeded(add("cp /bin/sh shell && chmod 755 shell && mkdir -m 755 directory && ls /run/systemd", "--pool small"))
    machine.succeed(f"runuser -u ci-runner-job-small-0 -- python3 -c '{connect}' {bus}")

SURVIVOR = """
import os, sys, time

# Saved user: the person. Effective and for files: the slot's.
os.setresuid(-1, -1, os.getuid())
open(sys.argv[1], "w").write(" ".join(map(str, os.getresuid())))
time.sleep(7777)
"""
HOLDER = """
import os, sys, time

held = os.open(sys.argv[1], os.O_RDONLY)
open("/srv/hers/held", "w").close()
while not os.path.exists("/srv/hers/go"):
    time.sleep(0.05)
os.execve(held, ["program", "/srv/survivor.py", "/srv/hers/later"], os.environ)
"""
PERSON = 61900
# Where root lets jobs make setuid files, as before a person could keep them.
drop_in = "/run/systemd/system/ci-runner-jobs.service.d/setuid.conf"
machine.succeed(f"mkdir -p $(dirname {drop_in}); printf '[Service]\\nRestrictSUIDSGID=no\\n' >{drop_in}; systemctl daemon-reload; systemctl restart ci-runner-jobs")
with subtest("a person's process that has a slot's user as its effective one alone ends with the job, or before the next one"):
    machine.succeed(f"rm -f {GO}; mkdir -m 1777 /srv/hers")
    for name, text in [("survivor", SURVIVOR), ("holder", HOLDER)]:
        machine.succeed(f"echo {base64.b64encode(text.encode()).decode()} | base64 -d >/srv/{name}.py")
    program = "/var/tmp/slots-program"
    make = f"cp $(readlink -f $(command -v python3)) {program}; chmod 4755 {program}; id -u"
    job = add(f"{make}; {WAITER}", "--pool small", "job 0")
    machine.wait_until_succeeds(f"ci-runner logs {job} | grep 'start of'", timeout=20)
    uid = log_of(job).splitlines()[0]
    as_person = f"setpriv --reuid {PERSON} --regid {PERSON} --clear-groups"
    machine.succeed(f"{as_person} {program} /srv/survivor.py /srv/hers/now >/dev/null 2>&1 &")
    machine.succeed(f"{as_person} python3 /srv/holder.py {program} >/dev/null 2>&1 &")
    mixed = f"{PERSON} {uid} {PERSON}"
    machine.wait_until_succeeds(f"test -e /srv/hers/held && grep -x '{mixed}' /srv/hers/now", timeout=20)
    machine.succeed(f"touch {GO}")
    succeeded(job)
    machine.fail("pgrep -f '/srv/hers/no[w]'")
    # The file is gone, but she has it open.
    machine.succeed("touch /srv/hers/go")
    machine.wait_until_succeeds(f"grep -x '{mixed}' /srv/hers/later && pgrep -f '/srv/hers/late[r]'", timeout=20)
    machine.succeed(f"rm {GO}")
    jobs = [add(f"id -u; {WAITER}", "--pool small", "job 0") for _ in range(2)]
    for job in jobs:
        machine.wait_until_succeeds(f"ci-runner logs {job} | grep 'start of'", timeout=20)
    machine.fail("pgrep -f '/srv/hers/late[r]'")
    machine.succeed(f"touch {GO}")
    assert uid in [succeeded(job).splitlines()[0] for job in jobs]
    # The control: hers are left alone.
    machine.succeed(f"{as_person} sleep 7776 >/dev/null 2>&1 &")
    succeeded(add("true", "--pool small"))
    machine.succeed("pkill -f 'sleep 777[6]'; rm -r /srv/hers")
    nothing_is_left()

with subtest("what starts processes of a slot's user later goes before its job, and who keeps it gets none"):
    linger, crontabs = "/var/lib/systemd/linger", "/var/spool/cron/crontabs"
    users = ["ci-runner-job-small-0", "ci-runner-job-small-1"]
    machine.succeed(f"mkdir -p {linger} {crontabs}; touch {linger}/other {crontabs}/other")
    machine.succeed(f"rm {drop_in}; systemctl daemon-reload; systemctl restart ci-runner-jobs")
    for user in users:
        machine.succeed(f"touch {linger}/{user} {crontabs}/{user}; mount --bind {crontabs}/{user} {crontabs}/{user}")
    job = add("id -un", "--pool small")
    said = f"job {job} could not be started, .*: {crontabs}/ci-runner-job-small-.* starts processes of"
    machine.wait_until_succeeds(f"journalctl -u ci-runner -o cat | grep '{said}'", timeout=20)
    machine.succeed(f"umount {crontabs}/ci-runner-job-small-0")
    assert succeeded(job) == "ci-runner-job-small-0\n"
    machine.fail(f"ls {linger}/ci-runner-job-small-0 {crontabs}/ci-runner-job-small-0 2>/dev/null | grep .")
    machine.succeed(f"umount {crontabs}/ci-runner-job-small-1; ls {linger}/other {crontabs}/other")
    machine.succeed(f"rm -f {linger}/* {crontabs}/*")
    succeeded(add("true", "--pool small"))

with subtest("a job cannot reach its shim, the spawner or the daemon"):
    for text in [
        "kill -9 $PPID",
        "pkill -9 ci-shim",
        "pkill -9 -x ci-runner-spawn",
        "echo 0 >/proc/$PPID/oom_score_adj",
        "ls /run/ci-runner-jobs/attempts",
        "ls /run/ci-runner",
        "ls /var/lib/ci-runner",
        "ls /var/lib/ci-runner-jobs/tmp",
        "ls /var/log/ci-runner/jobs",
        "mkdir /sys/fs/cgroup/x",
        "echo $$ >/sys/fs/cgroup/system.slice/ci-runner-jobs.service/main/cgroup.procs",
        "cat /proc/$PPID/environ",
    ]:
        shown = finished(add(text))
        assert shown["outcome"] == "failed" and shown["attempts"][0]["result"] == "exited", (text, shown)

with subtest("a cancelled job is gone, whatever it did"):
    hostile = "trap '' TERM; for i in 1 2 3; do (setsid sh -c \"trap '' TERM; while true; do sleep 7777; done\" &); done; while true; do sleep 7777; done"
    job = add(hostile)
    running(job)
    machine.wait_until_succeeds("test $(pgrep -c -x sleep) -ge 4", timeout=20)
    machine.succeed(f"ci-runner cancel {job}")
    assert finished(job)["outcome"] == "cancelled"
    machine.fail("pgrep -x sleep")

with subtest("a job whose shim is killed is lost, and nothing of it stays"):
    job = add("trap '' PIPE TERM; touch /tmp/by-$USER; while sleep 0.1; do echo x; done")
    running(job)
    machine.wait_until_succeeds("ls /tmp/by-*")
    machine.succeed("pkill -KILL ci-shim")
    shown = finished(job)
    assert shown["attempts"][0]["result"] == "lost", shown
    machine.wait_until_fails("pgrep -x sleep", timeout=10)
    machine.wait_until_fails("ls /tmp/by-*", timeout=10)
nothing_is_left()

with undisturbed("the spawner is killed"):
    machine.succeed("systemctl kill --kill-whom=main -s KILL ci-runner-jobs; sleep 1; systemctl is-active ci-runner-jobs")

with undisturbed("the spawner is restarted"):
    machine.succeed("systemctl restart ci-runner-jobs")

with undisturbed("the spawner executes its program anew"):
    machine.succeed("systemctl reload ci-runner-jobs; sleep 0.5; systemctl is-active ci-runner-jobs")

RELOAD = """
import os, signal, sys

spawner = int(sys.argv[1])

def begins():
    # Rust ignores SIGPIPE before anything else; the spawner takes that back.
    words = dict(line.split(":", 1) for line in open(f"/proc/{spawner}/status").read().splitlines())
    return int(words["SigIgn"], 16) >> signal.SIGPIPE - 1 & 1

for _ in range(500):
    os.kill(spawner, signal.SIGHUP)
    for _ in range(2000):
        if begins():
            break
    os.kill(spawner, signal.SIGSTOP)
    while open(f"/proc/{spawner}/stat").read().rsplit(")", 1)[1].split()[0] != "T":
        pass
    if begins():
        break
    os.kill(spawner, signal.SIGCONT)
else:
    sys.exit("it was never seen as it began")
"""
with subtest("what a spawner is told while it executes its program anew is not lost, and ends nothing"):
    machine.succeed(f"rm -f {GO}")
    job = add(WAITER, words="job 0")
    running(job)
    spawner = machine.get_unit_property("ci-runner-jobs.service", "MainPID")
    encoded = base64.b64encode(RELOAD.encode()).decode()
    machine.succeed(f"echo {encoded} | base64 -d >/srv/reload.py; python3 /srv/reload.py {spawner}", timeout=60)
    machine.succeed(f"touch {GO}")
    dead = f"ps -o stat= --ppid {spawner} | grep Z"
    machine.wait_until_succeeds(dead, timeout=20)
    machine.succeed(f"kill -CONT {spawner}")
    assert finished(job)["attempts"][0]["result"] == "exited"
    machine.wait_until_fails(dead, timeout=10)
    machine.succeed(f"python3 /srv/reload.py {spawner}; kill -HUP {spawner}; kill -CONT {spawner}", timeout=60)
    assert succeeded(add("echo works")) == "works\n"
    assert machine.get_unit_property("ci-runner-jobs.service", "MainPID") == spawner
    nothing_is_left()

with subtest("a job that ran over a reload keeps its result where the directory is emptied after it"):
    machine.succeed(f"rm -f {GO}")
    job = add(WAITER, words="job 7")
    machine.wait_until_succeeds(f"ci-runner logs {job} | grep -q start", timeout=20)
    again = "journalctl -u ci-runner-jobs -o cat | grep -c ' 1 attempts taken over'"
    before = int(machine.execute(again)[1])
    machine.succeed("systemctl reload ci-runner-jobs")
    machine.wait_until_succeeds(f"test $({again}) -gt {before}", timeout=20)
    spawner = machine.get_unit_property("ci-runner-jobs.service", "MainPID")
    machine.succeed(f"rm -rf /run/ci-runner-jobs/*; touch {GO}")
    shown = finished(job)
    assert [(one["result"], one["exit_code"]) for one in shown["attempts"]] == [("exited", 7)], shown
    # It ends by itself, and the next makes the directory anew.
    machine.wait_until_succeeds(
        f"pid=$(systemctl show -P MainPID ci-runner-jobs); test $pid != 0 && test $pid != {spawner} && test -S /run/ci-runner-jobs/socket", timeout=60
    )
    assert succeeded(add("echo works")) == "works\n"
    nothing_is_left()

with subtest("the end of one shim after a reload ends no other, also where there are more than can be watched"):
    machine.succeed(f"rm -f {GO}")
    drop_in = "/run/systemd/system/ci-runner-jobs.service.d/few.conf"
    machine.succeed(f"mkdir -p $(dirname {drop_in}); printf '[Service]\\nLimitNOFILE=26\\n' >{drop_in}; systemctl daemon-reload; systemctl restart ci-runner-jobs")
    jobs = [add(WAITER, words=f"job {number}") for number in range(JOBS)]
    for job in jobs:
        running(job)
    machine.succeed("systemctl reload ci-runner-jobs")
    spawner = machine.get_unit_property("ci-runner-jobs.service", "MainPID")
    watched = f"sed -n 's/^Pid:[[:space:]]*//p' /proc/{spawner}/fdinfo/*"
    machine.wait_until_succeeds(f"test $({watched} | wc -l) = 2", timeout=20)
    machine.succeed(f"kill -9 $({watched} | head -n 1)")
    lost = "grep -l '\"result\":\"lost\"'"
    machine.wait_until_succeeds(f"for id in {' '.join(jobs)}; do ci-runner show $id --output json; done | {lost}", timeout=20)
    machine.succeed(f"touch {GO}")
    results = [finished(job)["attempts"][0] for job in jobs]
    ends = sorted((result["result"], result["exit_code"] is not None) for result in results)
    assert ends == [("exited", True)] * (JOBS - 1) + [("lost", False)], results
    machine.succeed(f"rm {drop_in}; systemctl daemon-reload; systemctl restart ci-runner-jobs")
    nothing_is_left()

with undisturbed("the daemon is killed"):
    machine.succeed("systemctl kill --kill-whom=main -s KILL ci-runner")

with undisturbed("both are killed, PID 1 executes itself anew and reloads"):
    machine.succeed("systemctl kill --kill-whom=main -s KILL ci-runner-jobs ci-runner; systemctl daemon-reexec; systemctl daemon-reload")

with subtest("what systemd-analyze says of the services"):
    for unit, limit in [("ci-runner.service", 1.5), ("ci-runner-jobs.service", 6.0)]:
        text = machine.succeed(f"systemd-analyze security --no-pager {unit} | grep 'Overall exposure level'")
        exposure = float(text.split(": ", 1)[1].split()[0])
        machine.log(f"{unit}: exposure {exposure}")
        assert exposure <= limit, (unit, exposure)
machine.fail("systemctl list-units --failed --plain --no-legend | grep ci-")
