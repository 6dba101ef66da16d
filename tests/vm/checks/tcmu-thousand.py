#!/usr/bin/python3
"""Many backstores under one limit: what each costs, and that all work at once though they may not all grow.

1,000 of ours under 256 MiB; of the in-tree module 100 under 25 MiB (one of it costs 8 MiB). fio has one command of 512 KiB in
flight on each disk at the same time, twice what the limit allows. The first round, of writes, userspace holds until each command
either has its blocks or is refused some, so that the limit can be compared with what there is. The second, in which fio
reads and verifies, runs freely: the slowest of its commands is the longest wait.

check: kernels=6.1,6.12 seconds=1500 soak memory=3072
"""
import json
import resource
import threading
import time

import lio

BYTES, PAGE_KB = 512 << 10, 4
FIO_SAYS = "/tmp/fio.json"
DISKS_A_JOB = 250


def sum_of(made, *attributes):
    return sum(int(b.get(a)) for b in made for a in attributes)


def create(module, count):
    lio.drop_caches()
    before, begin = lio.available_kb(), time.monotonic()
    made = [lio.Backstore(f"m{n}", BYTES) for n in range(count)]
    seconds = time.monotonic() - begin
    lio.drop_caches()
    each = (before - lio.available_kb()) / count
    print(f"{module:8} {count} backstores in {seconds:.1f} s, {1000 * seconds / count:.1f} ms each; {each:.0f} kB each when idle",
          flush=True)
    assert module != "ours" or each <= 256
    return made


class Peak:
    """The highest of what a function returns, while it is watched."""

    def __init__(self, function):
        self.function, self.value, self.over = function, 0, threading.Event()
        self.thread = lio.background(self._watch)

    def _watch(self):
        while not self.over.wait(0.05):
            self.value = max(self.value, self.function())

    def end(self):
        self.over.set()
        self.thread.result(60)
        return self.value


def write_and_verify(disks):
    """What its jobs tell; one takes a list of names of 4 kB at most."""
    command = ["fio", "--direct=1", "--rw=write", f"--bs={BYTES}", "--ioengine=libaio", "--verify=crc32c", "--verify_fatal=1",
               "--thread", "--disk_util=0", "--output-format=json", f"--output={FIO_SAYS}"]
    for first in range(0, len(disks), DISKS_A_JOB):
        some = disks[first:first + DISKS_A_JOB]
        command += [f"--name=from{first}", "--filename=" + ":".join(some), f"--iodepth={len(some)}"]
    lio.run(*command)
    with open(FIO_SAYS) as f:
        return json.load(f)["jobs"]


def look_at_the_held(made, limit_mb, fio):
    """Each command has blocks or has been refused some; what there is now stays until the server goes on."""
    left = list(made)

    def has_room(b):
        return int(b.get("blocks_busy")) * PAGE_KB * 1024 >= BYTES

    def all_have_asked():
        assert not fio.done(), fio.result()
        left[:] = [b for b in left if b.get("full_budget") == "0" and not has_room(b)]
        return not left

    lio.wait_for("commands to have room or wait", all_have_asked, seconds=600)
    data_mb = sum_of(made, "blocks_busy", "blocks_cached") * PAGE_KB / 1024
    served = sum(map(has_room, made))
    print(f"         held: {served} have their blocks, {len(made) - served} wait; {data_mb:.1f} MiB of {limit_mb}", flush=True)
    assert 0 < served < len(made)
    assert data_mb <= limit_mb


def work(module, made, limit_mb):
    hold = module == "ours"  # the in-tree module does not tell who waits
    server, loop = lio.Server("m", hold=BYTES if hold else None), lio.Loop()
    assert server.devices == len(made)
    begin = time.monotonic()
    disks = [loop.export_patiently(b) for b in made]
    print(f"         {len(disks)} disks in {time.monotonic() - begin:.1f} s", flush=True)
    idle = lio.memory_kb(server.pid)
    fio = lio.background(write_and_verify, disks)
    if hold:
        look_at_the_held(made, limit_mb, fio)
    mapped = Peak(lambda: lio.memory_kb(server.pid))
    if hold:
        server.release()
    jobs = fio.result(1200)
    peak_mb = (mapped.end() - idle) / 1024
    for kind in ("write", "read"):
        assert sum(job[kind]["total_ios"] for job in jobs if job["error"] == 0) == len(disks)
        slowest = max(job[kind]["lat_ns"]["max"] for job in jobs) / 1e9
        print(f"         {kind}: {len(disks)} commands, slowest {slowest:.1f} s", flush=True)
    print(f"         mapped beyond idle at most: {peak_mb:.1f} MiB of {limit_mb}", flush=True)
    if hold:
        look_at_the_end(made, limit_mb)
        assert peak_mb <= limit_mb + sum_of(made, "pages_ring") * PAGE_KB / 1024
    loop.remove()
    server.stop()


def look_at_the_end(made, limit_mb):
    high = lio.get_parameter("data_area_high_kb")
    longest = max(int(b.get("qfull_wait_max_ms")) for b in made)
    print(f"         charged at most {high / 1024:.1f} MiB; {sum_of(made, 'qfull_waits')} commands waited for room, the longest "
          f"{longest / 1000:.1f} s; taken from others {sum_of(made, 'shrinks_steal')} times", flush=True)
    assert high <= limit_mb * 1024
    assert sum_of(made, "timeouts_cmd", "timeouts_qfull") == 0
    reserved = sum_of(made, "blocks_reserve") * PAGE_KB
    lio.wait_for("all to be idle", lambda: lio.get_parameter("data_area_kb") == reserved)
    pages = sum_of(made, "pages_resident") * PAGE_KB / len(made)
    print(f"         idle again: {pages:.0f} kB of pages each, {sum_of(made, 'pages_ring') * PAGE_KB / len(made):.0f} of them ring",
          flush=True)


resource.setrlimit(resource.RLIMIT_NOFILE, (65536, 65536))
for module, count, limit_mb in (("in-tree", 100, 25), ("ours", 1000, 256)):
    with lio.tcmu(module):
        lio.set_parameter("global_max_data_area_mb", limit_mb)
        made = create(module, count)
        work(module, made, limit_mb)
        for b in made:
            b.remove()
