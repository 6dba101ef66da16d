#!/usr/bin/python3
"""What the data area costs, and when it is given back: a table, the in-tree module's figures beside ours.

Growth is made, not hoped for: userspace holds 64 reads of 512 KiB until all are there (32 MiB). RssFile of userspace is what
it has mapped of the area. The in-tree module is only measured; ours has to be back near where it began: of itself when idle,
when caches are dropped, and when another process wants the memory while I/O runs on another device.

check: kernels=6.1,6.12 seconds=600 soak
"""
import contextlib
import threading
import time

import lio

MIB, READS, BLOCKS = 1 << 20, 64, 1024


class Disk:
    """A backstore served by a process of its own, and its disk here."""

    def __init__(self, loop, name):
        self.backstore = lio.Backstore(name, 64 * MIB)
        self.server = lio.Server(name, hold=65536)
        self.server.release()
        self.path = loop.export(self.backstore)

    def grow(self):
        """READS reads, all in the data area at the same time."""
        self.server.hold()
        reads = [lio.background(lio.read_blocks, self.path, n * BLOCKS, BLOCKS) for n in range(READS)]
        self.server.wait_held(READS)
        self.server.release()
        assert all(r.result(120) for r in reads)

    def rss(self):
        return lio.memory_kb(self.server.pid)


@contextlib.contextmanager
def caches_dropped():
    lio.drop_caches()
    yield


@contextlib.contextmanager
def memory_wanted(busy):
    """Another process takes the memory while another device reads."""
    stop, failed = threading.Event(), []

    def read():
        while not stop.is_set():
            if not lio.read_blocks(busy.path, 0, 128):
                failed.append(1)

    reader = lio.background(read)
    with lio.memory_hog():
        yield
    stop.set()
    reader.result(60)
    assert not failed


SECONDS = {"idle": 12, "drop_caches": 0, "memory hog": 5}  # that the in-tree module gets
CAUSES = {"idle": lambda busy: contextlib.nullcontext(), "drop_caches": lambda busy: caches_dropped(), "memory hog": memory_wanted}


def measure(origin):
    loop = lio.Loop()
    quiet, busy = Disk(loop, "quiet"), Disk(loop, "busy")
    figures = {"before": quiet.rss()}
    floor = figures["before"] + 1024
    for name, cause in CAUSES.items():
        quiet.grow()
        figures["after I/O"] = quiet.rss()
        assert figures["after I/O"] > floor + 28 * 1024, figures
        with cause(busy):
            if origin == "ours":
                lio.wait_for(f"the area to shrink ({name}): {figures}", lambda: quiet.rss() < floor)
            else:
                time.sleep(SECONDS[name])
            figures[name] = quiet.rss()
    for d in (quiet, busy):
        loop.withdraw(d.backstore)
        d.server.stop()
        d.backstore.remove()
    loop.remove()
    print(f"{origin:8}", "  ".join(f"{k}: {v / 1024:.1f}" for k, v in figures.items()), "MiB", flush=True)


for module in lio.MODULES:
    with lio.tcmu(module):
        measure(module)
