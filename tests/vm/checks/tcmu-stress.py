#!/usr/bin/python3
"""Pages come and go under I/O: no byte is wrong, and no hostile userspace brings the kernel to say a word.

Userspace forgets its mappings all the time (MADV_DONTNEED, so that every access faults) while memory is asked back and fio
verifies what it wrote: a page that is freed while it is faulted in, or found through a stale entry, would show. Then
userspace does everything wrong (tests/tools/tcmu/hostile.c) under the same load, in soaks for ten minutes.

check: kernels=6.1,6.12 seconds=600 soak
"""
import contextlib
import os
import threading
import time

import lio

MIB = 1 << 20
SOAK = os.environ.get("EBB_SOAK") == "1"


@contextlib.contextmanager
def memory_asked_back():
    """Shrinks all data areas, again and again."""
    over = threading.Event()

    def shrink():
        while not over.is_set():
            for mb in (1, 2048):
                with contextlib.suppress(OSError):
                    lio.set_parameter("global_max_data_area_mb", mb)
            lio.drop_caches()

    shrinker = lio.background(shrink)
    yield
    over.set()
    shrinker.result(120)


def verify_while_forgetting():
    b, loop = lio.Backstore("v", 32 * MIB), lio.Loop()
    server = lio.Server("v", forget=True)
    disk = loop.export(b)
    with memory_asked_back():
        lio.run("fio", "--name=v", f"--filename={disk}", "--direct=1", "--rw=randrw", "--bsrange=4k-256k", "--iodepth=32",
                "--ioengine=libaio", "--verify=crc32c", "--verify_fatal=1", "--verify_backlog=64", "--time_based",
                f"--runtime={120 if SOAK else 10}")
    loop.remove()
    server.stop()
    b.remove()


def hostile():
    seconds = 600 if SOAK else 10
    made, loop = [lio.Backstore(f"h{n}", 8 * MIB, max_data_area_mb=4) for n in range(3)], lio.Loop()
    server = lio.Server("h")
    disks = [loop.export(b) for b in made]
    server.stop()
    for b in made:
        b.set("cmd_time_out", 1)
    over = time.monotonic() + seconds + 2

    def load(disk):  # whether a command succeeds is up to its userspace; that it ends is up to us
        while time.monotonic() < over:
            lio.read_blocks(disk, 0, 1024, seconds=20)

    seed = int(time.time())
    with memory_asked_back():
        loads = [lio.background(load, d) for d in disks for _ in range(4)]
        print(lio.run(lio.TOOLS / "hostile", seconds, seed, *(lio.find_uio(b.name).name for b in made)), f"seed {seed}", flush=True)
        for f in loads:
            f.result(300)
    for b in made:
        (b.path / "action/block_dev").write_text("1")
        (b.path / "action/reset_ring").write_text("2")
        (b.path / "action/block_dev").write_text("0")
    server = lio.Server("h")  # the device is as good as new
    assert all(lio.read_blocks(d, 0, 1024) for d in disks)
    server.stop()
    loop.remove()
    for b in made:
        b.remove()


with lio.tcmu("ours"):
    verify_while_forgetting()
    hostile()
