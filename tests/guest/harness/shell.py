"""Runs shell commands in a guest.

A socket unit in the guest starts one bash for each connection. So a command has the guest's rights
and never the host's, needs nothing of the guest but PID 1, and costs a few milliseconds.
"""

import secrets
import shlex
import socket
from dataclasses import dataclass
from pathlib import Path

SOCKET = "run/guest-shell.sock"

# One word of a command line; the kernel takes no longer one.
COMMAND_BYTES_MAX = 131_071
# Given to bash to end after `timeout` has ended the command.
GRACE_SECONDS = 30

UNITS = {
    "guest-shell.socket": """[Unit]
Description=Commands of the test scripts
[Socket]
ListenStream=/run/guest-shell.sock
SocketMode=0600
Accept=yes
MaxConnections=1024
TriggerLimitIntervalSec=0
[Install]
WantedBy=sockets.target
""",
    # What a command leaves running goes on, as it does in the NixOS driver.
    "guest-shell@.service": """[Unit]
Description=A command of the test scripts
CollectMode=inactive-or-failed
[Service]
ExecStart=-/bin/bash -s
StandardInput=socket
StandardOutput=socket
StandardError=journal
LogLevelMax=notice
KillMode=process
Environment=HOME=/root USER=root PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin
WorkingDirectory=/root
""",
}


class ShellGone(Exception):
    """The guest ended, or does not answer."""


@dataclass(frozen=True)
class Result:
    status: int
    output: str
    errors: str


def run(leader: int, command: str, timeout: int) -> Result:
    """Runs `command` with bash. Status 124: it took more than `timeout` seconds."""
    script = f"set -euo pipefail; {command}"
    if len(script.encode()) > COMMAND_BYTES_MAX:
        raise ValueError(f"a command of more than {COMMAND_BYTES_MAX} bytes: use copy_from_host")
    end = secrets.token_hex(16)
    text = (
        "errors=$(mktemp /run/guest-shell.XXXXXX)\n"
        f'timeout --kill-after=5 {timeout} bash -c {shlex.quote(script)} </dev/null 2>"$errors"\n'
        f"printf '{end} %d\\n' $?\n"
        f"tail -c 8000 \"$errors\"; rm \"$errors\"; printf '{end}'; exit\n"
    )
    output, status, errors = _exchange(leader, text.encode(), end, timeout)
    return Result(int(status), output, errors)


def _exchange(leader: int, text: bytes, end: str, timeout: float) -> tuple[str, str, str]:
    # Not end of file: a process that the command left running may hold its output open.
    received = bytearray()
    marker = end.encode()
    try:
        with connect(leader) as stream:
            stream.settimeout(timeout + GRACE_SECONDS)
            stream.sendall(text)
            while received.count(marker) < 2:
                chunk = stream.recv(1 << 16)
                if not chunk:
                    raise ShellGone("the guest ended during a command")
                received += chunk
    except OSError as error:
        raise ShellGone(f"the guest does not answer: {error}") from error
    output, rest, _ = received.decode(errors="replace").split(end)
    status, _, errors = rest.partition("\n")
    return output, status, errors


def connect(leader: int) -> socket.socket:
    """A connection to a new bash of the guest, which reads a script from it."""
    stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        stream.settimeout(GRACE_SECONDS)
        stream.connect(str(Path(f"/proc/{leader}/root") / SOCKET))
    except BaseException:
        stream.close()
        raise
    return stream


def feed(leader: int, command: str, data: bytes) -> None:
    """Runs `command` with `data` as its standard input; it has to read all of it and no more."""
    end = secrets.token_hex(16)
    text = f"{command} >/dev/null\nprintf '{end} %d\\n{end}' $?; exit\n"
    # bash reads its script from the socket byte by byte, so the command finds the data next.
    head, _, tail = text.partition("\n")
    _, status, _ = _exchange(leader, f"{head}\n".encode() + data + tail.encode(), end, GRACE_SECONDS)
    if int(status) != 0:
        raise RuntimeError(f"`{command}` ended with {status.strip()}")


def fetch(leader: int, command: str) -> bytes:
    """Standard output of `command` as bytes; it may leave no process behind."""
    with connect(leader) as stream:
        stream.sendall(f"{command} </dev/null && printf ok; exit\n".encode())
        received = b"".join(iter(lambda: stream.recv(1 << 16), b""))
    if not received.endswith(b"ok"):
        raise RuntimeError(f"`{command}` failed in the guest")
    return received[:-2]
