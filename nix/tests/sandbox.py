"""What a hostile job can reach: of the job beside it, of the runner, of the host. One suite of probes, run as a job under every
profile and as a native job, where both jobs are one user: there the same probes reach their neighbour, which shows that they can.

Written against the `machine` of the NixOS test driver. EXPECTED is the table of docs/security.md, which a check compares.
"""

import json

# What a probe reaches ("yes") or not ("-").
EXPECTED = """
| probe | native | slots | open | build | strict |
|---|---|---|---|---|---|
| environment of the neighbour | yes | - | - | - | - |
| command line of the neighbour | yes | - | yes | - | - |
| memory of the neighbour | yes | - | - | - | - |
| ptrace of the neighbour | yes | - | - | - | - |
| signal to the neighbour | yes | - | - | - | - |
| /tmp of the neighbour | yes | yes | - | - | - |
| /tmp of the neighbour, through /proc | yes | - | - | - | - |
| /dev/shm of the neighbour | yes | yes | yes | - | - |
| workspace of the neighbour | yes | - | - | - | - |
| System V memory of the neighbour | yes | yes | yes | - | - |
| unix socket of the neighbour | yes | - | - | - | - |
| TCP port of the neighbour | yes | yes | yes | yes | - |
| key of the neighbour | - | - | - | - | - |
| API of the runner | yes | - | - | - | - |
| socket of the spawner | yes | - | - | - | - |
| database of the runner | yes | - | - | - | - |
| logs of other jobs | yes | - | - | - | - |
| attempts of other jobs | yes | - | - | - | - |
| health routes of the runner on TCP | yes | yes | yes | yes | - |
| start of a unit over D-Bus | - | - | - | - | - |
| system bus | yes | - | yes | - | - |
| notify socket of PID 1 | yes | yes | yes | - | - |
| socket of the journal | yes | yes | yes | - | - |
| own user namespace | yes | yes | yes | - | - |
| own mount namespace | - | - | - | - | - |
| mount | - | - | - | - | - |
| write below /etc | - | - | - | - | - |
| write below /usr | - | - | - | - | - |
| write to /proc/sys | - | - | - | - | - |
| make a cgroup | - | - | - | - | - |
| raw socket | - | - | - | - | - |
| packet socket | - | - | - | - | - |
| netlink socket | yes | yes | yes | yes | - |
| setuid file | yes | - | - | - | - |
| become root | - | - | - | - | - |
| device node | - | - | - | - | - |
| real-time scheduling | - | - | - | - | - |
| kernel log | - | - | - | - | - |
| ptrace of its own child | yes | yes | yes | yes | - |
| signal to PID 1 | - | - | - | - | - |
| homes of people | yes | - | yes | - | - |
"""

VICTIM = r"""
import ctypes, os, socket, time
libc = ctypes.CDLL(None, use_errno=True)
workspace = os.getcwd()
open("/tmp/victim-tmp", "w").write("secret of the victim")
open(workspace + "/victim-work", "w").write("secret of the victim")
open("/dev/shm/victim-shm", "w").write("secret of the victim")
shared = libc.shmget(0x5EC, 4096, 0o1666)
server = socket.socket(socket.AF_UNIX)
server.bind("/tmp/victim-socket")
server.listen()
try:
    tcp = socket.socket()
    tcp.bind(("127.0.0.1", 4711))
    tcp.listen()
except OSError:
    pass  # under strict there is no network
libc.syscall(248, b"user", b"victim-key", b"secret", 6, -4)
marker = b"needle in the memory of the victim"
print("ready", shared, flush=True)
time.sleep(600)
"""

