"""No program of a `core_pattern` that is a pipe gets the memory of our processes.

The kernel asks no limit before it starts that program, but takes a soft limit of 1 for "do not dump". That is looked at
here, with what the spawner's program really does; a core file proper is looked at in `e2e/cores.rs`. `core_pattern` is the
whole machine's, so this wants one of its own.

    tests/guest/run --system none --machine qemu --package tests/guest/cores.py
"""

# machine: qemu

import shlex

DUMPS = "/var/tmp/dumps"
HELPER = """
import os, signal, socket, subprocess
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
helper = subprocess.Popen(["/opt/ci/bin/ci-runner-spawner", "--unit-helper"], stdin=theirs)
ours.recv(64)
os.kill(helper.pid, signal.SIGABRT)
print(helper.wait())
"""


start_all()
machine.succeed(
    "printf '#!/bin/bash\\ncat >%s/$1\\n' " + DUMPS + " >/usr/local/bin/take; chmod 755 /usr/local/bin/take; "
    "echo '|/usr/local/bin/take %p' >/proc/sys/kernel/core_pattern"
)
dies = "sh -c 'kill -ABRT $$'"

with subtest("the control: the program gets what dies with a limit of 0"):
    for limit in ["unlimited", "0"]:
        machine.succeed(f"rm -rf {DUMPS} && mkdir {DUMPS}")
        machine.execute(f"prlimit --core={limit}:unlimited -- {dies}")
        machine.wait_until_succeeds(f"test -n \"$(ls {DUMPS})\"", timeout=30)

with subtest("a program of ours that dies is not handed over"):
    machine.succeed(f"rm -rf {DUMPS} && mkdir {DUMPS}")
    ended = machine.succeed(f"prlimit --core=unlimited:unlimited -- python3 -c {shlex.quote(HELPER)}").strip()
    t.assertEqual(ended, "-6")
    # One that dies after it is handed over, so that whatever came before is there too.
    machine.execute(f"prlimit --core=unlimited:unlimited -- {dies}")
    machine.wait_until_succeeds(f"test -n \"$(ls {DUMPS})\"", timeout=30)
    t.assertEqual(len(machine.succeed(f"ls {DUMPS}").split()), 1)
