# SPDX-License-Identifier: GPL-2.0-or-later
"""Fixtures for the functional tests: the real programs from a build folder, with real peers.

EBB_BUILD names the build folder (default: build-test, else build). Every test has its own temporary folder,
ports of its own, and processes that end with it: tests may run at the same time (pytest-xdist). What measures time or
memory so closely that neighbours would disturb it is marked `alone` and runs after the others, one by one.
"""
import os
import pathlib
import random
import re
import select
import shutil
import signal
import socket
import subprocess
import time

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]


def build_dir():
    named = os.environ.get("EBB_BUILD")
    if named:
        return pathlib.Path(named).resolve()
    for name in ("build-test", "build"):
        if (ROOT / name / "build.ninja").exists():
            return ROOT / name
    raise RuntimeError("no build folder: set EBB_BUILD or run meson setup build-test")


BUILD = build_dir()
SANITIZED = "asan" in BUILD.name or "tsan" in BUILD.name
SLOW = 6 if SANITIZED else 1  # what a time limit is multiplied by: sanitized programs take their time
PACE = 2 if SANITIZED else 1  # what the length of a load is multiplied by, that as much may happen
LIMIT = 240  # seconds a test may take, times SLOW: one that hangs fails and shows where
EBB = BUILD / "appliance/cli/ebb"
EBBD = BUILD / "appliance/daemon/ebbd"
PLUGIN = BUILD / "plugins/nbdkit/nbdkit-ebb-plugin.so"
TOOLS = BUILD / "tests/tools"


CLAIMS = []  # held until this process ends


def free_port():
    """A TCP port of loopback that is free and nobody else's: no other process of tests is given it, nor does the
    kernel hand it out for a connection, though a killed daemon leaves it unused for a while."""
    while True:
        port = random.SystemRandom().randrange(15000, 32768)  # below the ports that the kernel hands out
        claim = socket.socket(socket.AF_UNIX)
        try:
            claim.bind(f"\0ebb-test-port-{port}")
            with socket.socket() as s:
                s.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
            continue
        CLAIMS.append(claim)
        return port


def run(*cmd, timeout=60, check=True, **kw):
    """Runs a command; its output is in the assertion when it fails."""
    cmd = [str(c) for c in cmd]
    p = subprocess.run(cmd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                       timeout=timeout * SLOW, stdin=subprocess.DEVNULL, **kw)
    if check and p.returncode != 0:
        raise AssertionError(f"{' '.join(cmd)}: exit {p.returncode}\n{p.stdout}")
    return p


