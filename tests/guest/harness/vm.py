"""One QEMU process: its command line, the port to the agent in it, and its snapshot.

It never outlives the run: it dies with the thread that started it, and stands in the guest's
cgroup, which the janitor ends.
"""

import json
import os
import secrets
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from . import cgroup, libc
from .shell import ShellGone
from .unavailable import Unavailable

MEMORY = "1G"
PROCESSORS = 2
# The size is part of the snapshot; the file has holes.
PAYLOAD_BYTES = 512 << 20
START_TIMEOUT_SECONDS = 20
BOOTS_MAX = 3
# A boot on a host whose processors have other work too; an idle one needs eight.
READY_TIMEOUT_SECONDS = 240
KVM_TRIAL_SECONDS = 10
# Under TCG an instruction costs many; so does a test's bound.
TIME_SCALE = {"tcg": 10, "kvm": 1}


@dataclass(frozen=True)
class Image:
    """What a guest starts from; image.py makes it."""

    directory: Path
    accelerator: str

    @property
    def kernel(self) -> Path:
        return self.directory / "vmlinuz"

    @property
    def initrd(self) -> Path:
        return self.directory / "initrd"

    @property
    def ready(self) -> Path:
        return self.directory / "ready.qcow2"


def command(image: Image, place: Path, disk: Path, payload: Path) -> list[str]:
    """The machine. A snapshot fits as long as nothing but the paths differs."""
    processor = {"tcg": ["-accel", "tcg,thread=multi", "-cpu", "max"], "kvm": ["-accel", "kvm", "-cpu", "host"]}
    kernel_words = (
        "quiet loglevel=3 console=ttyS0 panic=-1 mitigations=off audit=0 systemd.show_status=0"
        " random.trust_cpu=on cryptomgr.notests tsc=reliable no_timer_check selinux=0 apparmor=0"
    )
    return [
        "qemu-system-x86_64",
        *("-nodefaults", "-display", "none", "-no-reboot", "-machine", "q35"),
        *processor[image.accelerator],
        *("-smp", str(PROCESSORS), "-m", MEMORY),
        *("-kernel", str(image.kernel), "-initrd", str(image.initrd), "-append", kernel_words),
        # Before the disks, so that the port is vport0p1.
        *("-device", "virtio-serial-pci", "-chardev", f"socket,id=agent,path={place}/agent,server=on,wait=off"),
        *("-device", "virtserialport,chardev=agent,nr=1"),
        *("-drive", f"if=none,id=root,file={disk},format=qcow2,cache=writeback"),
        *("-device", "virtio-blk-pci,drive=root"),
        *("-drive", f"if=none,id=payload,file={payload},format=raw,readonly=on"),
        *("-device", "virtio-blk-pci,drive=payload"),
        *("-chardev", f"file,id=console,path={place}/console,append=on", "-serial", "chardev:console", "-qmp", f"unix:{place}/qmp,server=on,wait=off"),
    ]


def accelerator(kernel: Path) -> str:
    """`kvm` where a kernel really runs with it: /dev/kvm alone says little."""
    with open("/proc/cpuinfo") as file:
        flags = next((line.split() for line in file if line.startswith("flags")), [])
    if not os.access("/dev/kvm", os.R_OK | os.W_OK) or not {"vmx", "svm"} & set(flags):
        return "tcg"
    trial = [
        *("qemu-system-x86_64", "-nodefaults", "-display", "none", "-machine", "q35", "-accel", "kvm"),
        *("-cpu", "host", "-m", "256M", "-no-reboot", "-kernel", str(kernel), "-append", "quiet panic=-1"),
    ]
    try:
        # Without a root the kernel panics, which ends QEMU.
        ended = subprocess.run(trial, stdin=subprocess.DEVNULL, capture_output=True, timeout=KVM_TRIAL_SECONDS)
        return "kvm" if ended.returncode == 0 else "tcg"
    except subprocess.TimeoutExpired:
        return "tcg"


