"""The executor `systemd` when somebody empties its spawner's directory, starts a second spawner, moves its slice, or sends it
what nobody asked for over the bus.

    tests/guest/run --system systemd tests/guest/systemd_faults.py

Written against the `machine` of the NixOS test driver, on the system of nix/tests/systemd.nix.
"""

import json
from typing import Any

DIR = "/run/ci-runner-spawner"
SPAWNER = "ci-runner-spawner.service"
POLICY = "/etc/ci-runner/policy.json"
GO = "/srv/go"
# Stays until GO is there; what it then says is read by its shim alone.
WAITER = f"echo start; while [ ! -e {GO} ]; do sleep 0.1; done; echo end; exit $1"


# Messages to the connection NAME itself, by the bus' own rules: a signal in the other byte order, and three of 15 MB.
RAW = r"""
use strict; use IO::Socket::UNIX;
my $name = shift;
my $bus = IO::Socket::UNIX->new(Peer => "/run/dbus/system_bus_socket") or die $!;
$bus->autoflush(1);
print $bus "\0AUTH EXTERNAL " . unpack("H*", "$>") . "\r\n";
my $answer = <$bus>; die $answer unless $answer =~ /^OK/;
print $bus "BEGIN\r\n";
sub message {
    my ($order, $kind, $body, @fields) = @_;
    my $number = $order eq "B" ? "N" : "V";
    my $head = "";
    for (@fields) {
        my ($code, $type, $text) = @$_;
        $head .= "\0" x (-length($head) % 8) . pack("CCa1x", $code, 1, $type);
        $head .= pack($type eq "g" ? "Ca*x" : $number . "a*x", length $text, $text);
    }
    my $message = pack("a1CCC$number$number$number", $order, $kind, 0, 1, length $body, 7, length $head) . $head;
    return $message . "\0" x (-length($message) % 8) . $body;
}
my @bus = ([1, "o", "/org/freedesktop/DBus"], [2, "s", "org.freedesktop.DBus"], [6, "s", "org.freedesktop.DBus"]);
my @signal = ([1, "o", "/org/freedesktop/DBus"], [2, "s", "org.freedesktop.DBus"], [3, "s", "NameOwnerChanged"], [6, "s", $name]);
print $bus message("l", 1, "", @bus, [3, "s", "Hello"]);
print $bus message("B", 4, pack("Na*x", 3, "abc"), @signal, [8, "g", "s"]);
my $long = 15_000_000;
print $bus message("l", 4, pack("V", $long) . "\0" x $long, @signal, [8, "g", "ay"]) for 1 .. 3;
# Its answer comes after the bus has handed all of that on.
print $bus message("l", 1, "", @bus, [3, "s", "GetId"]);
my $come = "";
while ($come !~ /[0-9a-f]{32}/) { sysread($bus, $come, 4096, length $come) or die "the bus sent us away: $come"; }
"""


def shell(text: str, *words: str, options: str = "") -> str:
    rest = " ".join(words)
    return machine.succeed(f"ci-runner add --pool default {options} -- sh -c '{text}' job {rest}").strip()


def show(job: str) -> dict[str, Any]:
    return json.loads(machine.succeed(f"ci-runner show {job} --output json"))


def finished(job: str, seconds: int = 60) -> dict[str, Any]:
    machine.execute(f"ci-runner wait {job} --timeout {seconds}s", timeout=seconds + 10)
    shown = show(job)
    assert shown["state"] == "finished", shown
    return shown


def exited(job: str, code: int, log: str) -> None:
    shown = finished(job)
    results = [(attempt["result"], attempt["exit_code"]) for attempt in shown["attempts"]]
    assert results == [("exited", code)], shown
    assert machine.succeed(f"ci-runner logs {job}") == log, machine.succeed(f"ci-runner logs {job}")


def running(job: str) -> None:
    machine.wait_until_succeeds(f"ci-runner show {job} --output json | grep -q '\"state\":\"running\"'", timeout=20)
    machine.wait_until_succeeds(f"ci-runner logs {job} | grep -q start", timeout=20)