def nbdkits_of(folder):
    """Process ids of nbdkit whose command line names a file in @folder."""
    found = []
    for p in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            cmd = (p / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if cmd[0].rsplit(b"/", 1)[-1] == b"nbdkit" and any(f"{folder}/".encode() in a for a in cmd):
            found.append(int(p.name))
    return found


@pytest.fixture(autouse=True)
def no_orphans(request):
    """nbdkit outlives a daemon that was killed: what a test leaves behind in its own folder is ended."""
    yield
    folder = request.node.funcargs.get("tmp_path")
    for pid in nbdkits_of(folder) if folder else []:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


class Ebb:
    """One `ebb serve` in the foreground."""

    def __init__(self, folder, files, args=(), iscsi_port=None, nbd=None, env=None, wait=True):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(exist_ok=True, parents=True)
        self.iscsi_port = iscsi_port or free_port()
        self.nbd_arg = nbd or f"unix:{self.folder}/nbd.sock"
        self.socket = self.folder / "control.sock"
        self.log = open(self.folder / "serve.log", "a+")
        self.cmd = [str(EBB), "serve", *map(str, files), "--iscsi", f"127.0.0.1:{self.iscsi_port}", "--nbd",
                    self.nbd_arg, "--state", str(self.folder / "state"), "--socket", str(self.socket), *map(str, args)]
        if "--metrics" not in self.cmd:
            self.cmd += ["--metrics", "none"]
        self.env = dict(os.environ, **(env or {}))
        self.proc = None
        self.lines = []
        if wait:
            self.start()

    def start(self, timeout=60):
        self.lines = []
        self.proc = subprocess.Popen(self.cmd, stdout=subprocess.PIPE, stderr=self.log, env=self.env,
                                     stdin=subprocess.DEVNULL, bufsize=0)
        end = time.monotonic() + timeout * SLOW
        while True:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.proc.stdout], [], [], left)[0]:
                raise AssertionError(f"ebb serve not ready: {self.lines}\n{self.stderr()}")
            line = self.proc.stdout.readline()  # unbuffered: select() sees all that is left
            if not line:
                raise AssertionError(f"ebb serve ended: {self.proc.wait()} {self.lines}\n{self.stderr()}")
            self.lines.append(line.decode().rstrip("\n"))
            if self.lines[-1] == "ready":
                return self

    def stderr(self):
        self.log.flush()
        return pathlib.Path(self.log.name).read_text()

    def urls(self, scheme):
        found = []
        for line in self.lines:
            found += re.findall(rf"{scheme}[^\s]*://\S+", line)
        return found

    def iscsi(self, name=None):
        urls = self.urls("iscsi")
        return next(u for u in urls if name is None or f":{name}/" in u)

    def nbd(self, name=None):
        urls = self.urls("nbd")
        return next(u for u in urls if name is None or re.search(rf"/{re.escape(name)}(\?|$)", u))

    def cli(self, *args, check=True, timeout=30):
        return run(EBB, "--socket", self.socket, *args, check=check, timeout=timeout)

    def alive(self):
        return self.proc is not None and self.proc.poll() is None

    def stop(self, sig=signal.SIGTERM, timeout=20):
        """Ends it and returns the exit status."""
        if self.alive():
            self.proc.send_signal(sig)
        try:
            return self.proc.wait(timeout * SLOW)
        except subprocess.TimeoutExpired:
            self.proc.kill()
            self.proc.wait()
            raise AssertionError(f"ebb serve did not end on signal {sig}\n{self.stderr()}") from None

    def kill(self):
        return self.stop(signal.SIGKILL)


@pytest.fixture
def ebb(tmp_path):
    """ebb(FILE..., args=[...]) starts `ebb serve`; at the end it must stop cleanly with nothing to report."""
    started = []

    def start(*files, **kw):
        e = Ebb(kw.pop("folder", tmp_path / f"ebb{len(started)}"), files, **kw)
        started.append(e)
        return e

    yield start
    for e in started:
        was_alive = e.alive()
        status = e.stop() if e.proc else 0
        text = e.stderr()
        e.log.close()
        assert "Sanitizer" not in text, text
        if was_alive:
            assert status == 0, f"exit {status} on SIGTERM\n{text}"


@pytest.fixture
def disk(tmp_path):
    """disk("64M") makes a sparse file of that size."""
    made = []

    def make(size="64M", name=None):
        path = tmp_path / (name or f"disk{len(made)}.img")
        run("truncate", "-s", size, path)
        made.append(path)
        return path

    return make


def need(program):
    """Tests need their peers: a missing one is a failure that names it, not a skip."""
    path = shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")
    assert path, f"{program} is not installed (scripts/install-deps test)"
    return path


def unwanted(item):
    """Why a test is not for this build or this run, or None."""
    if item.get_closest_marker("soak") and not os.environ.get("EBB_SOAK"):
        return "a long run"
    if SANITIZED and (plain := item.get_closest_marker("plain")):
        return plain.kwargs["reason"]
    if SANITIZED and item.get_closest_marker("alone"):
        return "figures of sanitized programs say nothing"
    if not SANITIZED and item.get_closest_marker("sanitized"):
        return "only for builds under sanitizers"
    return None


def pytest_collection_modifyitems(config, items):
    """Tests that are not for this build or this run are deselected, not skipped. Long ones begin first."""
    config.hook.pytest_deselected(items=[i for i in items if unwanted(i)])
    items[:] = [i for i in items if not unwanted(i)]
    items.sort(key=lambda i: i.get_closest_marker("long") is None)
    for i in items:
        i.add_marker(pytest.mark.timeout(LIMIT * SLOW if not i.get_closest_marker("soak") else 0))
