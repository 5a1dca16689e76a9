"""What the guests' `machine` does, checked on a guest without ci-runner: run --system none [--machine qemu].

Runs like the scripts of nix/tests, of which each relies on some of this.
"""

import shlex
import tempfile
import time
from pathlib import Path

with subtest("commands: status, output, and the shell's strictness"):
    t.assertEqual(machine.execute("echo out; echo err >&2; exit 7"), (7, "out\n"))
    t.assertEqual(machine.execute("false; echo not reached")[0], 1)
    t.assertEqual(machine.execute("false | true")[0], 1)
    t.assertEqual(machine.succeed("printf a", "printf b"), "ab")
    t.assertEqual(machine.succeed("printf '%s' 'it'\\''s \"$HOME\"'"), "it's \"$HOME\"")
    t.assertIn("x" * 100_000, machine.succeed("printf '%s' " + "x" * 100_000))
    machine.fail("exit 3")

with subtest("a failure says what the command said"):
    try:
        machine.succeed("echo the-reason >&2; exit 9")
    except Exception as error:
        t.assertIn("exit code 9", str(error))
        t.assertIn("the-reason", str(error))
    else:
        raise Exception("it succeeded")
    with t.assertRaises(Exception):
        machine.fail("true")
    with t.assertRaises(Exception):
        machine.wait_until_succeeds("false", timeout=1)
    with t.assertRaises(Exception):
        machine.wait_for_unit("no-such-unit.service", timeout=20)

with subtest("a command that takes too long is ended"):
    began = time.monotonic()
    t.assertNotEqual(machine.execute("sleep 60", timeout=1)[0], 0)
    t.assertLess(time.monotonic() - began, 20 * machine.time_scale)

with subtest("what a command leaves running goes on"):
    process = machine.succeed("sleep 1000 >/dev/null 2>&1 & echo $!").strip()
    machine.succeed(f"kill -0 {process}")
    machine.succeed("sleep 1000 & true")  # holds the output open, which keeps nobody waiting

with subtest("a command has the guest's rights and sees the guest only"):
    t.assertEqual(machine.succeed("cat /proc/1/comm").strip(), "systemd")
    if machine.kind == "nspawn":
        machine.fail("date -s '2030-01-01'")
    else:
        before = time.time()
        machine.succeed("date -s '2030-01-01'; test $(date +%Y) = 2030; test $(cat /proc/self/oom_score_adj) = 0")
        t.assertLess(time.time() - before, 3600, "the host's clock is its own")

with subtest("units"):
    machine.wait_for_unit("multi-user.target", timeout=60)
    machine.require_unit_state("dbus.service")
    t.assertEqual(machine.get_unit_property("dbus.service", "ActiveState"), "active")
    t.assertEqual(machine.get_unit_info("dbus.service")["Id"], "dbus.service")
    machine.stop_job("systemd-tmpfiles-clean.timer")
    machine.require_unit_state("systemd-tmpfiles-clean.timer", "inactive")
    machine.start_job("systemd-tmpfiles-clean.timer")
    t.assertEqual(machine.systemctl("is-active systemd-tmpfiles-clean.timer"), (0, "active\n"))

with subtest("files, ports and sockets"):
    machine.execute("(sleep 0.3; touch /tmp/there) >/dev/null 2>&1 &")
    machine.wait_for_file("/tmp/there", timeout=20)
    for unit, listen in [("port", "127.0.0.1:7777"), ("socket", "/run/test.sock")]:
        machine.succeed(
            f"systemd-run --quiet --unit=test-{unit} --socket-property=ListenStream={listen} sleep 1"
        )
    machine.wait_for_open_port(7777, timeout=20)
    machine.wait_for_open_unix_socket("/run/test.sock", timeout=20)
    machine.succeed("systemctl stop test-port.socket")
    machine.wait_for_closed_port(7777, timeout=20)

with subtest("copies in both directions"):
    with tempfile.TemporaryDirectory() as place:
        data = bytes(range(256)) * 1000
        (Path(place) / "file").write_bytes(data)
        machine.copy_from_host(f"{place}/file", "/root/new/place")
        t.assertEqual(machine.succeed("stat -c %s /root/new/place").strip(), str(len(data)))
        machine.copy_from_host(place, "/root/tree")
        machine.succeed("cmp /root/tree/file /root/new/place")
        machine.copy_from_machine("/root/tree", place)
        t.assertEqual((Path(place) / "tree" / "file").read_bytes(), data)

if machine.kind == "qemu":
    with subtest("the kernel's limits are limits"):
        script = 'b"x" * 100_000_000'
        machine.fail(f"systemd-run --wait --quiet --unit=eats -p MemoryMax=20M python3 -c {shlex.quote(script)}")
        machine.succeed(f"systemd-run --wait --quiet python3 -c {shlex.quote(script)}")
        t.assertIn("oom-kill", machine.succeed("journalctl -u eats.service"))

with subtest("files outlive shutdown, crash and reboot"):
    boots = {machine.succeed("cat /proc/sys/kernel/random/boot_id")}
    machine.succeed("echo kept >/var/kept")
    machine.shutdown()
    t.assertFalse(machine.is_up())
    machine.start()
    machine.succeed("sync; echo unsynced >/var/unsynced")
    machine.crash()
    t.assertFalse(machine.is_up())
    machine.start()
    if machine.kind == "qemu":
        machine.succeed("test ! -s /var/unsynced")  # a power cut
    t.assertEqual(machine.succeed("cat /var/kept"), "kept\n")
    boots.add(machine.succeed("cat /proc/sys/kernel/random/boot_id"))
    machine.reboot()
    t.assertEqual(machine.succeed("cat /var/kept"), "kept\n")
    boots.add(machine.succeed("cat /proc/sys/kernel/random/boot_id"))
    t.assertEqual(len(boots), 3, "a boot id each")
    machine.execute("systemctl poweroff", check_return=False)
    machine.wait_for_shutdown()
    start_all()
    t.assertTrue(machine.is_up())
