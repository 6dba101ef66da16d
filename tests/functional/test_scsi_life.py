# SPDX-License-Identifier: GPL-2.0-or-later
"""What happens to the medium and to the LUN map reaches initiators that are logged in, as the right sense."""
import os
import pathlib
import random
import resource
import struct
import subprocess
import threading
import time

import pytest

from conftest import PACE, SLOW, need, run
from controllib import ebbd, wait_for  # noqa: F401 (a fixture)
from iscsi_raw import INITIATOR, READ, WRITE, Closed, Raw, read10, write10

IQN = "iqn.2026-11.local.ebb:"
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")


def login(port, target, initiator=INITIATOR):
    r = Raw(port)
    p = r.login(IQN + target, initiator=initiator)
    assert p.login_status == 0, hex(p.login_status)
    return r.ready()


def sense(p):
    """(key, ASC << 8 | ASCQ), or the status when there is none."""
    return (p.sense[2] & 15, p.asc) if p.sense else p.status


def info(p):
    """The INFORMATION field of fixed format sense, when it is valid."""
    return struct.unpack(">I", p.sense[3:7])[0] if p.sense[0] & 0x80 else None


def capacity(r, lun=0):
    p = r.wait(r.command(bytes([0x9E, 0x10]) + bytes(11) + bytes([32, 0, 0]), 32, READ, lun=lun))
    assert p.status == 0
    return (struct.unpack(">Q", p.all[:8])[0] + 1) * struct.unpack(">I", p.all[8:12])[0]


def report_luns(r):
    p = r.wait(r.command(bytes([0xA0, 0, 0, 0, 0, 0]) + struct.pack(">I", 256) + bytes(2), 256, READ))
    assert p.status == 0
    return [p.all[i + 1] for i in range(8, 8 + struct.unpack(">I", p.all[:4])[0], 8)]


def test_growing_reaches_open_sessions(ebb, disk):
    e = ebb(f"{disk('16M')},name=a", f"{disk('16M')},name=b")
    one, two, other = login(e.iscsi_port, "a"), login(e.iscsi_port, "a", INITIATOR + "2"), login(e.iscsi_port, "b")
    assert capacity(one) == 16 << 20
    past = (16 << 20) // 512
    p = one.read(past, 1)
    assert sense(p) == (5, 0x2100)
    e.cli("lun", "resize", "a", "24M")
    for r in (one, two):
        assert sense(r.wait(r.command(bytes(6)))) == (6, 0x2A09)
        assert r.wait(r.command(bytes(6))).status == 0  # told once
        assert capacity(r) == 24 << 20
        assert r.read(past, 1).status == 0
    assert other.wait(other.command(bytes(6))).status == 0  # its LUN has not changed
    assert e.cli("lun", "resize", "a", "8M", check=False).returncode == 1
    assert one.wait(one.command(bytes(6))).status == 0  # what was refused changed nothing


def test_luns_that_come_and_go_reach_open_sessions(ebbd, disk):
    a, b, c = disk("16M"), disk("8M"), disk("4M")
    luns = [f"{{name: a, path: {a}}}", f"{{name: b, path: {b}}}", f"{{name: c, path: {c}}}"]

    def declare(n, shown):
        ebbd.declare(f"[{', '.join(luns[:n])}]", extra=f"  targets:\n  - iqn: {IQN}many\n    luns: [{', '.join(shown)}]\n")

    declare(2, ["a", "1=b"])
    ebbd.start()
    r = login(ebbd.iscsi_port, "many")
    assert report_luns(r) == [0, 1]
    assert sense(r.wait(r.command(bytes(6), lun=1))) == (6, 0x2900)

    declare(3, ["a", "1=b", "5=c"])
    ebbd.cli("apply")
    assert sense(r.wait(r.command(bytes(6)))) == (6, 0x3F0E)
    assert report_luns(r) == [0, 1, 5]
    assert r.wait(r.command(bytes(6), lun=1)).status == 0  # REPORT LUNS has taken it off the others
    assert sense(r.wait(r.command(bytes(6), lun=5))) == (6, 0x2900)
    assert capacity(r, 5) == 4 << 20

    declare(1, ["a"])
    assert ebbd.cli("apply", check=False).returncode == 1  # they are busy: not shown any more, closed by the next
    ebbd.cli("apply")
    assert sense(r.wait(r.command(bytes(6), lun=5))) == (5, 0x2500)
    assert sense(r.wait(r.command(bytes(6), lun=1))) == (5, 0x2500)
    assert sense(r.wait(r.command(bytes(6)))) == (6, 0x3F0E)
    assert report_luns(r) == [0]
    assert r.wait(r.command(bytes(6))).status == 0

    declare(3, ["a", "1=c"])  # a number that names another LUN now begins anew
    ebbd.cli("apply")
    assert sense(r.wait(r.command(bytes(6), lun=1))) == (6, 0x2900)
    assert capacity(r, 1) == 4 << 20


