# SPDX-License-Identifier: GPL-2.0-or-later
"""Killed at any instant - the daemon, nbdkit, both - nothing acknowledged is lost and clients go on."""
import os
import pathlib
import random
import signal
import subprocess
import time

import pytest

from conftest import SLOW, TOOLS, free_port


def nbdkits_of(e):
    """Process ids of nbdkit whose command line or environment names this instance's folder."""
    found = []
    for p in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            cmd = (p / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if b"nbdkit" in cmd[0].rsplit(b"/", 1)[-1] and any(str(e.folder).encode() in a for a in cmd):
            found.append(int(p.name))
    return found


def kill_nbdkit(e):
    for pid in nbdkits_of(e):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def survive(e, kills, seed):
    """Runs the checker with reconnection while things are killed; it verifies all data at its end."""
    rng = random.Random(seed)
    check = subprocess.Popen(
        [TOOLS / "consistency/consistency", "--iscsi", e.iscsi(), "--iscsi", e.iscsi(), "--nbd", e.nbd(), "--nbd", e.nbd(),
         "--reconnect", "--seconds", str(int(kills * 3.5 * SLOW) + 5), "--seed", str(seed)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL)
    done = 0
    try:
        for i in range(kills):
            time.sleep(rng.uniform(0.3, 1.5) * SLOW)
            assert check.poll() is None, f"the checker ended after {done} kills:\n{check.communicate()[0]}"
            what = ("daemon", "nbdkit", "both")[i % 3]
            if what != "nbdkit":
                e.kill()
            if what != "daemon":
                kill_nbdkit(e)
            if what != "nbdkit":
                time.sleep(rng.uniform(0, 0.3))
                e.start()
            done += 1
        out = check.communicate(timeout=(kills * 5 + 180) * SLOW)[0]
    finally:
        if check.poll() is None:
            check.kill()
            check.wait()
    assert check.returncode == 0, f"after {done} kills:\n{out}\n{e.stderr()}"
    assert done == kills
    return out


@pytest.mark.parametrize("mode", ["direct", "buffered"])
def test_killed_under_load_loses_nothing(ebb, disk, mode):
    e = ebb(f"{disk('32M')},io={mode}", nbd=f"127.0.0.1:{free_port()}")
    survive(e, 3, seed=3)
    assert len(nbdkits_of(e)) == 1


@pytest.mark.soak
@pytest.mark.plain
def test_killed_fifty_times(ebb, disk):
    e = ebb(disk("32M"), nbd=f"127.0.0.1:{free_port()}")
    print(survive(e, 50, seed=os.getpid()))


def test_stop_leaves_no_process(ebb, disk):
    e = ebb(disk("16M"))
    assert len(nbdkits_of(e)) == 1
    assert e.stop() == 0
    assert nbdkits_of(e) == []