ATTACKER = r"""
import ctypes, glob, os, signal, socket, struct, subprocess, sys
libc = ctypes.CDLL(None, use_errno=True)
V = int(os.environ["VICTIM_PID"])

def call(number, *words):
    result = libc.syscall(number, *words)
    if result < 0:
        raise OSError(ctypes.get_errno(), "refused")
    return result

def read(path):
    with open(path, "rb") as file:
        assert file.read(64)

def memory():
    for line in open(f"/proc/{V}/maps"):
        if "[heap]" in line:
            with open(f"/proc/{V}/mem", "rb") as file:
                file.seek(int(line.split("-")[0], 16))
                return file.read(16)
    raise OSError("no heap seen")

def connect(path, kind=socket.SOCK_STREAM):
    with socket.socket(socket.AF_UNIX, kind) as client:
        client.settimeout(3)
        client.connect(path)

def tcp(port):
    with socket.create_connection(("127.0.0.1", port), timeout=3):
        pass

def api():
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(3)
        client.connect("/run/ci-runner/api.sock")
        client.sendall(b"GET /api/v1/jobs HTTP/1.0\r\nHost: localhost\r\n\r\n")
        assert b" 200 " in client.recv(64)

def run(*words):
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=20)

def trace_child():
    pid = os.fork()
    if pid == 0:
        os._exit(0 if libc.ptrace(0, 0, None, None) == 0 else 1)
    assert os.waitpid(pid, 0)[1] == 0

def log_file():
    paths = [path for root in ("/var/log/ci-runner", "/var/lib/ci-runner/logs") for path in glob.glob(root + "/**", recursive=True)]
    return next(path for path in paths if path.endswith(".log"))

def notify():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.sendto(b"STATUS=spoofed", "/run/systemd/notify")

def journal():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.sendto(b"MESSAGE=spoofed\n", "/run/systemd/journal/socket")

def setuid_file():
    path = "/tmp/attacker-setuid"
    open(path, "w").close()
    os.chmod(path, 0o4755)
    assert os.stat(path).st_mode & 0o4000

def write(path):
    with open(path, "w") as file:
        file.write("0")

PROBES = {
    "environment of the neighbour": lambda: read(f"/proc/{V}/environ"),
    "command line of the neighbour": lambda: read(f"/proc/{V}/cmdline"),
    "memory of the neighbour": memory,
    "ptrace of the neighbour": lambda: call(101, 0x4206, V, 0, 0),
    "signal to the neighbour": lambda: os.kill(V, 0),
    "/tmp of the neighbour": lambda: read("/tmp/victim-tmp"),
    "/tmp of the neighbour, through /proc": lambda: read(f"/proc/{V}/root/tmp/victim-tmp"),
    "/dev/shm of the neighbour": lambda: read("/dev/shm/victim-shm"),
    "workspace of the neighbour": lambda: read(f"/proc/{V}/cwd/victim-work"),
    "System V memory of the neighbour": lambda: (_ for _ in ()).throw(OSError()) if libc.shmget(0x5EC, 0, 0) < 0 else 0,
    "unix socket of the neighbour": lambda: connect("/tmp/victim-socket"),
    "TCP port of the neighbour": lambda: tcp(4711),
    "key of the neighbour": lambda: call(250, 10, -4, b"user", b"victim-key", 0),
    "API of the runner": api,
    "socket of the spawner": lambda: connect(os.environ["SPAWNER"], socket.SOCK_SEQPACKET),
    "database of the runner": lambda: read("/var/lib/ci-runner/queue.db"),
    "logs of other jobs": lambda: read(log_file()),
    "attempts of other jobs": lambda: os.listdir(os.path.dirname(os.environ["SPAWNER"]) + "/attempts"),
    "health routes of the runner on TCP": lambda: tcp(8080),
    "start of a unit over D-Bus": lambda: run("systemd-run", "--wait", "true"),
    "system bus": lambda: connect("/run/dbus/system_bus_socket"),
    "notify socket of PID 1": notify,
    "socket of the journal": journal,
    "own user namespace": lambda: run("unshare", "-U", "true"),
    "own mount namespace": lambda: run("unshare", "-m", "true"),
    "mount": lambda: run("mount", "-t", "tmpfs", "none", "/mnt"),
    "write below /etc": lambda: write("/etc/attacker"),
    "write below /usr": lambda: write("/usr/attacker"),
    "write to /proc/sys": lambda: write("/proc/sys/kernel/hostname"),
    "make a cgroup": lambda: os.mkdir("/sys/fs/cgroup/attacker"),
    "raw socket": lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1),
    "packet socket": lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW),
    "netlink socket": lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW),
    "setuid file": setuid_file,
    "become root": lambda: os.setuid(0),
    "device node": lambda: os.mknod("/tmp/attacker-node", 0o20666, os.makedev(1, 3)),
    "real-time scheduling": lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1)),
    "kernel log": lambda: read("/dev/kmsg"),
    "ptrace of its own child": trace_child,
    "signal to PID 1": lambda: os.kill(1, 0),
    "homes of people": lambda: read("/home/ada/private"),
}
for name, probe in PROBES.items():
    try:
        probe()
        print("reached", name, flush=True)
    except BaseException as error:
        print("refused", name, "#", repr(error)[:80], flush=True)
print("done", flush=True)
"""


