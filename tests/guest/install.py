"""`ci-runner install --systemd` on a bare guest: installed, tested, upgraded, killed, rebooted and removed without a trace.

    tests/guest/run --system none --package tests/guest/install.py
"""

import json
import os

JOBS = int(os.environ.get("CI_RUNNER_TEST_JOBS", "12"))
NEW = "/opt/ci/bin/ci-runner"  # where the build is: not where it is installed
STATE = "/var/lib/ci-runner"

# Everything that a removal could have left: path, kind, mode, owner, and for files a hash.
TREE = """
import hashlib, os, stat
LEFT_OUT = {"/proc", "/sys", "/dev", "/run", "/tmp", "/var/tmp", "/var/log/journal", "/var/lib/systemd", "/var/cache", "/opt/ci", "/root", "STATE"}
def walk(path):
    about = os.lstat(path)
    word = ""
    if stat.S_ISREG(about.st_mode):
        word = hashlib.sha256(open(path, "rb").read()).hexdigest()
    elif stat.S_ISLNK(about.st_mode):
        word = os.readlink(path)
    print(path, oct(about.st_mode), about.st_uid, about.st_gid, word)
    if stat.S_ISDIR(about.st_mode):
        for name in sorted(os.listdir(path)):
            inner = os.path.join(path, name)
            if inner not in LEFT_OUT:
                walk(inner)
walk("/")
""".replace("STATE", STATE)
# What the tools that add and remove users keep for themselves.
OF_THE_TOOLS = ("/etc/.pwd.lock", "/etc/passwd-", "/etc/group-", "/etc/shadow-", "/etc/gshadow-", "/etc/.updated")
# Names of others end in random letters, which may be ours.
RUN_TREE = "find /run -maxdepth 1 -name 'ci-*'; find /tmp /var/tmp -maxdepth 1 \\( -name 'ci-*' -o -name '*ci-runner*' -o -name '*ci-job*' \\)"


def tree() -> dict[str, str]:
    lines = machine.succeed(f"python3 - <<'END'\n{TREE}\nEND").splitlines()
    entries = dict(line.split(" ", 1) for line in lines if " " in line)
    return {path: rest for path, rest in entries.items() if path not in OF_THE_TOOLS}


def install(options: str = "", program: str = NEW) -> dict:
    return json.loads(machine.succeed(f"{program} install --systemd --output json {options}", timeout=120))


def interrupted(program: str, script: str, options: str = "", installer: str = NEW) -> str:
    """An installation in which a program of the system is this script instead."""
    machine.succeed(f"mkdir /root/fake && printf '#!/bin/sh\\n{script}\\n' >/root/fake/{program} && chmod +x /root/fake/{program}")
    told = machine.fail(f"PATH=/root/fake:$PATH {installer} install --systemd {options} 2>&1", timeout=120)
    machine.succeed("rm -r /root/fake")
    return told


KILL = "kill -9 $PPID"


def actions(report: dict) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for file in report["files"]:
        found.setdefault(file["action"], set()).add(file["path"])
    return found


def asked(report: dict) -> dict[str, str]:
    return {unit["unit"]: unit["action"] for unit in report["units"]}


# What an upgrade asks of the units.
UPGRADE = {"ci-runner-spawner.service": "reload", "ci-runner-exporter.service": "restart", "ci-runner.service": "restart"}


def start_jobs() -> list[str]:
    machine.succeed("rm -f /var/tmp/go /var/tmp/story")
    text = 'echo "start $CI_RUNNER_JOB_ID"; while [ ! -e /usr/share/ci-go ]; do sleep 0.2; done; echo "end $CI_RUNNER_JOB_ID"; exit '
    lines = "\n".join(json.dumps({"shell": text + str(number), "retry": 0}) for number in range(JOBS))
    machine.succeed("rm -f /usr/share/ci-go")
    ids = machine.succeed(f"ci-runner add -f /dev/stdin <<'END'\n{lines}\nEND").split()
    machine.wait_until_succeeds(
        "test \"$(ci-runner status --output json | python3 -c 'import json, sys; print(json.load(sys.stdin)[\"jobs\"][\"running\"])')\" -ge 4",
        timeout=60,
    )
    return ids


