# SPDX-License-Identifier: GPL-2.0-or-later
"""What scripts/bench measures with: rawinit and `qemu-img bench` for iSCSI, fio's nbd engine for NBD, its
libaio engine and dd for files.

Each client returns a sample: iops, mb_per_s, p50_us, p99_us (where the client tells), cpu_per_mio (CPU seconds of the
server's processes per million I/Os).
"""
import json
import os
import pathlib
import re
import subprocess
import time

CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


class ClientError(Exception):
    pass


class Row:
    """One workload."""

    def __init__(self, name, rw, block_size, depth):
        self.name, self.rw, self.block_size, self.depth = name, rw, block_size, depth

    @property
    def is_write(self):
        return "write" in self.rw


def cpu_seconds(pids):
    total = 0
    for pid in pids:
        try:
            fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += int(fields[11]) + int(fields[12])
    return total / CLOCK_TICKS


def run_client(cmd, seconds):
    cmd = [str(c) for c in cmd]
    try:
        done = subprocess.run(cmd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                              timeout=seconds)
    except subprocess.TimeoutExpired:
        raise ClientError(f"{cmd[0]} takes longer than {seconds:.0f} s") from None
    if done.returncode:
        raise ClientError(f"{' '.join(cmd)}: exit {done.returncode}: {(done.stderr or done.stdout).strip()[-400:]}")
    return done.stdout


def run_rawinit(context, server, row, seconds):
    cmd = [context.rawinit, "--rw", row.rw, "--bs", row.block_size, "--depth", row.depth, "--seconds", seconds,
           "--warmup", context.warmup, "--seed", context.next_seed()]
    for pid in server.pids:
        cmd += ["--server-pid", pid]
    result = json.loads(run_client([*cmd, server.url], seconds + 60))
    return {"iops": result["iops"], "mb_per_s": result["mb_per_s"], "p50_us": result["latency_us"]["p50"],
            "p99_us": result["latency_us"]["p99"], "cpu_per_mio": result["server_cpu_per_mio"]}


def run_qemu_img(context, server, row, seconds):
    """A second opinion: qemu-img counts I/Os, not seconds, and steps through the disk instead of jumping about."""
    count = max(1000, int(seconds * 20000))
    step = row.block_size * 257  # prime: comes round to every block
    cmd = ["qemu-img", "bench", "-f", "raw", "-t", "none", "-c", count, "-d", row.depth, "-s", row.block_size,
           "-S", step, *(["-w"] if row.is_write else []), server.url]
    before = cpu_seconds(server.pids)
    took = re.search(r"in ([0-9.]+) seconds", run_client(cmd, seconds * 20 + 60))
    if not took:
        raise ClientError("qemu-img bench says no time")
    rate = count / float(took[1])
    return {"iops": rate, "mb_per_s": rate * row.block_size / 1e6,
            "cpu_per_mio": (cpu_seconds(server.pids) - before) / count * 1e6}


def run_fio(context, server, row, seconds):
    return fio(context, server, row, seconds, "--ioengine=nbd", f"--uri={server.url}")


def run_fio_file(context, server, row, seconds):
    return fio(context, server, row, seconds, "--ioengine=libaio", "--direct=1", f"--filename={server.url}",
               "--allow_file_create=0", "--fallocate=none")


def run_dd(context, server, row, seconds):
    """The whole file once, as dd does by default: not O_DIRECT."""
    which = [f"of={server.url}", "if=/dev/zero", "conv=notrunc"] if row.is_write else [f"if={server.url}", "of=/dev/null"]
    size = os.path.getsize(server.url)
    before = cpu_seconds(server.pids)
    start = time.monotonic()
    run_client(["dd", f"bs={row.block_size}", f"count={size // row.block_size}", *which], seconds * 20 + 60)
    took, count = time.monotonic() - start, size // row.block_size
    return {"iops": count / took, "mb_per_s": size / took / 1e6,
            "cpu_per_mio": (cpu_seconds(server.pids) - before) / count * 1e6}


def fio(context, server, row, seconds, *engine):
    cmd = ["fio", "--name=bench", *engine, f"--rw={row.rw}", f"--bs={row.block_size}", f"--iodepth={row.depth}",
           "--time_based", f"--runtime={seconds}", "--thread", "--norandommap", f"--randseed={context.next_seed()}", "--output-format=json"]
    before = cpu_seconds(server.pids)
    output = run_client(cmd, seconds + 60)
    used = cpu_seconds(server.pids) - before
    job = json.loads(output[output.index("{"):])["jobs"][0]
    side = job["write" if row.is_write else "read"]
    if job["error"] or not side["total_ios"]:
        raise ClientError(f"fio: error {job['error']}")
    percentiles = side["clat_ns"]["percentile"]
    return {"iops": side["iops"], "mb_per_s": side["iops"] * row.block_size / 1e6,
            "p50_us": percentiles["50.000000"] / 1e3, "p99_us": percentiles["99.000000"] / 1e3,
            "cpu_per_mio": used / side["total_ios"] * 1e6}
