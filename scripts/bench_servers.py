# SPDX-License-Identifier: GPL-2.0-or-later
"""The servers that scripts/bench compares, each started for one measurement and stopped after it.

A server is started with a backing file and a mode ("cached": through the page cache, "direct": O_DIRECT as far as the
server can), then says where it listens (`url`) and which processes it consists of (`pids`).
"""
import os
import pathlib
import select
import shutil
import signal
import socket
import subprocess
import time

STOP_SECONDS = 10


class ServerError(Exception):
    pass


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def find_program(name):
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin")
    if not path:
        raise ServerError(f"{name} is not installed")
    return path


def wait_for_port(port, proc, seconds=10):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if proc.poll() is not None:
            raise ServerError(f"{proc.args[0]} ended with {proc.returncode}")
        with socket.socket() as s:
            if s.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise ServerError(f"{proc.args[0]} does not listen on port {port}")


def descendants(pid):
    """@pid and all its living descendants."""
    found = [pid]
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*"):
        try:
            children = (task / "children").read_text().split()
        except OSError:
            continue
        for child in children:
            found += descendants(int(child))
    return found


class Server:
    """One running server. Subclasses say how to start it."""

    name = ""
    front = ""
    stop_signal = signal.SIGTERM

    def __init__(self, context, image, mode):
        self.context, self.image, self.mode = context, image, mode
        self.port = free_port()
        self.proc = None
        self.log = open(context.folder / f"{self.name.replace(' ', '-').replace('/', '-')}.log", "ab")

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def spawn(self, *cmd, **kw):
        self.proc = subprocess.Popen([str(c) for c in cmd], stdin=subprocess.DEVNULL, stderr=self.log,
                                     stdout=kw.pop("stdout", self.log), start_new_session=True, **kw)
        self.context.running.append(self.proc)

    def start(self):
        raise NotImplementedError

    @property
    def pids(self):
        return descendants(self.proc.pid)

    def stop(self):
        if self.proc:
            end_session(self.proc, self.stop_signal)
            self.context.running.remove(self.proc)
            self.proc = None
        self.log.close()