def finish_jobs(ids: list[str]) -> None:
    machine.succeed("touch /usr/share/ci-go")
    machine.execute(f"ci-runner wait --timeout 120s {' '.join(ids)}", timeout=130)
    for number, job in enumerate(ids):
        shown = json.loads(machine.succeed(f"ci-runner show {job} --output json"))
        attempts = [(attempt["result"], attempt["exit_code"]) for attempt in shown["attempts"]]
        assert attempts == [("exited", number)], (job, attempts)
        log = machine.succeed(f"ci-runner logs {job}")
        assert log == f"start {job}\nend {job}\n", log
    machine.succeed("rm /usr/share/ci-go")


machine.start()
before = tree()
booted = machine.succeed("cat /proc/sys/kernel/random/boot_id")

with subtest("what would be done is told, and nothing is done"):
    report = install("--dry-run")
    assert set(actions(report)) == {"create"}, actions(report)
    text = machine.succeed(f"{NEW} install --systemd --print")
    assert "### /etc/systemd/system/ci-runner.service\n" in text and "ExecStart=/usr/local/bin/ci-runner daemon" in text
    assert tree() == before

with subtest("one that was killed half-way is removed without a trace"):
    interrupted("systemd-sysusers", KILL)
    # As a kill before these came leaves it: the list is written first, a file aside.
    machine.succeed("cd /etc/systemd/system && rm ci-runner-spawner.service ci-runner.socket && touch .ci-runner.socket.new")
    machine.succeed(f"{NEW} install --systemd --uninstall", timeout=60)
    assert tree() == before
    # When its users were there.
    interrupted("systemd-tmpfiles", KILL)
    machine.succeed("getent passwd ci-runner")
    machine.succeed(f"{NEW} install --systemd --uninstall", timeout=60)
    assert tree() == before
    assert machine.succeed(RUN_TREE) == "", machine.succeed(RUN_TREE)

UNITS = ["ci-runner.socket", "ci-runner-spawner.service", "ci-runner-exporter.service", "ci-runner.service"]

with subtest("one that failed half-way and is repeated is a service that passes its own test"):
    told = interrupted("systemd-tmpfiles", "echo no room >&2; exit 1")
    assert "no room" in told, told
    machine.fail("systemctl is-enabled ci-runner.service")
    report = install()
    assert set(actions(report)) == {"same"}, actions(report)
    assert asked(report) == dict.fromkeys(UNITS, "start"), report
    for unit in UNITS:
        machine.require_unit_state(unit)
        machine.succeed(f"systemctl is-enabled {unit}")
    machine.succeed("ci-runner selftest", timeout=120)
    machine.succeed("add_job 'echo linked'")
    machine.fail("systemctl list-units --failed --plain --no-legend | grep ci-")

with subtest("units that systemd-analyze has no word against"):
    told = machine.succeed("cd /etc/systemd/system && systemd-analyze verify --man=no ci-runner* 2>&1")
    assert told.strip() == "", told

with subtest("a second installation changes nothing and touches no unit"):
    pid = machine.get_unit_property("ci-runner.service", "MainPID")
    report = install()
    assert set(actions(report)) == {"same"} and asked(report) == {}, report
    assert machine.get_unit_property("ci-runner.service", "MainPID") == pid

