"""A process that outlives the run and removes what it leaves, however it ends.

It waits on a pipe whose other end only the run holds: end of file means that the run is over, or
was killed. It stays out of the run's session and mount namespace, so that neither a signal to the
process group nor a mount in use gets in its way.
"""

import os
import shutil
import sys
from pathlib import Path

from . import cgroup


class Janitor:
    """Held by the run; `finish` lets it clean up and says whether that went well."""

    def __init__(self, prefix: str, work: Path) -> None:
        """Call it before the first thread and before `private_mounts`."""
        read, self._write = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            status = 1
            try:
                os.close(self._write)
                os.setsid()
                self._wait(read)
                self._clean(prefix, work)
                status = 0
            except BaseException as error:
                print(f"guest janitor: {error}", file=sys.stderr)
            os._exit(status)
        os.close(read)

    @staticmethod
    def _wait(read: int) -> None:
        # Standard error stays, for what goes wrong; nobody shall wait for our standard output.
        null = os.open("/dev/null", os.O_RDWR)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.read(read, 1)

    @staticmethod
    def _clean(prefix: str, work: Path) -> None:
        for name in cgroup.names(prefix):
            cgroup.kill(name)
            cgroup.remove(name)
        shutil.rmtree(work, ignore_errors=True)

    def finish(self) -> bool:
        os.close(self._write)
        _, status = os.waitpid(self._pid, 0)
        return status == 0
