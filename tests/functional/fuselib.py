# SPDX-License-Identifier: GPL-2.0-or-later
"""`ebb mount`, for tests."""
import os
import pathlib
import select
import signal
import subprocess
import time

from conftest import EBB, SLOW, run


def is_mounted(folder):
    """Also when nobody serves it any more, where stat(2) would fail."""
    return any(line.split()[1] == str(folder) for line in open("/proc/mounts"))


class Mount:
    """One `ebb mount --foreground` of what an `ebb serve` or an ebbd serves."""

    def __init__(self, e, *args, folder=None, prefix=(), **kw):
        self.folder = pathlib.Path(folder or e.folder / f"mnt{time.monotonic_ns()}")
        self.folder.mkdir(exist_ok=True)
        self.log = open(f"{self.folder}.log", "a+")
        self.proc = subprocess.Popen([*map(str, prefix), str(EBB), "mount", str(self.folder), "--foreground", "--socket",
                                      str(e.socket), *map(str, args)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                     stderr=self.log, bufsize=0, **kw)
        ready, _, _ = select.select([self.proc.stdout], [], [], 30 * SLOW)
        said = self.proc.stdout.readline() if ready else b""
        if said != b"ready\n":
            self.end(signal.SIGKILL)
            raise AssertionError(f"ebb mount is not ready: {said} {self.stderr()}")

    def __truediv__(self, name):
        return self.folder / name

    def stderr(self):
        return pathlib.Path(self.log.name).read_text()

    def end(self, sig=signal.SIGTERM):
        """Returns the exit status."""
        if self.proc.poll() is None:
            self.proc.send_signal(sig)
        try:
            return self.wait()
        finally:
            if is_mounted(self.folder):
                run("fusermount3", "-uz", self.folder)

    def wait(self):
        try:
            return self.proc.wait(30 * SLOW)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            self.proc.wait()
            raise AssertionError(f"ebb mount does not end\n{self.stderr()}") from None

    def finish(self):
        """At the end of a test: it must end cleanly and leave nothing."""
        killed = self.proc.poll() is not None
        status = self.end()
        text = self.stderr()
        self.log.close()
        assert "Sanitizer" not in text, text
        assert killed or status == 0, f"exit {status}\n{text}"
        assert not is_mounted(self.folder)


def fd_of(path, flags):
    """As a context: a descriptor."""
    return os.fdopen(os.open(path, flags), "rb" if flags == os.O_RDONLY else "r+b", buffering=0)
