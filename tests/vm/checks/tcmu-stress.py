#!/usr/bin/python3
"""Pages come and go under I/O, and no byte is wrong.

Userspace forgets its mappings all the time (MADV_DONTNEED, so that every access faults) while memory is asked back and fio
verifies what it wrote: a page that is freed while it is faulted in, or found through a stale entry, would show.

check: kernels=6.1,6.12 seconds=600 soak
"""
import contextlib
import os
import threading

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


with lio.tcmu("ours"):
    verify_while_forgetting()