SPAWNERS = {"native": "/run/ci-runner/spawner/socket", "slots": "/run/ci-runner-jobs/socket"}
UNITS = "/run/ci-runner-spawner/socket"
# On the system of slots.nix: the same probes between the users of two slots.
SLOTS = "test -e /run/ci-runner-jobs/socket"


def quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"


def add(pool: str, program: str, options: str = "") -> str:
    return machine.succeed(f"ci-runner add --pool {pool} {options} -- python3 -c {quoted(program)}").strip()


def victim_pid(job: str, pool: str) -> str:
    machine.wait_until_succeeds(f"ci-runner logs {job} | grep ^ready", timeout=30)
    # Native: the first process of that name that sleeps; otherwise PID 1 knows.
    if pool in ("native", "slots"):
        return machine.succeed("pgrep -nf '^python3 .*victim-work'").strip()
    unit = machine.succeed(f"systemctl list-units --plain --no-legend 'ci-job-*-{job}-1.service' | cut -d' ' -f1").strip()
    return machine.get_unit_property(unit, "MainPID")


def reached(pool: str) -> dict[str, bool]:
    """Which probes reach their goal in a job of the pool, beside a victim in the same pool."""
    victim = add(PLACES.get(pool, pool), VICTIM)
    pid = victim_pid(victim, pool)
    attacker = add(PLACES.get(pool, pool), ATTACKER, f"--env VICTIM_PID={pid} --env SPAWNER={SPAWNERS.get(pool, UNITS)}")
    machine.execute(f"ci-runner wait {attacker} --timeout 120s", timeout=130)
    log = machine.succeed(f"ci-runner logs {attacker}")
    shown = json.loads(machine.succeed(f"ci-runner show {victim} --output json"))
    machine.succeed(f"ci-runner cancel {victim}", timeout=30)
    machine.execute(f"ci-runner wait {victim} --timeout 30s", timeout=40)
    # What a job may leave behind outside of its own directories, the next victim would stumble over.
    machine.succeed("rm -f /dev/shm/victim-shm /tmp/victim-* /tmp/attacker-*; ipcrm -M 0x5EC || true")
    assert log.endswith("done\n"), log
    assert shown["state"] == "running", "the victim did not survive"
    lines = [line.partition(" ") for line in log.splitlines() if line != "done"]
    return {name.partition(" # ")[0].rstrip(): word == "reached" for word, _, name in lines}


machine.wait_for_unit("ci-runner.service", timeout=120)
machine.succeed("mkdir -p /home/ada && echo private >/home/ada/private && chmod 755 /home /home/ada")
ALL = ["native", "slots", "open", "build", "strict"]
PLACES = {"slots": "small"}
machine.wait_until_succeeds("ci-runner status", timeout=30)
POOLS = ["slots"] if machine.execute(SLOTS)[0] == 0 else [pool for pool in ALL if pool != "slots"]
found = {pool: reached(pool) for pool in POOLS}
words = {True: "yes", False: "-", None: "?"}
rows = [f"| {name} | {' | '.join(words[found.get(pool, {}).get(name)] for pool in ALL)} |" for name in found[POOLS[0]]]
table = "\n".join(EXPECTED.strip().splitlines()[:2] + rows)
machine.log(table)

for pool in POOLS:
    with subtest(f"what a hostile job reaches: {pool}"):
        column = ALL.index(pool) + 1
        for line, want in zip(table.splitlines(), EXPECTED.strip().splitlines()):
            assert line.split("|")[column + 1] == want.split("|")[column + 1], (line, want)
        assert len(table.splitlines()) == len(EXPECTED.strip().splitlines()), table
