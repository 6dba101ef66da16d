# SPDX-License-Identifier: GPL-2.0-or-later
"""Talking to the control socket, and running ebbd."""
import json
import pathlib
import signal
import socket
import subprocess
import time

import pytest

from conftest import EBB, EBBD, SLOW, free_port, run


class Control:
    """A raw connection to the control socket."""

    def __init__(self, path, timeout=20):
        self.s = socket.socket(socket.AF_UNIX)
        self.s.settimeout(timeout * SLOW)
        self.s.connect(str(path))
        self.buf = b""

    def send(self, data):
        self.s.sendall(data)

    def line(self):
        """The next answer, or None when the other side has closed."""
        while b"\n" not in self.buf:
            got = self.s.recv(1 << 16)
            if not got:
                return None
            self.buf += got
        line, self.buf = self.buf.split(b"\n", 1)
        return json.loads(line)

    def call(self, method, **params):
        self.send(json.dumps({"v": 1, "id": method, "method": method, "params": params}).encode() + b"\n")
        return self.line()

    def close(self):
        self.s.close()


def wait_for(what, condition, timeout=20):
    """Polls a condition that has no event to wait for (another process's state)."""
    end = time.monotonic() + timeout * SLOW
    while not condition():
        assert time.monotonic() < end, f"waited in vain: {what}"
        time.sleep(0.02)


def settle(check, timeout=20):
    """Repeats a check of what is read in several parts, and may change between them, until it holds."""
    end = time.monotonic() + timeout * SLOW
    while True:
        try:
            return check()
        except AssertionError:
            if time.monotonic() > end:
                raise
        time.sleep(0.02)


class Daemon:
    """One ebbd with a configuration file in a folder of its own."""

    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.folder.mkdir(exist_ok=True, parents=True)
        self.iscsi_port = free_port()
        self.config = self.folder / "ebb.yaml"
        self.socket = self.folder / "run/control.sock"
        self.log = open(self.folder / "ebbd.log", "a+")
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(self.folder / "notify"))
        self.notify.settimeout(30 * SLOW)
        self.proc = None

    def declare(self, luns="[]", extra=""):
        self.config.write_text(f"state_dir: {self.folder}/state\nruntime_dir: {self.folder}/run\n"
                               f"luns: {luns}\nnbd: {{listen: ['unix:{self.folder}/nbd.sock']}}\n"
                               f"iscsi:\n  portals: ['127.0.0.1:{self.iscsi_port}']\n{extra}")

    def start(self, env=None):
        self.proc = subprocess.Popen([str(EBBD), "--config", str(self.config)], stdin=subprocess.DEVNULL,
                                     stdout=self.log, stderr=self.log,
                                     env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin",
                                          "NOTIFY_SOCKET": str(self.folder / "notify"), **(env or {})})
        assert self.wait_notify("READY=1")
        return self

    def wait_notify(self, word):
        while True:
            try:
                text = self.notify.recv(4096).decode()
            except socket.timeout:
                raise AssertionError(f"no {word} from ebbd\n{self.stderr()}") from None
            if word in text.split("\n"):
                return text

    def stderr(self):
        self.log.flush()
        return pathlib.Path(self.log.name).read_text()

    def cli(self, *args, check=True, timeout=30):
        return run(EBB, "--socket", self.socket, *args, check=check, timeout=timeout)

    def json(self, *args):
        return json.loads(self.cli("--json", *args).stdout)

    def stop(self, sig=signal.SIGTERM):
        if self.proc.poll() is None:
            self.proc.send_signal(sig)
        return self.proc.wait(30 * SLOW)

    def end(self):
        """Stops it; it must end cleanly with nothing to report."""
        status = self.stop() if self.proc else 0
        text = self.stderr()
        self.log.close()
        self.notify.close()
        assert "Sanitizer" not in text, text
        assert status == 0, text


@pytest.fixture
def ebbd(tmp_path):
    """A Daemon, not started; it must end cleanly."""
    d = Daemon(tmp_path / "ebbd")
    yield d
    d.end()
