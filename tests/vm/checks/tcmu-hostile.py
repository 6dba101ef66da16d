#!/usr/bin/python3
"""A userspace that does everything wrong (tests/tools/tcmu/hostile.c), while commands come and memory is asked back.

The kernel has nothing to say to that, every command ends, a device can be removed under its mapping, and afterwards the
others are as good as new. In soaks for ten minutes.

check: kernels=6.1,6.12 seconds=900 soak
"""
import contextlib
import os
import pathlib
import threading
import time

import lio

MIB = 1 << 20
SECONDS = 600 if os.environ.get("EBB_SOAK") == "1" else 15


@contextlib.contextmanager
def memory_asked_back():
    over = threading.Event()

    def shrink():
        while not over.wait(0.05):
            for mb in (1, 2048):
                with contextlib.suppress(OSError):  # 1 MiB is refused while reserves are larger
                    lio.set_parameter("global_max_data_area_mb", mb)
            lio.drop_caches()

    shrinker = lio.background(shrink)
    try:
        yield
    finally:
        over.set()
        shrinker.result(120)


def load(disk, until):
    """Reads and writes; whether they succeed is up to the userspace, that they end is up to us."""
    while time.monotonic() < until:
        with contextlib.suppress(OSError):
            lio.read_blocks(disk, 0, 1024, seconds=60)
            lio.scsi(disk, bytes([0x2A, 0, 0, 0, 0, 0, 0, 0, 64, 0]), data=bytes(64 * 512), seconds=60)


def sample_the_heap():
    """Kernels that have KFENCE look out for what their allocator does not see."""
    with contextlib.suppress(OSError):
        pathlib.Path("/sys/module/kfence/parameters/sample_interval").write_text("10")


def bring_back(disk):
    """The SCSI layer takes a disk offline that has answered nonsense even to its error handling. So it should."""
    state = pathlib.Path(f"/sys/block/{disk[5:]}/device/state")

    def is_running():
        with contextlib.suppress(OSError):  # refused while it is being worked on
            lio.write(state, "running\n")  # with its newline, or it is refused
        return state.read_text() == "running\n"

    lio.wait_for(f"{disk} to be back", is_running)


sample_the_heap()
with lio.tcmu("ours"):
    made, loop = [lio.Backstore(f"h{n}", 8 * MIB, max_data_area_mb=4) for n in range(3)], lio.Loop()
    server = lio.Server("h")
    disks = [loop.export(b) for b in made]
    server.stop()
    for b in made:
        b.set("cmd_time_out", 1)

    seed, begin = int(time.time()), time.monotonic()
    where = [f"{lio.find_uio(b.name).name}={b.path}" for b in made]
    with memory_asked_back():
        hostile = lio.background(lio.run, lio.TOOLS / "hostile", SECONDS, seed, *where)
        loads = {d: [lio.background(load, d, begin + SECONDS * (0.5 if d == disks[2] else 1)) for _ in range(4)]
                 for d in disks}
        for f in loads[disks[2]]:
            f.result(300)
        loop.withdraw(made[2])
        made[2].remove()
        print(hostile.result(SECONDS + 300), f"seed {seed}", flush=True)
        for d in disks[:2]:
            for f in loads[d]:
                f.result(300)

    for b in made[:2]:
        for name, value in (("block_dev", 1), ("reset_ring", 2), ("block_dev", 0)):
            (b.path / "action" / name).write_text(str(value))
    server = lio.Server("h")
    for d in disks[:2]:
        bring_back(d)
    lio.wait_for("both devices to work again", lambda: all(lio.read_blocks(d, 0, 1024) for d in disks[:2]))
    server.stop()
    loop.remove()
    for b in made[:2]:
        b.remove()