def unit_of(job: str) -> str:
    return machine.succeed(f"systemctl list-units --plain --no-legend 'ci-job-*-{job}-*.service' | cut -d' ' -f1").strip()


def pid(unit: str = SPAWNER) -> str:
    return machine.get_unit_property(unit, "MainPID")


def nothing_is_left() -> None:
    machine.wait_until_succeeds("test -z \"$(systemctl list-units --all --plain --no-legend 'ci-job-*')\"", timeout=30)
    machine.wait_until_fails("pgrep -x ci-shim", timeout=30)


def another(before: str) -> None:
    """The spawner made its directory anew, by itself."""
    machine.wait_until_succeeds(
        f"pid=$(systemctl show -P MainPID {SPAWNER}); test $pid != 0 && test $pid != {before} && test -S {DIR}/socket", timeout=60
    )


machine.start()
for unit in [SPAWNER, "ci-runner.service"]:
    machine.wait_for_unit(unit)

with subtest("what anybody sends to the spawner's connection changes nothing"):
    machine.succeed(f"rm -f {GO}")
    job = shell(WAITER, "6")
    running(job)
    before = pid()
    named = f"busctl list --unique --no-legend --no-pager | awk '$2 == {before} {{print $1}}'"
    name = machine.succeed(named).strip()
    assert name.startswith(":"), name
    machine.succeed(
        f"runuser -u nobody -- busctl emit --destination={name} /org/freedesktop/DBus org.freedesktop.DBus NameOwnerChanged"
        " sss org.freedesktop.systemd1 :1.0 ''"
    )
    machine.succeed(f"cat >/srv/raw.pl <<'END'\n{RAW}END")
    machine.succeed(f"runuser -u nobody -- perl /srv/raw.pl {name}", timeout=60)
    exited(shell("exit 4"), 4, "")
    machine.succeed(f"touch {GO}")
    exited(job, 6, "start\nend\n")
    assert (pid(), machine.succeed(named).strip()) == (before, name)
    machine.fail(f"journalctl -u {SPAWNER} -o cat | grep 'PID 1 cannot be asked'")
    most = machine.succeed(f"awk '/^VmHWM/ {{print $2}}' /proc/{before}/status").strip()
    assert int(most) < 100_000, f"{most} kB"

with subtest("a new PID 1 is found, and jobs start again"):
    machine.succeed("systemctl daemon-reexec", timeout=60)
    exited(shell("exit 5"), 5, "")

with subtest("a bus that answers nothing for half a minute loses nothing, and what it does late runs nothing twice"):
    machine.succeed(f"rm -f {GO}")
    runs = shell(WAITER, "7")
    running(runs)
    machine.succeed("kill -STOP $(pgrep -x dbus-daemon)")
    asked, unwanted = shell("echo once; exit 3"), shell("echo never")
    machine.wait_until_succeeds(f"test 2 = $(grep -l . {DIR}/attempts/*-{asked}-1/lock {DIR}/attempts/*-{unwanted}-1/lock | wc -l)", timeout=20)
    machine.execute(f"ci-runner cancel {unwanted}")
    machine.succeed(f"touch {GO}")
    shown = finished(unwanted)
    assert [attempt["result"] for attempt in shown["attempts"]] == ["released"], shown
    # Both starts still wait in the bus, and the second start of one of them comes behind.
    machine.succeed("kill -CONT $(pgrep -x dbus-daemon)")
    exited(runs, 7, "start\nend\n")
    exited(asked, 3, "once\n")
    nothing_is_left()

with subtest("a spawner whose directory was emptied, with no job, makes it anew"):
    before = pid()
    machine.succeed(f"rm -rf {DIR}/*")
    another(before)
    exited(shell("exit 3"), 3, "")