with subtest("an upgrade while jobs run"):
    ids = start_jobs()
    pids = {unit: machine.get_unit_property(unit, "MainPID") for unit in ["ci-runner.service", "ci-runner-spawner.service"]}
    # Another build: the same code, other bytes.
    machine.succeed("mkdir /opt/next && cp /opt/ci/bin/* /opt/next && for f in /opt/next/*; do echo next >>$f; done")
    report = install("--dry-run", program="/opt/next/ci-runner")
    assert actions(report)["update"] == {f"/usr/local/bin/{name}" for name in ["ci-runner", "ci-runner-spawner", "add_job"]}, actions(report)
    # The first try brings the programs and tells nobody.
    interrupted("systemd-sysusers", "exit 1", installer="/opt/next/ci-runner")
    report = install(program="/opt/next/ci-runner")
    assert set(actions(report)) == {"same"} and asked(report) == UPGRADE, report
    report = install("--dry-run", program="/opt/next/ci-runner")
    assert set(actions(report)) == {"same"} and asked(report) == {}, report
    machine.wait_until_succeeds("ci-runner status", timeout=30)
    assert machine.get_unit_property("ci-runner.service", "MainPID") != pids["ci-runner.service"]
    assert machine.get_unit_property("ci-runner-spawner.service", "MainPID") == pids["ci-runner-spawner.service"]
    machine.wait_until_succeeds(
        "cmp /proc/$(systemctl show -P MainPID ci-runner-spawner)/exe /opt/next/ci-runner-spawner", timeout=20
    )
    machine.succeed("systemctl kill --kill-whom=main -s KILL ci-runner ci-runner-spawner")
    machine.wait_until_succeeds("ci-runner status", timeout=30)
    report = install()
    assert asked(report) == UPGRADE, report
    finish_jobs(ids)
    machine.succeed("rm -r /opt/next")

with subtest("doctor --repair does what a person would do, and names it"):
    told = machine.succeed("ci-runner doctor --repair || true")
    assert "nothing that can be repaired was wrong" in told, told
    machine.succeed(
        "systemctl disable --now ci-runner.service ci-runner.socket ci-runner-spawner.service 2>&1; "
        "rm /etc/systemd/system/ci-runner-spawner.service; chmod 0777 /var/log/ci-runner; chmod 0666 /etc/ci-runner/policy.json; "
        "mkdir -p /run/ci-runner; rm -f /run/ci-runner/api.sock; python3 -c 'import socket; socket.socket(socket.AF_UNIX).bind(\"/run/ci-runner/api.sock\")'"
    )
    machine.fail("ci-runner status")
    told = machine.succeed("ci-runner doctor --repair || true", timeout=60)
    for words in [
        "wrote /etc/systemd/system/ci-runner-spawner.service again",
        "took the right to write /etc/ci-runner/policy.json from others",
        "/var/log/ci-runner had mode 0777",
        "removed /run/ci-runner/api.sock, at which nobody listens",
        "enabled ci-runner.service",
        "started ci-runner.service",
    ]:
        assert words in told, (words, told)
    machine.wait_until_succeeds("ci-runner status", timeout=30)
    machine.succeed("ci-runner selftest queue", timeout=120)
    # The socket's file goes while PID 1 listens at it.
    machine.succeed("systemctl stop ci-runner && rm -f /run/ci-runner/api.sock")
    assert "made /run/ci-runner/api.sock anew" in machine.succeed("ci-runner doctor --repair || true", timeout=60)
    machine.wait_until_succeeds("ci-runner status", timeout=30)

with subtest("settings that a person changed stay, and a reload takes them"):
    machine.succeed("sed -i 's/^retry_delay = .*/retry_delay = 7/' /etc/ci-runner/config.toml && systemctl reload ci-runner")
    report = install()
    assert actions(report)["keep"] == {"/etc/ci-runner/config.toml"}, actions(report)
    machine.succeed("grep -x 'retry_delay = 7' /etc/ci-runner/config.toml")

