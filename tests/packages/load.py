#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes and reads back one block after another until standard input ends; tells operations, errors and stalls.
   load.py NAME nbd://... | /dev/DISK
Each line on standard input ends a round. A round's longest operation is its stall."""
import mmap
import os
import select
import sys
import time

BLOCK = 4096


class Disk:
    """A block device, past the page cache."""

    def __init__(self, path):
        self.fd = os.open(path, os.O_RDWR | os.O_DIRECT)
        self.buffer = mmap.mmap(-1, BLOCK)

    def get_size(self):
        return os.lseek(self.fd, 0, os.SEEK_END)

    def pwrite(self, data, at):
        self.buffer[:] = data
        os.pwritev(self.fd, [self.buffer], at)

    def pread(self, length, at):
        os.preadv(self.fd, [self.buffer], at)
        return self.buffer[:length]


def connect(where):
    if where.startswith("/"):
        return Disk(where)
    import nbd
    h = nbd.NBD()
    h.connect_uri(where)
    return h


def quantiles(seconds):
    """p50, p99 and the longest, for people."""
    seconds = sorted(seconds)
    at = [seconds[len(seconds) * p // 100] for p in (50, 99)] + [seconds[-1]]
    return "p50 {:.1f}, p99 {:.1f}, longest {:.1f} ms".format(*(s * 1e3 for s in at))


def main(name, where):
    disk = connect(where)
    blocks = disk.get_size() // BLOCK
    took, stalls, round_began = [], [], 0
    print("running", flush=True)
    while True:
        if select.select([sys.stdin], [], [], 0)[0]:
            said = os.read(sys.stdin.fileno(), BLOCK)
            if not said:
                break
            stalls.append(max(took[round_began:], default=0))
            round_began = len(took)
        n = len(took)
        data = n.to_bytes(8, "little") * (BLOCK // 8)
        at = n % blocks * BLOCK
        begin = time.monotonic()
        disk.pwrite(data, at)
        if disk.pread(BLOCK, at) != data:
            raise SystemExit(f"{name}: wrong data at {at}")
        took.append(time.monotonic() - begin)
    print(f"{name}: {len(took)} writes read back, no error: {quantiles(took)}")
    if stalls:
        print(f"{name}: stalls of {len(stalls)} rounds: {quantiles(stalls)}")


main(*sys.argv[1:])
