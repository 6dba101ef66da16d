# SPDX-License-Identifier: GPL-2.0-or-later
"""nbdkit with our plugin, and the port without the rest of the daemon, for the NBD tests."""
import os
import pathlib
import select
import signal
import subprocess
import time

import nbd
import pytest

from conftest import BUILD, PLUGIN, SANITIZED, SLOW, run


def sanitizer_env():
    """A sanitized plugin in a plain nbdkit needs the sanitizer's runtime loaded first."""
    for name in ("asan", "tsan"):
        if name in BUILD.name:
            lib = run("cc", f"-print-file-name=lib{name}.so").stdout.strip()
            return dict(os.environ, LD_PRELOAD=lib, ASAN_OPTIONS="detect_leaks=0")
    return dict(os.environ)


def fails_with(error, call, *args):
    with pytest.raises(nbd.Error) as e:
        call(*args)
    assert e.value.errnum == error, e.value


def refusal(folder, *args, **kw):
    """What an nbdkit with our plugin says that does not start."""
    with subprocess.Popen(["nbdkit", "-f", "-U", str(folder / "refused.sock"), str(PLUGIN), *map(str, args)],
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                          env=sanitizer_env(), **kw) as p:
        said = p.stdout.readline()
        try:
            assert p.wait(5 if SANITIZED else 60) == 1
        except subprocess.TimeoutExpired:
            # With a sanitizer preloaded, nbdkit hangs in its own exit once it has put an errno into words, with its
            # own plugins too (a destructor of libp11-kit waits for the lock of the locale).
            p.kill()
            assert SANITIZED, f"nbdkit does not end: {said}"
        said += p.stdout.read()
    assert "Sanitizer" not in said, said
    return said


class Nbdkit:
    """One nbdkit on a Unix socket."""

    def __init__(self, folder, *args, flags=(), name="nbdkit"):
        self.socket = pathlib.Path(folder) / f"{name}.sock"
        self.pidfile = pathlib.Path(folder) / f"{name}.pid"
        self.log = open(pathlib.Path(folder) / f"{name}.log", "a+")
        self.args = [str(a) for a in args]
        self.flags = [str(f) for f in flags]
        self.start()

    def start(self):
        self.socket.unlink(missing_ok=True)
        self.pidfile.unlink(missing_ok=True)
        self.proc = subprocess.Popen(["nbdkit", "-f", "-U", str(self.socket), "-P", str(self.pidfile), *self.flags,
                                      str(PLUGIN), *self.args], stderr=self.log, stdin=subprocess.DEVNULL,
                                     env=sanitizer_env())
        end = time.monotonic() + 20 * SLOW
        while not (self.pidfile.exists() and self.pidfile.read_text().endswith("\n")):
            if self.proc.poll() is not None or time.monotonic() > end:
                raise AssertionError(f"nbdkit did not start: {self.stderr()}")
            time.sleep(0.01)
        return self

    def stderr(self):
        self.log.flush()
        return pathlib.Path(self.log.name).read_text()

    def uri(self, export=""):
        return f"nbd+unix:///{export}?socket={self.socket}"

    def stop(self, sig=signal.SIGTERM):
        if self.proc.poll() is None:
            self.proc.send_signal(sig)
        if SLOW > 1:
            # nbdkit with a preloaded sanitizer may hang in its own exit, with no plugin loaded too: the
            # reports are what counts there.
            try:
                self.proc.wait(5)
            except subprocess.TimeoutExpired:
                self.proc.kill()
                self.proc.wait()
            status = 0
        else:
            status = self.proc.wait(30)
        text = self.stderr()
        assert "Sanitizer" not in text, text
        return status


class PortServer:
    """tests/tools/port_serve: the port, and nbdkit's supervisor when asked to."""

    def __init__(self, folder, *luns, nbd=(), env=None):
        self.folder = pathlib.Path(folder)
        self.socket = self.folder / "port.sock"
        self.log = open(pathlib.Path(folder) / "port_serve.log", "a+")
        self.cmd = [str(BUILD / "tests/tools/port_serve"), str(self.socket)]
        for address in nbd:
            self.cmd += ["--nbd", address]
        self.cmd += [f"{path}={name}" for path, name in luns]
        self.env = dict(os.environ, **(env or {}))
        self.start()

    def start(self):
        self.pending = b""
        self.proc = subprocess.Popen(self.cmd, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
                                     env=self.env)
        assert self.line() == "ready"
        return self

    def line(self, timeout=20):
        """The next line it prints."""
        end = time.monotonic() + timeout * SLOW
        while b"\n" not in self.pending:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.proc.stdout], [], [], left)[0]:
                raise AssertionError(f"port_serve says nothing: {self.stderr()}")
            data = os.read(self.proc.stdout.fileno(), 4096)
            if not data:
                raise AssertionError(f"port_serve ended: {self.stderr()}")
            self.pending += data
        line, self.pending = self.pending.split(b"\n", 1)
        return line.decode()

    def command(self, text):
        self.proc.stdin.write(text.encode() + b"\n")
        self.proc.stdin.flush()
        return self.line()

    def stderr(self):
        self.log.flush()
        return pathlib.Path(self.log.name).read_text()

    def stop(self, sig=signal.SIGTERM):
        if self.proc.poll() is None:
            self.proc.send_signal(sig)
        status = self.proc.wait(30 * SLOW)
        text = self.stderr()
        assert "Sanitizer" not in text, text
        return status