with subtest("what two people changed is refused as a whole"):
    # As if this version had other words than the one that wrote it.
    machine.succeed(
        "sed -i 's/^Description=.*/Description=Mine/' /etc/systemd/system/ci-runner.service && "
        "python3 -c 'import json; p = \"/etc/ci-runner/installed.json\"; d = json.load(open(p)); "
        "d[\"files\"][\"/etc/systemd/system/ci-runner.service\"] = \"0\" * 64; json.dump(d, open(p, \"w\"))'"
    )
    state = tree()
    told = machine.fail(f"{NEW} install --systemd 2>&1")
    assert "/etc/systemd/system/ci-runner.service" in told and "--changed" in told, told
    assert tree() == state
    report = install("--changed overwrite")
    assert "/etc/systemd/system/ci-runner.service" in actions(report)["overwrite"], actions(report)
    machine.succeed("grep -x 'Description=Job runner' /etc/systemd/system/ci-runner.service")
    machine.succeed("grep -x 'Description=Mine' /etc/systemd/system/ci-runner.service.replaced")
    # The settings were a person's too: said once for all files.
    assert "/etc/ci-runner/config.toml" in actions(report)["overwrite"]

with subtest("it is there after a boot"):
    machine.reboot()
    assert machine.succeed("cat /proc/sys/kernel/random/boot_id") != booted
    machine.wait_for_unit("ci-runner.service")
    machine.succeed("ci-runner selftest queue logging", timeout=120)

with subtest("a removal is refused while jobs run"):
    ids = start_jobs()
    told = machine.fail(f"{NEW} install --systemd --uninstall 2>&1")
    assert "jobs run" in told and "--force" in told, told
    finish_jobs(ids)

