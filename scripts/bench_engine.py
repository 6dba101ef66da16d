# SPDX-License-Identifier: GPL-2.0-or-later
"""The engine by itself, in one process with its client, beside fio's io_uring on the same file."""
import json
import statistics
import subprocess
import sys

DEPTHS = (1, 32)
WAYS = ("fio", "none", "cold", "hot")
BLOCK = 4096


def run(cmd, seconds):
    p = subprocess.run([str(c) for c in cmd], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                       timeout=seconds + 120)
    if p.returncode:
        sys.exit(f"bench: {cmd[0]}: exit {p.returncode}: {p.stderr.strip()}")
    return p.stdout


def run_fio(image, depth, seconds, seed):
    out = run(["fio", "--name=bench", f"--filename={image}", "--ioengine=io_uring", "--direct=1", "--rw=randread",
               f"--bs={BLOCK}", f"--iodepth={depth}", "--time_based", f"--runtime={seconds}", "--thread",
               f"--randseed={seed}", "--allow_file_create=0", "--lat_percentiles=1", "--clat_percentiles=0",
               "--output-format=json"], seconds)  # lat: from before the submission, as the engine's is
    job = json.loads(out[out.index("{"):])["jobs"][0]
    side, used = job["read"], (job["usr_cpu"] + job["sys_cpu"]) / 100 * seconds
    return {"iops": side["iops"], "p50_us": side["lat_ns"]["percentile"]["50.000000"] / 1e3,
            "p99_us": side["lat_ns"]["percentile"]["99.000000"] / 1e3, "cpu_per_mio": used / side["total_ios"] * 1e6}


def run_engine(program, image, depth, seconds, how, seed):
    return json.loads(run([program, image, depth, seconds, how, seed], seconds))


def measure(program, image, rounds, seconds):
    """{(depth, way): samples}; the ways alternate, and each round begins with another."""
    samples = {}
    for number in range(rounds):
        for depth in DEPTHS:
            for i in range(len(WAYS)):
                way = WAYS[(i + number) % len(WAYS)]
                seed = number * 1000 + depth
                if way == "fio":
                    sample = run_fio(image, depth, seconds, seed)
                else:
                    sample = run_engine(program, image, depth, seconds, way, seed)
                samples.setdefault((depth, way), []).append(sample)
    return samples


def lines_of(samples):
    """A table: medians, and the median of each round's ratio to its fio."""
    lines = [["4k randread", "way", "IOPS", "x fio", "p50 us", "p99 us", "cpu/M"]]
    for depth in DEPTHS:
        for way in WAYS:
            mine, fio = samples[depth, way], samples[depth, "fio"]
            m = {k: statistics.median(s[k] for s in mine) for k in ("iops", "p50_us", "p99_us", "cpu_per_mio")}
            ratio = statistics.median(a["iops"] / b["iops"] for a, b in zip(mine, fio))
            lines.append([f"d{depth}", way if way == "fio" else f"engine, {way}", f"{m['iops']:,.0f}", f"{ratio:.3f}",
                          f"{m['p50_us']:,.1f}", f"{m['p99_us']:,.1f}", f"{m['cpu_per_mio']:.2f}"])
    return lines