def test_chap_algorithms_are_the_files_to_choose(ebbd, disk):
    def declare(chosen):
        ebbd.declare(f"[{{name: a, path: {path}}}]",
                     extra=f"  targets:\n  - iqn: {IQN}a\n    luns: [a]\n    chap:\n      algorithms: {chosen}\n"
                           "      users: [{user: me, secret: secret-of-mine}]\n")

    def status(alg):
        return Raw(ebbd.iscsi_port).chap(IQN + "a", "me", "secret-of-mine", alg).login_status

    path = disk("16M")
    declare("[sha256, sha3-256]")
    ebbd.start()
    assert [status(alg) for alg in (5, 6, 7, 8)] == [0x0201, 0x0201, 0, 0]
    declare("[md5]")  # with no restart
    ebbd.cli("apply")
    assert [status(alg) for alg in (5, 6, 7, 8)] == [0, 0x0201, 0x0201, 0x0201]


def test_a_lun_that_is_not_shown_any_more_is_closed_though_sessions_are_idle(ebbd, disk):
    a, b = disk("16M"), disk("8M")
    luns = [f"{{name: a, path: {a}}}", f"{{name: b, path: {b}}}"]
    target = f"  targets:\n  - iqn: {IQN}many\n    luns: "
    ebbd.declare(f"[{', '.join(luns)}]", extra=target + "[a, b]\n")
    ebbd.start()
    idle = [login(ebbd.iscsi_port, "many", f"{INITIATOR}{i}") for i in range(4)]
    for r in idle:
        assert sense(r.wait(r.command(bytes(6), lun=1))) == (6, 0x2900)
    ebbd.declare(f"[{', '.join(luns)}]", extra=target + "[a]\n  auto_targets: false\n")
    ebbd.cli("apply")
    ebbd.declare(f"[{luns[0]}]", extra=target + "[a]\n")
    ebbd.cli("apply")
    wait_for("the file to be closed", lambda: not any(
        os.path.realpath(f) == str(b) for f in pathlib.Path(f"/proc/{ebbd.proc.pid}/fd").iterdir()))
    for r in idle:
        assert sense(r.wait(r.command(bytes(6), lun=1))) == (5, 0x2500)
        assert sense(r.wait(r.command(bytes(6)))) == (6, 0x3F0E)


# --- the medium ---


@pytest.mark.parametrize("mode", ["direct", "buffered"])
def test_a_file_cut_short_by_others_is_a_medium_error(ebb, disk, mode):
    path = disk("16M")
    path.write_bytes(b"\x11" * (16 << 20))
    e = ebb(f"{path},name=a,io={mode},cache=none")  # what is cached would be read still
    r = login(e.iscsi_port, "a")
    assert r.read(20480, 8).all == b"\x11" * 4096
    os.truncate(path, 8 << 20)
    p = r.read(20480, 8)
    assert sense(p) == (3, 0x1100) and info(p) == 20480
    assert "lun.io_error lun=a op=read offset=10485760 length=4096 errno=" in e.stderr()
    assert r.read(0, 8).all == b"\x11" * 4096
    p = r.read(16380, 16)  # half of it is there
    assert sense(p) == (3, 0x1100)
    p = r.wait(r.command(bytes([0x2F, 0, 0, 0, 0x50, 0, 0, 0, 8, 0])))  # VERIFY(10) reads the medium too
    assert sense(p) == (3, 0x1100)
    # what is written is there again, and so is what lies before it
    assert r.wait(r.write(20480, b"\x22" * 4096, data=b"\x22" * 4096)).status == 0
    assert r.read(20480, 8).all == b"\x22" * 4096
    assert r.read(16384, 8).all == bytes(4096)


