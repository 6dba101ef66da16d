# SPDX-License-Identifier: GPL-2.0-or-later
"""`ebb mount`, for tests."""
import ctypes
import os
import pathlib
import select
import signal
import stat
import subprocess
import time

import nbd
import pytest

from conftest import EBB, SLOW, run

MiB = 1 << 20
KEEP_SIZE, PUNCH, ZERO = 1, 2, 16  # of fallocate(2)
libc = ctypes.CDLL(None, use_errno=True)


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


def fuse_is_here():
    """Makes the device if the kernel knows it and this system has only not got it yet."""
    try:
        if not os.path.exists("/dev/fuse"):
            subprocess.run(["modprobe", "fuse"], check=False)
        if not os.path.exists("/dev/fuse"):
            os.mknod("/dev/fuse", stat.S_IFCHR | 0o666, os.makedev(10, 229))
        os.close(os.open("/dev/fuse", os.O_RDWR))
    except OSError:
        return False
    return True


needs_fuse = pytest.mark.skipif(not fuse_is_here(), reason="no /dev/fuse, and none can be made: FUSE is not shown here")


@pytest.fixture
def mount():
    """mount(ebb, ARGS...) mounts its LUNs."""
    made = []

    def make(*args, **kw):
        made.append(Mount(*args, **kw))
        return made[-1]

    yield make
    for m in made:
        m.finish()


@pytest.fixture
def one(ebb, disk, mount):
    """A LUN of 16 MiB: (ebb, mount, the file)."""
    e = ebb(f"{disk('16M')},name=one")
    m = mount(e)
    return e, m, m / "one"


def fallocate(fd, mode, off, length):
    if libc.fallocate(fd, mode, ctypes.c_int64(off), ctypes.c_int64(length)):
        raise OSError(ctypes.get_errno(), "fallocate")


def fails(error, call, *args):
    with pytest.raises(OSError) as e:
        call(*args)
    assert e.value.errno == error, e.value


def connect(e, name="one"):
    h = nbd.NBD()
    h.connect_uri(e.nbd(name))
    return h
