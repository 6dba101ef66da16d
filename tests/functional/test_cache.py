# SPDX-License-Identifier: GPL-2.0-or-later
"""The read cache seen from outside: what hits, and that nothing is stale while its memory is being taken."""
import concurrent.futures
import ctypes
import json
import os
import pathlib
import threading
import time

import pytest

from conftest import SLOW, TOOLS, need, run

MiB = 1 << 20
MADV_PAGEOUT = 21
SYS_PROCESS_MADVISE = 440
PAGE = 4096


def cache_of(e, lun="disk0"):
    return json.loads(e.cli("--json", "lun", "show", lun).stdout)["cache"]


def hits(c):
    return c["hits_memory"] + c["hits_zero"] + c["hits_tmem"]


class Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("len", ctypes.c_size_t)]


class Purger(threading.Thread):
    """Has the kernel take volatile pages of a process, and the process give cached memory back, all the time; or for
    EBB seconds of each FLOOD + EBB, so that the cache is full, and evicts, in between."""

    EBB, FLOOD = 2, 5

    def __init__(self, e, tides):
        super().__init__(daemon=True)
        self.tides = tides
        self.e, self.ended, self.taken, self.released = e, threading.Event(), 0, 0
        self.libc = ctypes.CDLL(None, use_errno=True)
        self.pidfd = os.pidfd_open(e.proc.pid)

    def page_out(self):
        """Reclaims the mappings that are not dumped, not forked: those of volatile pages. Others stay, for want of swap."""
        ranges, start = [], None
        for line in pathlib.Path(f"/proc/{self.e.proc.pid}/smaps").read_text().splitlines():
            word = line.split()
            if "-" in word[0] and len(word) >= 5 and not word[0].endswith(":"):
                start, end = (int(x, 16) for x in word[0].split("-"))
            elif word[0] == "VmFlags:" and "dc" in word and "dd" in word:
                ranges.append((start, end - start))
        for base, size in ranges:
            v = Iovec(base, size)
            if self.libc.syscall(SYS_PROCESS_MADVISE, self.pidfd, ctypes.byref(v), 1, MADV_PAGEOUT, 0) > 0:
                self.taken += 1

    def run(self):
        turn = 0
        while not self.ended.wait(0.02):
            if self.tides and time.monotonic() % (self.EBB + self.FLOOD) > self.EBB:
                continue
            try:
                self.page_out()
                turn += 1
                if turn % 10 == 0:
                    self.e.cli("memory", "release", "--size", "8M", check=False)
                    self.released += 1
            except (OSError, AssertionError):
                return

    def stop(self):
        self.ended.set()
        self.join(60)
        os.close(self.pidfd)


def test_what_is_read_again_comes_from_memory(ebb, disk):
    path = disk("64M")
    path.write_bytes(os.urandom(64 * MiB))
    e = ebb(f"{path},cache=read", f"{disk('8M')},name=plain,cache=none")
    before = cache_of(e)
    for _ in range(2):
        run(need("qemu-img"), "bench", "-f", "raw", "-c", "2000", "-d", "8", "-s", "4096", "-S", "16384", e.iscsi("disk0"))
    c = cache_of(e)
    assert hits(c) - hits(before) >= 1900
    assert c["misses"] <= 2 * 2000 + 100
    assert cache_of(e, "plain") is None
    shown = e.cli("lun", "show", "disk0").stdout
    assert "hits" in shown and "read ahead" in shown
    assert "cache       none (declared so)" in e.cli("lun", "show", "plain").stdout


def test_what_is_buffered_is_left_to_the_page_cache(ebb, disk):
    """Unless somebody asks: two caches of the same bytes are one too many."""
    e = ebb(f"{disk('8M')},io=buffered,name=a", f"{disk('8M')},io=buffered,name=b,cache=read")
    assert cache_of(e, "a") is None and cache_of(e, "b") is not None
    assert "none (buffered: the page cache serves it)" in e.cli("lun", "show", "a").stdout
    e.cli("lun", "create", "--io", "buffered", "--cache", "read", "c", disk("8M"))
    e.cli("lun", "create", "--io", "buffered", "d", disk("8M"))
    assert cache_of(e, "c") is not None and cache_of(e, "d") is None
    bad = e.cli("lun", "create", "--cache", "some", "x", disk("8M"), check=False)
    assert bad.returncode == 1 and "auto, read, none" in bad.stdout


def test_a_sequential_reader_is_read_ahead_of(ebb, disk, tmp_path):
    path = disk("64M")
    path.write_bytes(os.urandom(64 * MiB))
    e = ebb(f"{path},cache=read")
    run(need("qemu-img"), "bench", "-f", "raw", "-c", "4000", "-d", "1", "-s", "4096", e.iscsi(), timeout=200)
    c = cache_of(e)
    assert c["readahead_pages"] > 3000
    assert c["readahead_used"] > 2500
    run("qemu-img", "convert", "-f", "raw", "-O", "raw", e.iscsi(), tmp_path / "copy", timeout=120)
    run("cmp", path, tmp_path / "copy", timeout=120)


def check(e, seconds, *where):
    run(TOOLS / "consistency/consistency", "--iscsi", e.iscsi(), "--iscsi", e.iscsi(), "--nbd", e.nbd(), "--nbd", e.nbd(),
        "--seconds", seconds, "--seed", int(time.time()), *where, timeout=seconds + 120 * SLOW)


def checked_while_memory_is_taken(ebb, disk, mode, seconds):
    """The checker over a few blocks, where all meet; for long, over more than the cache holds, too."""
    long = seconds > 60
    places = [(), ("--base", 2048, "--blocks", 120000)] if long else [()]
    e = ebb(f"{disk('64M')},io={mode},cache=read", args=["--memory", "24M" if long else "64M"])
    purger = Purger(e, tides=long)
    purger.start()
    try:
        for _ in range(4):  # on a busy machine more than once
            with concurrent.futures.ThreadPoolExecutor() as pool:
                for check_ended in [pool.submit(check, e, seconds, *place) for place in places]:
                    check_ended.result()
            c = cache_of(e)
            print(c, purger.taken, purger.released)
            met = hits(c) > 100 and c["invalidated"] > 100 and (c["purged"] > 0 or not purger.taken)
            met = met and (not long or (c["evicted"] > 1000 and c["demoted"] > 1000 and c["hits_tmem"] > 100))
            if met:
                break
    finally:
        purger.stop()
    assert met


@pytest.mark.long
@pytest.mark.parametrize("mode", ["direct", "buffered"])
def test_nothing_is_stale_while_memory_is_taken(ebb, disk, mode):
    checked_while_memory_is_taken(ebb, disk, mode, 10)


@pytest.mark.soak
@pytest.mark.parametrize("mode", ["direct", "buffered"])
def test_nothing_is_stale_for_half_an_hour(ebb, disk, mode):
    checked_while_memory_is_taken(ebb, disk, mode, int(os.environ.get("EBB_SOAK_SECONDS", 900 if SLOW == 1 else 300)))
