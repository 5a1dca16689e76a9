"""A native slot's keyrings: no job of a user reads what an earlier one left there, none can use up what the next one needs.

The kernel keeps a user's keyrings after its last process, and no guest of systemd-nspawn may have any: this wants a machine.

    tests/guest/run --system slots tests/guest/keyrings.py
"""

# machine: qemu

import base64
import json

KEYS = r"""
import ctypes, errno, os, sys

libc = ctypes.CDLL(None, use_errno=True)
ADD_KEY, KEYCTL = 248, 250
SEARCH, READ, LINK, GET_PERSISTENT = 10, 11, 8, 22
PROCESS, SESSION, USER = -2, -3, -4

def call(*words):
    result = libc.syscall(*words)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result

def read(ring, name):
    if isinstance(ring, str):
        return ring
    buffer = ctypes.create_string_buffer(64)
    length = call(KEYCTL, READ, call(KEYCTL, SEARCH, ring, b"user", name, PROCESS), buffer, 64)
    return buffer.raw[:length].decode()

def tried(what, *words):
    try:
        return what(*words)
    except OSError as error:
        return errno.errorcode[error.errno]

def leave():
    call(ADD_KEY, b"user", b"left", b"secret-of-A", 11, USER)
    # Its process keyring goes with it, and would leave room for one key.
    if os.fork() == 0:
        call(ADD_KEY, b"user", b"kept", b"secret-of-A", 11, call(KEYCTL, GET_PERSISTENT, -1, PROCESS))
        os._exit(0)
    assert os.wait()[1] == 0
    # So that its session keyring stays, too.
    tried(call, KEYCTL, LINK, SESSION, USER)
    for number in range(10000):
        call(ADD_KEY, b"user", b"fill-%d" % number, b"x", 1, USER)

def find():
    return [tried(read, USER, b"left"), tried(read, tried(call, KEYCTL, GET_PERSISTENT, -1, PROCESS), b"kept")]

print(tried({"leave": leave, "find": find}[sys.argv[1]]))
"""
DROP_IN = "/run/systemd/system/ci-runner-jobs.service.d/keyrings.conf"


def job(what: str) -> str:
    job = machine.succeed(f"ci-runner add --pool small -- python3 /srv/keys.py {what}").strip()
    machine.succeed(f"ci-runner wait {job} --timeout 30s || true", timeout=40)
    shown = json.loads(machine.succeed(f"ci-runner show {job} --output json"))
    assert shown["outcome"] == "succeeded", shown
    return machine.succeed(f"ci-runner logs {job}").splitlines()[0]


machine.start()
machine.wait_for_unit("ci-runner-jobs.service")
machine.wait_for_unit("ci-runner.service")
encoded = base64.b64encode(KEYS.encode()).decode()
machine.succeed(f"echo {encoded} | base64 -d >/srv/keys.py; chmod 755 /srv; chmod 644 /srv/keys.py")

with subtest("as it is installed, a job finds a kernel without keyrings"):
    found = [job("leave"), job("find")]
    assert found == ["ENOSYS", "['ENOSYS', 'ENOSYS']"], found

with subtest("the control: where they are allowed, a user has keys after its last process"):
    machine.succeed(f"mkdir -p $(dirname {DROP_IN}); printf '[Service]\\nSystemCallFilter=\\n' >{DROP_IN}; systemctl daemon-reload; systemctl restart ci-runner-jobs")
    found = machine.succeed("cd /; run='setpriv --reuid=65534 --clear-groups python3 /srv/keys.py'; $run leave; $run find").split("\n", 1)
    assert found[0] == "EDQUOT" and "secret-of-A" in found[1], found

with subtest("where they are allowed, jobs of a slot leave each other nothing and have their quota"):
    for _ in range(3):
        found = [job("leave"), job("find")]
        assert found == ["EDQUOT", "['ENOKEY', 'ENOKEY']"], found

with subtest("a start that finds no key to be had is tried again, and no job's fault"):
    # The quota of root, who makes a job's session keyring.
    limit = "/proc/sys/kernel/keys/root_maxkeys"
    before = machine.succeed(f"cat {limit}").strip()
    machine.succeed(f"echo 1 >{limit}")
    waits = machine.succeed("ci-runner add --pool small -- true").strip()
    machine.wait_until_succeeds("journalctl -u ci-runner -o cat | grep -q 'Disk quota exceeded'", timeout=30)
    machine.succeed(f"echo {before} >{limit}; ci-runner wait {waits} --timeout 60s", timeout=70)
    shown = json.loads(machine.succeed(f"ci-runner show {waits} --output json"))
    assert shown["outcome"] == "succeeded", shown
