#!/usr/bin/python3
"""What Debian's tcmu-runner holds of the memory of its disks, and when it is given back: a table, the in-tree module's row beside ours.

16 readers fetch 16 MiB each from a qcow2 disk. RssFile is what the runner has mapped: data area, ring, and its own program.
The in-tree module is only measured. Ours has to be back at its minimum (the reserve, and the first 64 KiB of the ring) of itself 12 s
later, when caches are dropped, and when a process takes all memory there is, while another disk is read without an error.

check: kernels=6.1,6.12 seconds=1500 soak
"""
import contextlib
import subprocess
import sys
import threading
import time

import lio

MIB, PAGE_KB = 1 << 20, 4
READERS = 16
RING_PAGES = 17  # mailbox and ring, when empty: 64 KiB and the page of its head
HOG = """
import mmap
open("/proc/self/oom_score_adj", "w").write("1000")
taken = []
while True:
    taken.append(mmap.mmap(-1, 4 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    taken[-1].madvise(23)  # MADV_POPULATE_WRITE
"""


class Disk:
    """A qcow2 image, which the runner serves, and its disk here."""

    def __init__(self, loop, name):
        image = f"/tmp/{name}.qcow2"
        lio.run("qemu-img", "create", "-q", "-f", "qcow2", image, READERS * 16 * MIB)
        self.backstore = lio.Backstore(name, READERS * 16 * MIB, config=f"qcow/{image}", hw_max_sectors=2048)
        self.path = loop.export_patiently(self.backstore)

    def read_all(self):
        lio.run("fio", "--name=r", f"--filename={self.path}", "--direct=1", "--rw=read", "--bs=16m", "--size=16m",
                "--offset_increment=16m", f"--numjobs={READERS}", "--thread", "--ioengine=psync")

    def pages(self):
        return int(self.backstore.get("pages_resident"))

    def is_small(self):
        return self.pages() <= int(self.backstore.get("blocks_reserve")) + RING_PAGES


def wait_12_s(busy):
    time.sleep(12)


def drop_caches(busy):
    lio.drop_caches()


def take_all_memory(busy):
    """A process takes memory until the kernel ends it for want of more, while BUSY is read."""
    over = threading.Event()

    def read():
        reads = 0
        while not over.is_set():
            assert lio.read_blocks(busy.path, 0, 128, seconds=900)
            reads += 1
        return reads

    reader = lio.background(read)
    try:
        assert subprocess.run([sys.executable, "-c", HOG]).returncode == -9
    finally:
        over.set()
    assert reader.result(120) > 0


CAUSES = {"12 s idle": wait_12_s, "drop_caches": drop_caches, "memory hog": take_all_memory}


def check(module):
    loop, runner = lio.Loop(), lio.Runner()
    disk, busy = Disk(loop, "disk"), Disk(loop, "busy")
    ours = module == "ours"
    figures = {"before": lio.memory_kb(runner.pid)}
    for name, cause in CAUSES.items():
        if ours:  # of two causes only the one that is looked at
            disk.backstore.set("idle_time_out", 0)
        disk.read_all()
        figures["read"] = lio.memory_kb(runner.pid)
        if ours and cause is wait_12_s:
            disk.backstore.set("idle_time_out", 10)
        cause(busy)
        figures[name] = lio.memory_kb(runner.pid)
        if ours:
            lio.wait_for(f"{name} to shrink it: {disk.pages()} pages", disk.is_small, seconds=30)
    print(f"{module:8}", "  ".join(f"{name}: {kb / 1024:.1f}" for name, kb in figures.items()), "MiB", flush=True)
    if ours:
        print(f"{disk.pages() * PAGE_KB} kB left;", " ".join(f"{a}={disk.backstore.get(a)}" for a in (
            "blocks_resident_high", "pages_ring", "shrinks_idle", "shrinks_pressure", "bytes_returned")), flush=True)
        assert int(disk.backstore.get("blocks_resident_high")) * PAGE_KB >= 1024
        assert int(disk.backstore.get("shrinks_idle")) > 0 and int(disk.backstore.get("shrinks_pressure")) > 0
    for d in (disk, busy):
        loop.withdraw(d.backstore)
        d.backstore.remove()
    loop.remove()
    runner.stop()


for module in lio.MODULES:
    with lio.tcmu(module):
        check(module)
