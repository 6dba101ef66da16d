#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Writes and reads back over one NBD connection until standard input ends; tells operations, errors and stalls.
   nbd_load.py URI"""
import select
import sys
import time

import nbd

h = nbd.NBD()
h.connect_uri(sys.argv[1])
blocks = h.get_size() // 4096
took, n = [], 0
print("running", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    data = n.to_bytes(8, "little") * 512
    at = n % blocks * 4096
    begin = time.monotonic()
    h.pwrite(data, at)
    if h.pread(4096, at) != data:
        raise SystemExit(f"wrong data at {at}")
    took.append(time.monotonic() - begin)
    n += 1
took.sort()
print(f"nbd: {n} writes read back, no error; p50 {took[n // 2] * 1e3:.1f} ms, p99 {took[n * 99 // 100] * 1e3:.1f} ms, "
      f"longest {took[-1]:.2f} s")
