#!/usr/bin/python3
"""Memory is taken away all the time, and no byte is wrong.

fio writes and verifies two disks whose data areas together have 2 MiB, less than what is in flight. Meanwhile caches are dropped in a loop, what
is unused for a second goes, and userspace forgets its mappings (MADV_DONTNEED), so that any access may fault: a page freed while it is
faulted in, found through a stale entry, or given to two, would show.

check: kernels=6.1,6.12 seconds=600 soak
"""
import contextlib
import threading

import lio

MIB = 1 << 20
SECONDS = 40
CAUSES = ("shrinks_pressure", "shrinks_steal", "shrinks_idle")


@contextlib.contextmanager
def caches_dropped():
    over = threading.Event()

    def drop():
        while not over.is_set():
            lio.drop_caches(2)

    dropper = lio.background(drop)
    try:
        yield
    finally:
        over.set()
        dropper.result(120)


with lio.tcmu("ours"):
    lio.set_parameter("global_max_data_area_mb", 2)
    lio.set_parameter("idle_time_out", 1)
    made, loop = [lio.Backstore(f"v{n}", 32 * MIB) for n in range(2)], lio.Loop()
    server = lio.Server("v", forget=True)
    jobs = [word for b in made for word in (f"--name={b.name}", f"--filename={loop.export_patiently(b)}")]
    with caches_dropped():
        said = lio.run("fio", "--direct=1", "--rw=randrw", "--bsrange=4k-256k", "--iodepth=32", "--ioengine=libaio", "--verify=crc32c",
                       "--verify_fatal=1", "--verify_backlog=64", "--time_based", f"--runtime={SECONDS}", *jobs)
    print(*(line.strip() for line in said.splitlines() if "IOPS=" in line), sep="\n")
    for b in made:
        counts = {name: int(b.get(name)) for name in (*CAUSES, "pages_returned", "full_budget")}
        print(b.name, *(f"{name}={n}" for name, n in counts.items()), flush=True)
        assert counts["shrinks_pressure"] and counts["shrinks_steal"]
    loop.remove()
    server.stop()
    for b in made:
        b.remove()