for what in [f"{DIR}/*", f"{DIR}/attempts/*", DIR]:
    with subtest(f"jobs that run when {what} is removed keep their results and their output"):
        machine.succeed(f"rm -f {GO}")
        before = pid()
        jobs = [shell(WAITER, str(code)) for code in (0, 7)]
        for job in jobs:
            running(job)
        machine.succeed(f"rm -rf {what}")
        machine.succeed(f"touch {GO}")
        for job, code in zip(jobs, (0, 7)):
            exited(job, code, "start\nend\n")
        # Within the time that it takes to see it, and then at once.
        exited(shell("echo later; exit 1"), 1, "later\n")
        if what != f"{DIR}/attempts/*":
            another(before)
        nothing_is_left()

with subtest("shims whose directory and spawner are gone end with their jobs"):
    machine.succeed(f"rm -f {GO}")
    job = shell(WAITER, "0")
    running(job)
    machine.succeed(f"systemctl stop {SPAWNER} && rm -rf {DIR}/*")
    machine.succeed(f"touch {GO}")
    machine.wait_until_fails("pgrep -x ci-shim", timeout=30)
    machine.succeed(f"systemctl start {SPAWNER}")
    shown = finished(job)
    assert [attempt["result"] for attempt in shown["attempts"]] == ["lost"], shown
    nothing_is_left()

with subtest("a second spawner leaves the first one's units alone"):
    machine.succeed(f"rm -f {GO}")
    job = shell(WAITER, "5")
    running(job)
    unit = unit_of(job)
    policy = json.loads("\n".join(line for line in machine.succeed(f"cat {POLICY}").splitlines() if not line.startswith("#")))
    for name, slice_name in [("one", "other.slice"), ("two", "ci_jobs.slice")]:
        second = {**policy, "dir": f"/run/ci-{name}", "slice": slice_name}
        machine.succeed(f"cat >/srv/{name}.json <<'END'\n{json.dumps(second)}\nEND")
        machine.succeed(
            f"systemd-run --unit=second-{name} -p Type=notify -p KillMode=process /opt/ci/bin/ci-runner-spawner --policy /srv/{name}.json"
        )
        # It looks at once when it has PID 1; one more round trip of both is after that.
        machine.wait_until_succeeds(f"journalctl -u second-{name} -o cat | grep -q started", timeout=20)
        machine.succeed("sleep 2")
        assert machine.get_unit_property(unit, "ActiveState") == "active", machine.succeed(f"systemctl status {unit} || true")
    # One that ended, and whose result its spawner has not read yet.
    machine.succeed(f"kill -STOP {pid()}; touch {GO}")
    machine.wait_until_fails("pgrep -f 'while \\[ ! -e'", timeout=20)
    machine.succeed("systemctl restart second-two; sleep 2")
    machine.succeed(f"kill -CONT {pid()}")
    exited(job, 5, "start\nend\n")
    machine.succeed("systemctl stop second-one second-two; rm -rf /run/ci-one /run/ci-two")
    nothing_is_left()

with subtest("a job that runs in the slice of an earlier policy is ended before it is called lost"):
    machine.succeed(f"rm -f {GO}")
    job = shell("trap \"\" TERM; echo start; while :; do sleep 1; done", options="--retry 0")
    running(job)
    unit = unit_of(job)
    machine.succeed(f"systemctl stop {SPAWNER}; pkill -KILL -x ci-shim")
    text = machine.succeed(f"cat {POLICY}")
    moved = text.replace('{"group"', '{"slice":"moved.slice","group"')
    assert moved != text
    machine.succeed(f"cp -P {POLICY} /srv/policy.kept; rm {POLICY}; cat >{POLICY} <<'END'\n{moved}\nEND")
    machine.succeed(f"systemctl start {SPAWNER}")
    shown = finished(job)
    assert [attempt["result"] for attempt in shown["attempts"]] == ["lost"], shown
    machine.fail("pgrep -f '[w]hile :; do'")
    machine.succeed(f"rm {POLICY}; mv /srv/policy.kept {POLICY}; systemctl restart {SPAWNER}")
    nothing_is_left()
    exited(shell("exit 0"), 0, "")
