"""Runs inside of a QEMU guest, as a service: commands that the host sends through a virtio port.

One at a time. A request is a line of JSON {id, script, timeout, input} and `input` bytes for the
script's standard input (`timeout` in seconds, 0 for none); the answer is a line {id, status, output, errors} and as many bytes of both.
Nothing but Python's own library, and no module of the harness: only this file is in the guest.
"""

import json
import os
import select
import subprocess
import tempfile
import time

PORT = "/dev/vport0p1"
ERRORS_BYTES_MAX = 8000
ENVIRONMENT = {
    "HOME": "/root",
    "USER": "root",
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin",
}


class Port:
    """Reads whole lines and whole pieces. The end of file only means that nobody is connected."""

    def __init__(self) -> None:
        self._file = os.open(PORT, os.O_RDWR)
        self._read = bytearray()

    def _more(self) -> None:
        select.select([self._file], [], [])
        chunk = os.read(self._file, 1 << 16)
        if not chunk:
            time.sleep(0.05)
        self._read += chunk

    def line(self) -> bytes:
        while b"\n" not in self._read:
            self._more()
        line, _, rest = bytes(self._read).partition(b"\n")
        self._read[:] = rest
        return line

    def piece(self, size: int) -> bytes:
        while len(self._read) < size:
            self._more()
        piece = bytes(self._read[:size])
        del self._read[:size]
        return piece

    def write(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            view = view[os.write(self._file, view[: 1 << 16]) :]


def as_others_do() -> None:
    """The agent survives when memory runs out; what it runs shall have no such favour."""
    with open("/proc/self/oom_score_adj", "w") as adjustment:
        adjustment.write("0")


def run(script: str, timeout: int, data: bytes) -> tuple[int, bytes, bytes]:
    """Files and no pipes: what the script leaves running may hold its output, and keeps nobody waiting."""
    with (
        tempfile.TemporaryFile(dir="/run") as source,
        tempfile.TemporaryFile(dir="/run") as output,
        tempfile.TemporaryFile(dir="/run") as errors,
    ):
        source.write(data)
        source.seek(0)
        process = subprocess.Popen(
            [*(["timeout", "--kill-after=5", str(timeout)] if timeout else []), "bash", "-c", script],
            stdin=source,
            stdout=output,
            stderr=errors,
            env=ENVIRONMENT,
            cwd="/root",
            start_new_session=True,
            preexec_fn=as_others_do,
        )
        status = process.wait()
        size = os.fstat(errors.fileno()).st_size
        tail = os.pread(errors.fileno(), ERRORS_BYTES_MAX, max(0, size - ERRORS_BYTES_MAX))
        return status, os.pread(output.fileno(), os.fstat(output.fileno()).st_size, 0), tail


def main() -> None:
    port = Port()
    while True:
        request = json.loads(port.line())
        data = port.piece(request["input"])
        try:
            status, output, errors = run(request["script"], request["timeout"], data)
        except OSError as error:
            status, output, errors = 126, b"", str(error).encode()
        head = {"id": request["id"], "status": status, "output": len(output), "errors": len(errors)}
        port.write(json.dumps(head).encode() + b"\n" + output + errors)


if __name__ == "__main__":
    main()
