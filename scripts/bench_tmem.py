# SPDX-License-Identifier: GPL-2.0-or-later
"""The second-chance cache beside the same memory without it: tests/tools/tmem_gain, as a table."""
import json
import statistics

import bench_engine as engine

WAYS = ("plain", "tmem")
TIERS = ("memory", "zero", "tmem")
PATIENCE = 600  # seconds, for a slow disk
SLOWER_US = (0, 1000)  # the machine's own disk, and as if it were a millisecond away


def measure(program, image, mib, rounds, slower_us):
    """(samples of each (trace, depth, way) in the order of the rounds, what each (trace, way) held in the end)."""
    slices, held = {}, {}
    for line in engine.run([program, image, mib, rounds, slower_us], PATIENCE).splitlines():
        sample = json.loads(line)
        trace, way = sample.pop("trace"), sample.pop("way")
        if "depth" in sample:
            slices.setdefault((trace, sample.pop("depth"), way), []).append(sample)
        else:
            held[trace, way] = sample
    return slices, held


def percent(samples, tiers):
    return f"{100 * statistics.median(sum(s[t] for t in tiers) for s in samples):.1f}"


def lines_of(slices):
    """A table: medians, and the median of each round's ratio to the same memory without tmem."""
    lines = [["trace", "way", "depth", "hits %", *(f"{t} %" for t in TIERS), "IOPS", "x plain", "cpu/M"]]
    for trace, depth, way in slices:
        if way != WAYS[0]:
            continue
        for way in WAYS:
            mine, plain = slices[trace, depth, way], slices[trace, depth, WAYS[0]]
            ratio = statistics.median(a["iops"] / b["iops"] for a, b in zip(mine, plain))
            lines.append([trace, way, str(depth), percent(mine, TIERS), *(percent(mine, [t]) for t in TIERS),
                          f"{statistics.median(s['iops'] for s in mine):,.0f}", f"{ratio:.2f}",
                          f"{statistics.median(s['cpu_per_mio'] for s in mine):.1f}"])
    return lines


def lines_of_held(held):
    """Of what each way held in the end, and what its reads took, by tier."""
    lines = [["trace", "way", "held MiB", "index", "tmem", "pages", "tmem's", "memory us", "tmem us", "p99",
              "store us"]]
    for (trace, way), s in held.items():
        us = s["us"]
        lines.append([trace, way, *(f"{s[k] / (1 << 20):.1f}" for k in ("held", "index", "tmem_resident")),
                      f"{s['cache_pages']:,}", f"{s['tmem_pages']:,}", f"{us['memory']:.2f}", f"{us['tmem']:.1f}",
                      f"{us['tmem_p99']:.1f}", f"{us['store']:.0f}"])
    return lines