class Process:
    """A running machine, with the agent's port open."""

    def __init__(self, name: str, words: list[str], place: Path) -> None:
        self._name = name
        self._place = place
        for left in ("agent", "qmp"):
            (place / left).unlink(missing_ok=True)
        cgroup.kill(name)
        cgroup.remove(name)
        groups = cgroup.create(name)

        def prepare() -> None:
            cgroup.enter(groups)
            libc.die_with_parent(signal.SIGKILL)

        with open(place / "qemu.log", "ab") as log:
            self._process = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=prepare
            )
        self._agent = self._connect("agent")

    def _connect(self, name: str) -> socket.socket:
        deadline = time.monotonic() + START_TIMEOUT_SECONDS
        stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        while True:
            try:
                stream.connect(str(self._place / name))
                return stream
            except OSError as error:
                if not self.is_running() or time.monotonic() > deadline:
                    stream.close()
                    raise Unavailable(f"QEMU does not start: {self.last_words() or error}") from None
                time.sleep(0.02)

    def is_running(self) -> bool:
        return self._process.poll() is None

    def wait(self, timeout: float) -> None:
        """Waits for its end and removes what is left of it."""
        self._process.wait(timeout)
        self._agent.close()
        cgroup.kill(self._name)
        cgroup.remove(self._name)

    def kill(self) -> None:
        """The machine loses its power."""
        self._process.kill()
        self.wait(START_TIMEOUT_SECONDS)

    def last_words(self) -> str:
        """What QEMU and the guest's console said in the end, in one line."""
        said = []
        for name in ("qemu.log", "console"):
            path = self._place / name
            text = path.read_text(errors="replace") if path.exists() else ""
            said += text.strip().splitlines()[-3:]
        return "; ".join(said)

    # The agent

    def ask(self, script: str, data: bytes, wait: float, timeout: int = 0) -> tuple[int, bytes, bytes]:
        """Runs `script` in the guest with `data` as its input; status, output, and the end of its errors.

        The guest ends it after `timeout` seconds (0: never); we wait for an answer for `wait` seconds.
        """
        number = secrets.token_hex(8)
        head = json.dumps({"id": number, "script": script, "timeout": timeout, "input": len(data)})
        deadline = time.monotonic() + wait
        try:
            self._agent.settimeout(wait)
            self._agent.sendall(head.encode() + b"\n" + data)
            received = bytearray()
            while True:
                answer = json.loads(self._line(received, deadline))
                output = self._piece(received, answer["output"], deadline)
                errors = self._piece(received, answer["errors"], deadline)
                if answer["id"] == number:  # else: the answer to somebody who gave up
                    return answer["status"], output, errors
        except OSError as error:
            raise ShellGone(f"the guest does not answer: {error}") from error

    def _more(self, received: bytearray, deadline: float) -> None:
        self._agent.settimeout(max(0.001, deadline - time.monotonic()))
        chunk = self._agent.recv(1 << 16)
        if not chunk:
            raise ShellGone("the guest ended during a command")
        received += chunk

    def _line(self, received: bytearray, deadline: float) -> bytes:
        while b"\n" not in received:
            self._more(received, deadline)
        line, _, rest = bytes(received).partition(b"\n")
        received[:] = rest
        return line

    def _piece(self, received: bytearray, size: int, deadline: float) -> bytes:
        while len(received) < size:
            self._more(received, deadline)
        piece = bytes(received[:size])
        del received[:size]
        return piece

    def wait_until_booted(self) -> None:
        """Until PID 1 has nothing left to start."""
        script = "systemctl is-system-running --wait || systemctl --failed --plain --no-legend"
        try:
            _, output, _ = self.ask(script, b"", READY_TIMEOUT_SECONDS)
        except ShellGone as error:
            raise Unavailable(f"the guest does not boot: {error}; {self.last_words()}") from None
        if output.split() != [b"running"]:
            raise Unavailable(f"the guest is {output.decode().strip()}")

    # QMP

    def monitor(self, line: str) -> None:
        """A command of QEMU's human monitor."""
        with self._connect("qmp") as stream, stream.makefile("rw") as file:
            stream.settimeout(READY_TIMEOUT_SECONDS)
            for request in [
                {"execute": "qmp_capabilities"},
                {"execute": "human-monitor-command", "arguments": {"command-line": line}},
            ]:
                file.write(json.dumps(request) + "\n")
                file.flush()
                answer: dict[str, object] = {}
                while "return" not in answer and "error" not in answer:  # events and the greeting come between
                    answer = json.loads(file.readline())
                if answer.get("return") not in ({}, ""):
                    raise Unavailable(f"QEMU: {line}: {answer}")


def boot(name: str, words: list[str], place: Path) -> Process:
    """Starts a machine from its disk, until PID 1 has nothing left to start.

    QEMU's interpreter now and then lets a kernel panic in its first seconds, long before it has a disk to
    change: that is told and tried again. A panic of a machine that runs is not.
    """
    console = place / "console"
    for attempt in range(1, BOOTS_MAX + 1):
        before = console.stat().st_size if console.exists() else 0
        machine = Process(name, words, place)
        try:
            machine.wait_until_booted()
            return machine
        except Unavailable as error:
            machine.kill()
            said = console.read_bytes() if console.exists() else b""
            said = said[before:] if len(said) >= before else said  # QEMU may begin the file anew
            if b"Kernel panic" not in said or attempt == BOOTS_MAX:
                raise
            print(f"{name}: boot {attempt} of at most {BOOTS_MAX} ended in a panic of the kernel: {error}", flush=True)
    raise AssertionError("a boot either succeeds or fails")


def make_snapshot(name: str, image: Image, scratch: Path) -> None:
    """Boots the image's disk and keeps the whole machine in it as the snapshot `ready`."""
    payload = scratch / "payload.img"
    with open(payload, "wb") as file:
        file.truncate(PAYLOAD_BYTES)
    machine = boot(name, command(image, scratch, image.ready, payload), scratch)
    try:
        machine.ask("systemctl daemon-reload; sync", b"", READY_TIMEOUT_SECONDS)
        machine.monitor("savevm ready")
    finally:
        machine.kill()