def end_session(proc, stop_signal=signal.SIGTERM):
    """@stop_signal to the server, then SIGKILL to whatever is left of the session we started it in."""
    if proc.poll() is None:
        proc.send_signal(stop_signal)
        try:
            proc.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            pass
    try:
        os.killpg(proc.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    proc.wait()
    if proc.stdout:
        proc.stdout.close()


class Ebb(Server):
    """`ebb serve`: both fronts at once; the NBD front is the attached form of the nbdkit plugin."""

    def start(self):
        nbd_port = free_port()
        state = self.context.folder / f"state-{self.port}"
        io = "direct" if self.mode == "direct" else "buffered"
        self.spawn(self.context.ebb, "serve", f"{self.image},name=b,io={io}", "--iscsi", f"127.0.0.1:{self.port}",
                   "--nbd", f"127.0.0.1:{nbd_port}", "--metrics", "none", "--state", state,
                   "--socket", self.context.folder / f"control-{self.port}", stdout=subprocess.PIPE)
        lines = self.read_until_ready()
        scheme = "iscsi:" if self.front == "iscsi" else "nbd:"
        self.url = next(w for line in lines for w in line.split() if w.startswith(scheme))

    def read_until_ready(self, seconds=20):
        text, end, out = b"", time.monotonic() + seconds, self.proc.stdout.fileno()
        while not text.endswith(b"ready\n"):
            if not select.select([out], [], [], max(0, end - time.monotonic()))[0]:
                raise ServerError(f"ebb serve is not ready after {seconds} s (log: {self.log.name})")
            more = os.read(out, 4096)
            if not more:
                raise ServerError(f"ebb serve ended with {self.proc.wait()} (log: {self.log.name})")
            text += more
        return text.decode().splitlines()


class EbbIscsi(Ebb):
    name, front = "ebb", "iscsi"


class EbbAttached(Ebb):
    name, front = "ebb", "nbd"


def wait_for_mount(path, proc, seconds=10):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if proc.poll() is not None:
            raise ServerError(f"{proc.args[0]} ended with {proc.returncode}")
        if any(line.split()[1] == str(path) for line in open("/proc/mounts")):
            return
        time.sleep(0.02)
    raise ServerError(f"{proc.args[0]} does not mount {path}")


def unmount(path):
    """Nothing is left of the mount of a server that did not end in order."""
    subprocess.run(["fusermount3", "-u", "-z", "-q", str(path)], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


class EbbFuse(Ebb):
    """`ebb serve` and `ebb mount`."""

    name, front = "ebb", "fuse"

    def start(self):
        super().start()
        folder = self.context.folder / f"mount-{self.port}"
        folder.mkdir()
        self.serving, self.proc = self.proc, None
        self.spawn(self.context.ebb, "mount", folder, "--foreground", "--socket",
                   self.context.folder / f"control-{self.port}")
        wait_for_mount(folder, self.proc)
        self.url = str(folder / "b")

    @property
    def pids(self):
        return descendants(self.proc.pid) + descendants(self.serving.pid)

    def stop(self):
        mounted, self.proc = self.proc, getattr(self, "serving", self.proc)
        if mounted and mounted is not self.proc:
            end_session(mounted)
            self.context.running.remove(mounted)
            unmount(pathlib.Path(self.url).parent)
        super().stop()


class EbbEmbedded(Server):
    """The plugin with the engine inside nbdkit, without a daemon."""

    name, front = "ebb embedded", "nbd"

    def start(self):
        mode = "direct" if self.mode == "direct" else "buffered"
        self.spawn(find_program("nbdkit"), "-f", "-i", "127.0.0.1", "-p", self.port, self.context.plugin,
                   f"file={self.image}", f"mode={mode}")
        wait_for_port(self.port, self.proc)
        self.url = f"nbd://127.0.0.1:{self.port}"


class Tgt(Server):
    name, front = "tgt", "iscsi"
    stop_signal = signal.SIGKILL  # tgtd does not end on SIGTERM while it has a target
    target = "iqn.2026-11.local.ebb:bench-tgt"

    def start(self):
        self.control = str(self.port % 32768)  # tgtd takes a short
        self.spawn(find_program("tgtd"), "-f", "-C", self.control, "--iscsi", f"portal=127.0.0.1:{self.port}")
        wait_for_port(self.port, self.proc)
        flags = ["--bsoflags", "direct"] if self.mode == "direct" else []
        self.admin("target", "new", "--tid", "1", "--targetname", self.target)
        self.admin("logicalunit", "new", "--tid", "1", "--lun", "1", "--bstype", "rdwr", "--backing-store",
                   str(self.image), *flags)
        self.admin("target", "bind", "--tid", "1", "-I", "ALL")
        self.url = f"iscsi://127.0.0.1:{self.port}/{self.target}/1"

    def admin(self, mode, op, *args):
        cmd = [find_program("tgtadm"), "-C", self.control, "--lld", "iscsi", "--mode", mode, "--op", op, *args]
        done = subprocess.run(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if done.returncode:
            raise ServerError(f"{' '.join(cmd)}: {done.stdout.strip()}")

    def stop(self):
        super().stop()
        for name in (f"socket.{self.port % 32768}", f"socket.{self.port % 32768}.lock"):
            pathlib.Path("/var/run/tgtd", name).unlink(missing_ok=True)


class NbdkitFile(Server):
    """nbdkit has no O_DIRECT; cache=none gives pages back after use, the closest it can do."""

    name, front = "nbdkit file", "nbd"

    def start(self):
        cache = ["cache=none"] if self.mode == "direct" else []
        self.spawn(find_program("nbdkit"), "-f", "-i", "127.0.0.1", "-p", self.port, "file", self.image, *cache)
        wait_for_port(self.port, self.proc)
        self.url = f"nbd://127.0.0.1:{self.port}"


class QemuNbd(Server):
    name, front = "qemu-nbd", "nbd"

    def start(self):
        cache = "none" if self.mode == "direct" else "writeback"
        self.spawn(find_program("qemu-nbd"), "-t", "-f", "raw", "-b", "127.0.0.1", "-p", self.port, "-e", "16",
                   "--aio=io_uring", f"--cache={cache}", self.image)
        wait_for_port(self.port, self.proc)
        self.url = f"nbd://127.0.0.1:{self.port}"


class Qsd(Server):
    """QEMU's storage daemon: as it comes, and with io_uring."""

    name, front, aio = "qsd", "fuse", "threads"

    def start(self):
        self.url = str(self.context.folder / f"export-{self.port}")
        pathlib.Path(self.url).touch()
        direct = "on" if self.mode == "direct" else "off"
        self.spawn(find_program("qemu-storage-daemon"), "--blockdev",
                   f"driver=file,node-name=f,filename={self.image},cache.direct={direct},aio={self.aio}",
                   "--export", f"type=fuse,id=e,node-name=f,mountpoint={self.url},writable=on")
        wait_for_mount(self.url, self.proc)

    def stop(self):
        super().stop()
        unmount(self.url)


class QsdUring(Qsd):
    name, aio = "qsd io_uring", "io_uring"


OURS = [EbbIscsi, EbbAttached, EbbEmbedded, EbbFuse]
PEERS = [Tgt, NbdkitFile, QemuNbd, Qsd, QsdUring]
