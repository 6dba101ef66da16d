#!/usr/bin/python3
"""Many backstores under one limit of 256 MiB: what each costs, and that all can work at once though they may not all grow.

200 of them; 1,000 in soaks. The in-tree module is only measured (100, an idle one of it costs 8 MiB).

check: kernels=6.1,6.12 seconds=600 soak
"""
import os
import re
import threading
import time

import lio

MIB = 1 << 20
LIMIT_MB = 256
COUNT = 1000 if os.environ.get("EBB_SOAK") == "1" else 200


def create(count):
    """Creates backstores m0, m1, ...; returns them, the seconds, and the kB that each took."""
    before, begin = lio.available_kb(), time.monotonic()
    made = [lio.Backstore(f"m{n}", 4 * MIB) for n in range(count)]
    return made, time.monotonic() - begin, (before - lio.available_kb()) / count


def remove(made):
    for b in made:
        b.remove()


def report(origin, made, seconds, each):
    print(f"{origin:8} {len(made)} backstores in {seconds:.1f} s ({1000 * seconds / len(made):.1f} ms each), "
          f"{each:.0f} kB each when idle", flush=True)


class Peak:
    """The highest of what a function returns, while it is watched."""

    def __init__(self, function):
        self.function, self.value, self.over = function, function(), threading.Event()
        self.thread = lio.background(self._watch)

    def _watch(self):
        while not self.over.is_set():
            self.value = max(self.value, self.function())
            time.sleep(0.05)

    def end(self):
        self.over.set()
        self.thread.result(10)
        return self.value


with lio.tcmu("in-tree"):
    made, seconds, each = create(100)
    report("in-tree", made, seconds, each)
    remove(made)

with lio.tcmu("ours"):
    lio.set_parameter("global_max_data_area_mb", LIMIT_MB)
    made, seconds, each = create(COUNT)
    report("ours", made, seconds, each)
    assert each < 256
    server, loop = lio.Server("m", hold=MIB), lio.Loop()
    assert server.devices == COUNT
    disks = [loop.export(b) for b in made]
    for how in ("read", "write"):
        # Each wants 1 MiB and none is answered before the limit is reached: the rest have to wait for room.
        idle = lio.memory_kb(server.pid)
        server.hold()
        peak = Peak(lambda: lio.memory_kb(server.pid))
        burst = lio.background(lio.run, lio.TOOLS / "burst", how, MIB, 3, *disks)
        lio.wait_for("commands that wait", lambda: sum(int(b.get("qfull_data")) for b in made) > 0 or burst.done())
        server.release()
        told = burst.result(240)
        most = peak.end()
        print(f"ours     {how}: {told.strip()}; most at once {(most - idle) / 1024:.0f} MiB of {LIMIT_MB}", flush=True)
        assert f"{3 * COUNT} commands, 0 failed" in told
        assert most - idle <= LIMIT_MB * 1024 + 4 * COUNT
        assert int(re.search(r"slowest (\d+) ms", told)[1]) < 120000
    loop.remove()
    server.stop()
    remove(made)
