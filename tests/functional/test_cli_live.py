# SPDX-License-Identifier: GPL-2.0-or-later
"""`ebb top` and `ebb explain`: what they say is what is done, on a terminal and for programs."""
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time

import pytest

from conftest import EBB, SLOW, need, run
from controllib import settle


@pytest.fixture
def load():
    """load(URL, OPS): qemu-io does OPS again and again until the test ends."""
    running = []

    def start(url, *ops):
        loop = [x for op in ops * 200 for x in ("-c", op)]
        script = f'while :; do "$@" >/dev/null || exit; done'
        running.append(subprocess.Popen(["sh", "-c", script, "load", need("qemu-io"), "-f", "raw", *loop, url],
                                        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                        start_new_session=True))
    yield start
    for p in running:
        os.killpg(p.pid, signal.SIGKILL)
        p.wait()


def frames(e, *args):
    return [json.loads(line) for line in e.cli("--json", "top", *args).stdout.splitlines()]


def test_top_tells_what_is_done(ebb, disk, load):
    e = ebb(disk("64M"), disk("8M"))
    idle = frames(e, "--interval", "0.2")
    assert len(idle) == 1 and [r["name"] for r in idle[0]["luns"]] == ["disk0", "disk1"]
    assert all(r["ops_s"] == 0 and "latency_s" not in r for r in idle[0]["luns"])
    load(e.iscsi("disk1"), "write 1M 64k", "read 1M 64k")

    def busy():
        last = frames(e, "--interval", "0.3", "--count", "2")[-1]
        first, second = last["luns"]  # by operations: the busy one is the first
        assert first["name"] == "disk1" and first["ops_s"] > 0 and second["ops_s"] == 0
        assert first["read_bytes_s"] > 0 and first["written_bytes_s"] > 0 and first["latency_s"] > 0
        assert last["memory"]["held"] > 0 and 0.2 < last["seconds"] < 30 * SLOW
    settle(busy)
    plain = e.cli("top", "--interval", "0.2", "--sort", "name").stdout
    assert "\033" not in plain and plain.index("disk0") < plain.index("disk1") and "OPS/S" in plain


class Screen:
    """A program on a terminal of its own."""

    def __init__(self, *cmd):
        self.pid, self.fd = pty.fork()
        if not self.pid:
            os.execv(cmd[0], [str(c) for c in cmd])
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 12, 120, 0, 0))
        self.text = ""

    def wait(self, pattern, timeout=30):
        """Reads on until @pattern was shown, which what was read before does not count for."""
        end = time.monotonic() + timeout * SLOW
        self.text = ""
        while not re.search(pattern, self.text, re.S):
            assert time.monotonic() < end, f"{pattern} never shown: {self.text[-1500:]!r}"
            if select.select([self.fd], [], [], 0.2)[0]:
                self.text += self.read()
        return self.text

    def read(self):
        try:
            return os.read(self.fd, 65536).decode()
        except OSError:
            return ""  # its end

    def end(self, timeout=30):
        limit = time.monotonic() + timeout * SLOW
        text = ""
        while True:
            if select.select([self.fd], [], [], 0.05)[0]:
                text += self.read()
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                break
            assert time.monotonic() < limit, "it does not end"
        while select.select([self.fd], [], [], 0)[0] and (more := self.read()):
            text += more
        os.close(self.fd)
        return os.waitstatus_to_exitcode(status), text


@pytest.mark.parametrize("how", ["key", "signal"])
def test_top_on_a_terminal(ebb, tmp_path, how):
    e = ebb(*[f"{tmp_path}/lun{i:02}.img,size=1M" for i in range(30)])
    s = Screen(EBB, "--socket", e.socket, "top", "--interval", "0.2", "--sort", "name")
    s.wait(r"\x1b\[\?1049h.*\x1b\[\?7l")  # of a line that is too long no second one is made
    text = s.wait("lun00.*q quit")
    assert "lun29" not in text
    os.write(s.fd, b"\033[6~\033[6~")  # PgDn
    s.wait("lun29")
    os.write(s.fd, b"r")
    os.write(s.fd, b"\033[5~\033[5~")
    s.wait(r"ERRORS[^l]*lun29")
    os.write(s.fd, b"p")
    s.wait(r"\(paused\)")
    os.write(s.fd, b"s")
    s.wait(r"sort \(ops\)")
    if how == "key":
        os.write(s.fd, b"q")
    else:
        os.kill(s.pid, signal.SIGTERM)
    status, text = s.end()
    assert status == 0 and text.endswith("\x1b[?7h\x1b[?25h\x1b[?1049l")  # the screen is given back


def test_top_ends_with_a_terminal_that_does_not_hang_up(ebb, disk):
    """One that is not the controlling terminal goes without a signal."""
    e = ebb(disk())
    ours, its = pty.openpty()
    p = subprocess.Popen([str(EBB), "--socket", str(e.socket), "top", "--interval", "3600"], stdin=its, stdout=its,
                         stderr=subprocess.DEVNULL, start_new_session=True)
    os.close(its)
    try:
        os.read(ours, 1)
        os.close(ours)
        p.wait(30 * SLOW)
    finally:
        p.kill()
        p.wait()


def test_top_ends_with_its_appliance(ebb, disk):
    e = ebb(disk())
    s = Screen(EBB, "--socket", e.socket, "top", "--interval", "0.1")
    s.wait("disk0")
    e.stop()
    status, text = s.end()
    assert status == 1 and "no appliance answers" in text and "\x1b[?1049l" in text


def test_explain_parts_the_time(ebb, disk, load):
    e = ebb(f"{disk('64M')},cache=none")
    load(e.iscsi(), "write 1M 16k", "read 1M 512", "read 1M 4k")

    def told():
        o = json.loads(e.cli("--json", "explain", "disk0", "--seconds", "0.5").stdout)
        assert o["read"]["ops"] > 0 and o["write"]["ops"] > 0 and o["seconds"] >= 0.5
        for op in ("read", "write"):
            assert sum(o[op]["stages"].values()) == pytest.approx(o[op]["seconds"], rel=0.2)
            assert o[op]["stages"]["disk_s"] > 0
        assert 0 < o["unaligned_ratio"] < 1 and o["advice"] and "hit_ratio" not in o
    settle(told)
    text = e.cli("explain", "disk0", "--seconds", "0").stdout
    for word in ("since it was opened", "queue", "cache", "disk", "not aligned", "cache   none:"):
        assert word in text, text


def test_explain_of_an_idle_lun_says_so(ebb, disk):
    e = ebb(disk())
    assert "nothing was read or written" in e.cli("explain", "disk0", "--seconds", "0").stdout
    assert e.cli("explain", "nosuch", "--seconds", "0", check=False).returncode == 1


@pytest.mark.parametrize("args", [["top", "--interval", "0"], ["top", "--count", "x"], ["top", "--sort", "x"], ["top", "x"],
                                  ["explain"], ["explain", "a", "b"], ["explain", "a", "--seconds", "-1"]])
def test_misuse(args):
    p = run(EBB, *args, check=False)
    assert p.returncode == 2 and "--help" in p.stdout