def test_a_limit_of_the_file_size_is_out_of_space(ebb, disk):
    """As a quota would have it: nothing is lost silently, and what fits goes on."""
    path = disk("16M")
    for mode in ("direct", "buffered"):
        e = ebb(f"{path},name=a,io={mode}")
        resource.prlimit(e.proc.pid, resource.RLIMIT_FSIZE, (8 << 20, resource.RLIM_INFINITY))
        r = login(e.iscsi_port, "a")
        for blocks in (8, 128):
            data = b"\x33" * (blocks * 512)
            p = r.wait(r.write(20480, data, data=data))
            assert sense(p) == (7, 0x2707), (mode, blocks)
            assert r.wait(r.write(0, data, data=data)).status == 0
        assert r.read(20480, 8).all == bytes(4096)
        r.close()
        resource.prlimit(e.proc.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert e.stop() == 0


@root_only
def test_a_full_file_system_is_out_of_space(ebb, tmp_path):
    mnt = tmp_path / "full"
    mnt.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", mnt)
    try:
        run("truncate", "-s", "64M", mnt / "a.img")
        e = ebb(f"{mnt}/a.img,name=a")
        r = login(e.iscsi_port, "a")
        data = b"\x44" * 65536
        written, lba = [], 0
        while True:
            p = r.wait(r.write(lba, data, data=data))
            if p.status:
                break
            written.append(lba)
            lba += 128
            assert lba < 64 << 11
        assert sense(p) == (7, 0x2707) and written
        for lba in (written[0], written[-1]):
            assert r.read(lba, 128).all == data
        # UNMAP gives the room back
        unmap = struct.pack(">HH4xQI4x", 22, 16, written[0], 128)
        assert r.wait(r.command(b"\x42" + bytes(6) + struct.pack(">HB", 24, 0), 24, WRITE, unmap)).status == 0
        assert r.wait(r.write(lba + 128, data, data=data)).status == 0
        p = r.wait(r.write(lba + 256, data, data=data))
        assert sense(p) == (7, 0x2707)
        p = run(need("qemu-io"), "-f", "raw", "-c", "write 32M 64k", e.nbd(), check=False)
        assert "No space left" in p.stdout, p.stdout
        r.close()
        assert e.stop() == 0
    finally:
        run("umount", "-l", mnt)


@root_only
def test_an_io_error_is_a_medium_error(ebb, tmp_path):
    """The backing file is a disk of nbdkit, which fails when told so."""
    need("nbdkit"), need("nbdfuse")
    mnt, fail_read, fail_write = tmp_path / "bad", tmp_path / "fail-read", tmp_path / "fail-write"
    mnt.mkdir()
    fuse = subprocess.Popen(
        ["nbdfuse", f"{mnt}/a.img", "--command", "nbdkit", "-s", "--filter=error", "memory", "16M",
         "error-pread=EIO", "error-pread-rate=100%", f"error-pread-file={fail_read}",
         "error-pwrite=EIO", "error-pwrite-rate=100%", f"error-pwrite-file={fail_write}"],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for("nbdfuse", lambda: os.path.exists(mnt / "a.img"))
        e = ebb(f"{mnt}/a.img,name=a,io=direct", args=["--nbd", "none"])
        r = login(e.iscsi_port, "a")
        data = b"\x55" * 4096
        assert r.wait(r.write(64, data, data=data)).status == 0
        fail_write.touch()
        p = r.wait(r.write(64, data, data=data))
        assert sense(p) == (3, 0x0C00) and info(p) == 64
        fail_write.unlink()
        fail_read.touch()
        p = r.read(64, 8)
        assert sense(p) == (3, 0x1100) and info(p) == 64
        fail_read.unlink()
        assert r.read(64, 8).all == data
        r.close()
        assert e.stop() == 0
    finally:
        run("umount", "-l", mnt, check=False)
        fuse.wait(20 * SLOW)


# --- reservations ---


def pr_out(r, sa, key=0, sa_key=0, kind=0, aptpl=False):
    data = struct.pack(">QQ4xB3x", key, sa_key, 1 if aptpl else 0)
    return r.wait(r.command(bytes([0x5F, sa, kind, 0, 0]) + struct.pack(">IB", 24, 0), 24, WRITE, data))


def pr_in(r, sa):
    p = r.wait(r.command(bytes([0x5E, sa]) + bytes(5) + struct.pack(">HB", 256, 0), 256, READ))
    assert p.status == 0
    return p.all


def test_aptpl_survives_being_killed(ebb, disk):
    e = ebb(f"{disk('16M')},name=a", f"{disk('16M')},name=b")
    a, b = login(e.iscsi_port, "a"), login(e.iscsi_port, "b")
    isid = a.isid
    assert pr_out(a, 6, sa_key=0xABCDEF0123456789, aptpl=True).status == 0  # REGISTER AND IGNORE EXISTING KEY
    assert pr_out(a, 1, key=0xABCDEF0123456789, kind=1).status == 0  # RESERVE, write exclusive
    assert pr_out(b, 6, sa_key=1).status == 0  # not to survive
    keys, reservation = pr_in(a, 0), pr_in(a, 1)
    assert keys[8:] == bytes.fromhex("abcdef0123456789") and reservation[8:16] == keys[8:]
    e.kill()
    e.start()
    other = login(e.iscsi_port, "a", INITIATOR + "other")
    assert pr_in(other, 0)[4:] == keys[4:] and pr_in(other, 1)[4:] == reservation[4:]
    assert other.wait(other.write(0, bytes(512), data=bytes(512))).status == 0x18
    assert other.read(0, 1).status == 0
    p = run(need("qemu-io"), "-f", "raw", "-c", "write 0 512", e.nbd("a"), check=False)
    assert "Operation not permitted" in p.stdout, p.stdout
    run("qemu-io", "-f", "raw", "-c", "write 0 512", e.nbd("b"))
    assert pr_in(login(e.iscsi_port, "b"), 0)[4:] == bytes(4)
    # the same initiator port holds it still; another one, of the same name, does not
    again = Raw(e.iscsi_port)
    again.isid = isid
    assert again.login(IQN + "a").login_status == 0
    again.ready()
    assert again.wait(again.write(0, bytes(512), data=bytes(512))).status == 0
    assert pr_out(again, 3, key=0xABCDEF0123456789).status == 0  # CLEAR, for good
    e.kill()
    e.start()
    assert pr_in(login(e.iscsi_port, "a"), 0)[4:] == bytes(4)
    run("qemu-io", "-f", "raw", "-c", "write 0 512", e.nbd("a"))


# --- all at once ---


class Restless:
    """An initiator that does what may race: I/O, task management, reservations, leaving without a word."""

    def __init__(self, port, n, stop):
        self.port, self.n, self.stop = port, n, stop
        self.rng, self.done, self.failed = random.Random(n), 0, None

    def step(self, r):
        lun = self.rng.choice([0, 0, 1])
        what = self.rng.randrange(12)
        if what < 4:
            r.wait(r.command(write10(self.rng.randrange(2048), 8), 4096, WRITE, data=bytes(4096), lun=lun))
        elif what < 6:
            r.wait(r.command(read10(self.rng.randrange(2048), 8), 4096, READ, lun=lun))
        elif what == 6:
            r.command(write10(0, 8), 4096, WRITE, data=bytes(4096), lun=lun)
            t = r.tmf(self.rng.choice([2, 4, 5]), lun=lun)  # ABORT TASK SET, CLEAR TASK SET, LUN RESET
            while r.recv().itt != t:
                pass
        elif what == 7:
            self.pr(r, 6, 0, self.n + 1, 0, lun)
            self.pr(r, 1, self.n + 1, 0, 5, lun)
        elif what == 8:
            self.pr(r, 5, self.n + 1, self.rng.randrange(8) + 1, 5, lun)  # PREEMPT AND ABORT
        elif what == 9:
            self.pr(r, self.rng.choice([2, 3]), self.n + 1, 0, 5, lun)
        elif what == 10:
            unmap = struct.pack(">HH4xQI4xQI4x", 38, 32, 0, 64, 1024, 64)
            r.wait(r.command(b"\x42" + bytes(6) + struct.pack(">HB", 40, 0), 40, WRITE, unmap, lun=lun))
        else:
            for _ in range(8):
                r.command(write10(self.rng.randrange(2048), 8), 4096, WRITE, data=bytes(4096), lun=lun)
            raise Closed()

    def pr(self, r, sa, key, sa_key, kind, lun):
        r.wait(r.command(bytes([0x5F, sa, kind, 0, 0]) + struct.pack(">IB", 24, 0), 24, WRITE,
                         struct.pack(">QQ8x", key, sa_key), lun=lun))

    def run(self):
        try:
            while not self.stop.is_set():
                r = Raw(self.port)
                try:
                    if r.login(IQN + "many", initiator=f"{INITIATOR}{self.n}").login_status:
                        continue
                    while not self.stop.is_set():
                        self.step(r)
                        self.done += 1
                except Closed:
                    pass
                finally:
                    r.close()
        except Exception as e:  # told by the test, which joins
            self.failed = e
            raise


def tell_of_aborts(r, lun):
    """Saves TAS = 1: commands that others abort end with TASK ABORTED, not silently."""
    while (p := r.wait(r.command(bytes([0x5A, 8, 0x0A, 0, 0, 0, 0, 0, 64, 0]), 64, READ, lun=lun))).status:
        assert sense(p)[0] == 6
    page = bytearray(p.all[8:20])
    page[0] &= 0x3F
    page[5] |= 0x40
    assert r.wait(r.command(bytes([0x55, 0x11, 0, 0, 0, 0, 0, 0, 20, 0]), 20, WRITE, bytes(8) + page, lun=lun)).status == 0


def test_initiators_and_changes_all_at_once(ebbd, disk):
    a, b = disk("16M"), disk("16M")
    luns = f"[{{name: a, path: {a}}}, {{name: b, path: {b}}}]"
    target = f"  auto_targets: false\n  targets:\n  - iqn: {IQN}many\n    luns: "
    ebbd.declare(luns, extra=target + "[a, b]\n")
    ebbd.start()
    r = login(ebbd.iscsi_port, "many")
    for lun in (0, 1):
        tell_of_aborts(r, lun)
    r.close()
    stop = threading.Event()
    crowd = [Restless(ebbd.iscsi_port, n, stop) for n in range(6)]
    threads = [threading.Thread(target=c.run) for c in crowd]
    for t in threads:
        t.start()
    try:
        end, size, n = time.monotonic() + 5 * PACE, 16, 0
        last = end + 60 * SLOW
        while time.monotonic() < end or (not all(c.done for c in crowd) and time.monotonic() < last) or n < 4:
            n += 1
            ebbd.declare(luns if n % 4 else f"[{{name: a, path: {a}}}]", extra=target + ("[a]\n" if n % 2 else "[a, b]\n"))
            ebbd.cli("apply", check=False)
            size += 1
            ebbd.cli("lun", "resize", "a", f"{size}M")
            ebbd.json("session", "list")
    finally:
        stop.set()
        for t in threads:
            t.join(60 * SLOW)
    assert [c.failed for c in crowd] == [None] * len(crowd)
    assert all(c.done for c in crowd), [c.done for c in crowd]
    r = login(ebbd.iscsi_port, "many", INITIATOR + "last")
    assert capacity(r) == size << 20
    r.close()
    wait_for("all sessions to be gone", lambda: ebbd.json("session", "list") == [])
