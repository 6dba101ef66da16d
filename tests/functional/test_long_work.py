# SPDX-License-Identifier: GPL-2.0-or-later
"""`ebb lun copy` and `ebb lun sanitize`: all of it is done, it is told how far, and who would be hurt is not."""
import json
import os
import subprocess

import pytest

from conftest import EBB, SLOW, need, run
from controllib import wait_for
from test_cli_live import Screen

MIB = 1 << 20


def data(path, size=8 * MIB, holes=()):
    """A file of random bytes, but for some MiB."""
    with open(path, "wb") as f:
        f.truncate(size)
        for at in range(0, size, MIB):
            if at // MIB not in holes:
                f.seek(at)
                f.write(os.urandom(min(MIB, size - at)))
    return path


def records(process):
    return [json.loads(line) for line in process.stdout.splitlines()]


class User:
    """A client that stays."""

    def __init__(self, url):
        self.p = subprocess.Popen([need("qemu-io"), "-f", "raw", url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.p.stdin.write("read 0 4k\n")
        self.p.stdin.flush()
        while "read 4096" not in self.p.stdout.readline():
            assert self.p.poll() is None

    def __enter__(self):
        return self

    def __exit__(self, *what):
        self.p.communicate("quit\n", timeout=60 * SLOW)


# --- copy ---

def test_a_copy_is_the_same_with_its_holes(ebb, tmp_path):
    a = data(tmp_path / "a.img", 8 * MIB + 4096, holes=(1, 2, 5))
    b = data(tmp_path / "b.img", 10 * MIB)
    tail = b.read_bytes()[8 * MIB + 4096:]
    e = ebb(a, b)
    out = e.cli("lun", "copy", "a", "b").stdout
    assert e.stop() == 0
    copied = b.read_bytes()
    assert copied[:8 * MIB + 4096] == a.read_bytes() and copied[8 * MIB + 4096:] == tail
    assert b.stat().st_blocks * 512 < 8 * MIB  # 3 MiB of its 10 are holes
    assert out.splitlines()[-1].startswith("b 100 %") and "in all" in out and "\r" not in out
    tenths = [int(line.split()[1]) for line in out.splitlines()]
    assert tenths == sorted(tenths)


def test_records_of_a_copy(ebb, tmp_path):
    e = ebb(data(tmp_path / "a.img"), data(tmp_path / "b.img"))
    told = records(e.cli("--json", "lun", "copy", "a", "b"))
    assert told[-1]["state"] == "done" and told[-1]["done"] == told[-1]["total"] == 8 * MIB
    assert all(r["state"] == "running" for r in told[:-1])


def test_copies_that_are_refused_change_nothing(ebb, tmp_path):
    a, small, ro = data(tmp_path / "a.img"), data(tmp_path / "small.img", MIB), data(tmp_path / "ro.img")
    b = data(tmp_path / "b.img")
    before = b.read_bytes()
    e = ebb(a, small, f"{ro},ro", b)

    def refused(*args):
        p = e.cli("lun", "copy", *args, check=False)
        assert p.returncode == 1, p.stdout
        return p.stdout

    assert "make it as large" in refused("a", "small") and "onto itself" in refused("a", "a")
    assert "read-only" in refused("a", "ro").lower()
    assert "nosuch" in refused("a", "nosuch") and "nosuch" in refused("nosuch", "a")
    for used in ("a", "b"):
        with User(e.nbd(used)):
            assert "busy: 1 session" in refused("a", "b")
        wait_for("its end", lambda: not json.loads(e.cli("--json", "lun", "show", used).stdout)["sessions"])
    assert b.read_bytes() == before
    with User(e.nbd("a")):
        e.cli("lun", "copy", "a", "b", "--force")
    assert e.stop() == 0 and b.read_bytes() == a.read_bytes()


def test_a_terminal_gets_a_bar(ebb, tmp_path):
    e = ebb(data(tmp_path / "a.img"), data(tmp_path / "b.img"))
    s = Screen(EBB, "--socket", e.socket, "lun", "copy", "a", "b")
    status, text = s.end()
    assert status == 0 and "\r" in text and "b [####" in text and text.endswith("in all\x1b[K\r\n"), text
    assert text.count("\n") == 1


# --- sanitize ---

@pytest.mark.parametrize("how", [[], ["--overwrite"]])
def test_nothing_is_left(ebb, tmp_path, how):
    a = data(tmp_path / "a.img")
    e = ebb(f"{a},cache=read")
    run(need("qemu-io"), "-f", "raw", "-c", "read 0 8M", e.iscsi())  # into the cache
    wait_for("its end", lambda: not json.loads(e.cli("--json", "lun", "show", "a").stdout)["sessions"])
    told = records(e.cli("--json", "lun", "sanitize", "a", *how))
    assert told[-1]["state"] == "done" and told[-1]["done"] == told[-1]["total"] == 8 * MIB
    assert "sanitize" not in json.loads(e.cli("--json", "lun", "show", "a").stdout)
    run(need("qemu-io"), "-f", "raw", "-c", "read -P 0 0 8M", e.iscsi())
    assert e.stop() == 0 and not any(a.read_bytes())
    assert (a.stat().st_blocks * 512 > MIB) == bool(how)


def test_it_goes_on_without_its_asker(ebb, tmp_path):
    a = data(tmp_path / "a.img")
    e = ebb(a)
    e.cli("lun", "sanitize", "a", "--overwrite", "--no-wait")
    wait_for("its end", lambda: "sanitize" not in json.loads(e.cli("--json", "lun", "show", "a").stdout))
    assert e.stop() == 0 and not any(a.read_bytes())


def test_a_lun_in_use_is_not_sanitized(ebb, tmp_path):
    a = data(tmp_path / "a.img")
    before = a.read_bytes()
    e = ebb(a, f"{data(tmp_path / 'ro.img')},ro")
    with User(e.iscsi("a")):
        p = e.cli("lun", "sanitize", "a", check=False)
        assert p.returncode == 1 and "busy: 1 session" in p.stdout
    for name, why in (("ro", "read-only"), ("nosuch", "no LUN is called")):
        p = e.cli("lun", "sanitize", name, check=False)
        assert p.returncode == 1 and why in p.stdout
    assert a.read_bytes() == before
    with User(e.nbd("a")):
        e.cli("lun", "sanitize", "a", "--force")
    assert e.stop() == 0 and not any(a.read_bytes())


def test_how_far_it_is(ebb, tmp_path):
    """Overwriting keeps to a pace, so there is something to see."""
    a = tmp_path / "a.img"
    e = ebb(f"{a},size=8G")  # a minute's work at least, of which we see the beginning
    e.cli("lun", "sanitize", "a", "--overwrite", "--no-wait")
    shown = json.loads(e.cli("--json", "lun", "show", "a").stdout)["sanitize"]
    assert shown["state"] == "running" and 0 <= shown["done"] < shown["total"]
    assert "sanitize    running" in e.cli("lun", "show", "a").stdout
    p = e.cli("lun", "sanitize", "a", check=False)
    assert p.returncode == 1 and "one runs" in p.stdout
    assert e.stop() == 0  # it does not wait for its end
    a.unlink()