with subtest("a removal leaves no trace but the state"):
    machine.wait_until_succeeds("test -z \"$(systemctl list-units --all --plain --no-legend 'ci-job-*')\"", timeout=30)
    machine.succeed("echo '# mine' >>/etc/ci-runner/config.toml")
    machine.succeed("ci-runner install --systemd --uninstall", timeout=60)
    after = tree()
    differ = {path: (before.get(path), after.get(path)) for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert differ == {}, differ
    assert machine.succeed(RUN_TREE) == "", machine.succeed(RUN_TREE)
    units = machine.succeed("systemctl list-units --all --plain --no-legend 'ci*'")
    assert units == "", units
    assert machine.succeed("getent passwd ci-runner || true") == ""
    kept = machine.succeed(f"cd {STATE}/removed-* && ls && cat etc-ci-runner-config.toml")
    assert "# mine" in kept and "etc-systemd-system-ci-runner.service.replaced" in kept and "var-log-ci-runner" in kept, kept
    assert machine.succeed(f"stat -c %U-%a {STATE}").strip() == "root-700"

with subtest("installed again, it goes on with its state"):
    install()
    machine.succeed("ci-runner selftest queue", timeout=120)
    assert int(machine.succeed("ci-runner list --all --output json | python3 -c 'import json, sys; d = json.load(sys.stdin); print(len(d if isinstance(d, list) else d[\"jobs\"]))'")) > JOBS
    # By force, with jobs that run.
    start_jobs()
    machine.succeed("ci-runner install --systemd --uninstall --force", timeout=60)
    machine.fail("pgrep 'ci-(runner|shim)'")
    assert tree() == before

SLOT_USERS = "getent passwd | grep -c ^ci-runner-job-"
# What an upgrade asks of them.
UPGRADE_SLOTS = {"ci-runner-jobs.service": "reload", "ci-runner-exporter.service": "restart", "ci-runner.service": "restart"}

with subtest("native jobs, each under a user of its own"):
    # A new machine: what the forced removal ended would wait for the spawner of units, which is not installed here.
    machine.succeed(f"rm -r {STATE}")
    report = install("--slot-users 4")
    assert set(actions(report)) == {"create"}, actions(report)
    machine.require_unit_state("ci-runner-jobs.service")
    machine.fail("systemctl cat ci-runner-spawner.service")
    assert machine.succeed(SLOT_USERS).strip() == "4"
    job = machine.succeed("ci-runner add -- id -un").strip()
    machine.succeed(f"ci-runner wait --timeout 60s {job}", timeout=70)
    assert machine.succeed(f"ci-runner logs {job}").startswith("ci-runner-job-"), machine.succeed(f"ci-runner logs {job}")
    machine.succeed("ci-runner selftest", timeout=120)
    told = machine.succeed("cd /etc/systemd/system && systemd-analyze verify --man=no ci-runner* 2>&1")
    assert told.strip() == "", told

with subtest("an upgrade keeps the users, and adds some, while jobs run"):
    ids = start_jobs()
    pid = machine.get_unit_property("ci-runner-jobs.service", "MainPID")
    machine.succeed("mkdir /opt/next && cp /opt/ci/bin/* /opt/next && for f in /opt/next/*; do echo next >>$f; done")
    report = install(program="/opt/next/ci-runner")
    assert actions(report)["update"] == {f"/usr/local/bin/{name}" for name in ["ci-runner", "ci-runner-spawner", "add_job"]}, actions(report)
    assert asked(report) == UPGRADE_SLOTS, report
    machine.wait_until_succeeds("ci-runner status", timeout=30)
    report = install("--slot-users 6", program="/opt/next/ci-runner")
    assert asked(report) == UPGRADE_SLOTS | {"ci-runner.service": "reload"}, report
    assert machine.succeed(SLOT_USERS).strip() == "6"
    assert machine.get_unit_property("ci-runner-jobs.service", "MainPID") == pid
    machine.wait_until_succeeds("test $(ci-runner list --state running --output json | grep -o '\"id\"' | wc -l) -eq 6", timeout=30)
    for option in ["--slot-users 5", "--slot-users 0"]:
        told = machine.fail(f"{NEW} install --systemd {option} 2>&1")
        assert "jobs run" in told and "drain" in told, told
    finish_jobs(ids)
    machine.succeed("rm -r /opt/next")

with subtest("a change of their number that failed is guarded when it is repeated"):
    interrupted("systemd-sysusers", "exit 1", "--slot-users 3")
    ids = start_jobs()
    for option in ["--slot-users 3", ""]:
        told = machine.fail(f"{NEW} install --systemd {option} 2>&1")
        assert "jobs run" in told and "drain" in told, told
    # Who takes it back takes nothing from anybody.
    install("--slot-users 6 --dry-run")
    finish_jobs(ids)
    report = install("--slot-users 3")
    # The programs are others, too.
    assert set(actions(report)) == {"same"} and asked(report) == UPGRADE_SLOTS, report
    assert asked(install()) == {}

with subtest("a change of their kind that failed can be taken back"):
    # The spawner is stopped by then, and the settings are others.
    machine.succeed("mkdir /etc/ci-runner/.policy.json.new")
    told = machine.fail(f"{NEW} install --systemd --slot-users 0 2>&1")
    assert "policy.json" in told, told
    machine.fail("systemctl is-active ci-runner-jobs.service")
    report = install("--slot-users 3")
    assert asked(report)["ci-runner-jobs.service"] == "start", report
    machine.require_unit_state("ci-runner-jobs.service")
    machine.succeed("systemctl is-enabled ci-runner-jobs.service")
    machine.succeed("rmdir /etc/ci-runner/.policy.json.new && ci-runner selftest queue", timeout=120)

with subtest("back to units, and to users again"):
    install("--slot-users 0")
    machine.fail("systemctl cat ci-runner-jobs.service")
    machine.require_unit_state("ci-runner-spawner.service")
    machine.succeed("ci-runner selftest queue", timeout=120)
    install("--slot-users 2")
    machine.succeed("ci-runner selftest queue", timeout=120)
    machine.succeed("rm /etc/ci-runner/jobs.json && ci-runner doctor --repair >/dev/null || true; test -s /etc/ci-runner/jobs.json")

with subtest("a removal takes the users, their directories and, by force, their jobs"):
    machine.succeed("ci-runner add -- sleep 7777 >/dev/null")
    machine.wait_until_succeeds("pgrep -x sleep", timeout=20)
    # Nobody answers, and yet it runs.
    machine.succeed("systemctl stop ci-runner.socket ci-runner.service")
    for option in ["--uninstall", "--slot-users 0"]:
        told = machine.fail(f"ci-runner install --systemd {option} 2>&1", timeout=60)
        assert "1 jobs run" in told, told
    machine.succeed("pgrep -x sleep")
    machine.succeed("ci-runner install --systemd --uninstall --force", timeout=60)
    machine.fail("pgrep -x 'sleep|ci-shim|ci-runner.*'")
    assert tree() == before
    assert machine.succeed(RUN_TREE).split() == [], machine.succeed(RUN_TREE)

with subtest("nothing of native jobs stays where jobs were units last"):
    machine.succeed(f"rm -r {STATE}")
    install("--slot-users 2")
    install("--slot-users 0")
    machine.succeed("ci-runner install --systemd --uninstall", timeout=60)
    assert tree() == before
    assert machine.succeed(RUN_TREE).split() == [], machine.succeed(RUN_TREE)

with subtest("units and native jobs at once"):
    machine.succeed(f"rm -r {STATE}")
    install()
    ids = start_jobs()
    pid = machine.get_unit_property("ci-runner-spawner.service", "MainPID")
    # Nothing is taken from the units that run, and jobs that wait for them get new slots.
    report = install("--slot-users 2 --units yes")
    want = {"ci-runner-jobs.service": "start", "ci-runner-exporter.service": "restart", "ci-runner.service": "restart"}
    assert asked(report) == want, report
    assert machine.get_unit_property("ci-runner-spawner.service", "MainPID") == pid
    machine.require_unit_state("ci-runner-jobs.service")
    machine.wait_until_succeeds("test $(ci-runner list --state running --output json | grep -o '\"id\"' | wc -l) -eq 6", timeout=30)
    for option in ["--slot-users 1", "--units no", "--slot-users 0"]:
        told = machine.fail(f"{NEW} install --systemd {option} 2>&1")
        assert "jobs run" in told and "drain" in told, (option, told)
    finish_jobs(ids)
    report = install()
    assert set(actions(report)) == {"same"} and asked(report) == {}, report

with subtest("each in its pool, under its own user"):
    for pool, native in [("default", False), ("native", True)]:
        job = machine.succeed(f"ci-runner add --pool {pool} -- id -un").strip()
        machine.succeed(f"ci-runner wait --timeout 60s {job}", timeout=70)
        user = machine.succeed(f"ci-runner logs {job}").strip()
        assert user.startswith("ci-runner-job-native-") == native, (pool, user)
        assert user != "ci-runner", pool
    machine.succeed("ci-runner selftest", timeout=120)
    told = machine.succeed("cd /etc/systemd/system && systemd-analyze verify --man=no ci-runner* 2>&1")
    assert told.strip() == "", told
    machine.succeed("rm /etc/ci-runner/jobs.json /etc/ci-runner/policy.json && ci-runner doctor --repair >/dev/null || true")
    machine.succeed("grep -q ci-runner-job-native-1 /etc/ci-runner/jobs.json && test -s /etc/ci-runner/policy.json")

with subtest("a removal takes both, with their jobs by force"):
    for pool in ["default", "native"]:
        machine.succeed(f"ci-runner add --pool {pool} -- sleep 7777 >/dev/null")
    machine.wait_until_succeeds("test $(pgrep -cx sleep) -eq 2", timeout=30)
    told = machine.fail("ci-runner install --systemd --uninstall 2>&1", timeout=60)
    assert "2 jobs run" in told, told
    machine.succeed("ci-runner install --systemd --uninstall --force", timeout=60)
    machine.fail("pgrep -x 'sleep|ci-shim|ci-runner.*'")
    assert tree() == before
    assert machine.succeed(RUN_TREE).split() == [], machine.succeed(RUN_TREE)
