# SPDX-License-Identifier: GPL-2.0-or-later
"""Killed at any instant - the daemon, nbdkit, both - nothing acknowledged is lost and clients go on."""
import json
import os
import random
import signal
import subprocess
import time

import nbd
import pytest

from conftest import PACE, SLOW, TOOLS, free_port, nbdkits_of
from controllib import wait_for
from nbdlib import Nbdkit


def kill_nbdkit(e):
    for pid in nbdkits_of(e.folder):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass


def n_sessions(e):
    """Those that have a LUN: nbdkit's own connection has none."""
    return sum(s["export"] != "" for s in json.loads(e.cli("--json", "session", "list").stdout))


def survive(e, kills, seed):
    """Runs the checker with reconnection while things are killed; it verifies all data at its end."""
    rng = random.Random(seed)
    check = subprocess.Popen(
        [TOOLS / "consistency/consistency", "--iscsi", e.iscsi(), "--iscsi", e.iscsi(), "--nbd", e.nbd(), "--nbd", e.nbd(),
         f"--reconnect={30 * SLOW}", "--seconds", str(kills * 60 * SLOW), "--seed", str(seed)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL)
    done = 0
    try:
        wait_for("the checker's sessions", lambda: n_sessions(e) == 4)
        for i in range(kills):
            time.sleep(rng.uniform(0.3, 1.5) * PACE)
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
        time.sleep(2 * PACE)
        check.terminate()  # it ends with reading all that was written
        out = check.communicate(timeout=(kills * 5 + 180) * SLOW)[0]
    finally:
        if check.poll() is None:
            check.kill()
            check.wait()
    assert check.returncode == 0, f"after {done} kills:\n{out}\n{e.stderr()}"
    assert done == kills
    return out


@pytest.mark.long
@pytest.mark.parametrize("mode", ["direct", "buffered"])
def test_killed_under_load_loses_nothing(ebb, disk, mode):
    e = ebb(f"{disk('32M')},io={mode}", nbd=f"127.0.0.1:{free_port()}")
    survive(e, 3, seed=3)
    assert len(nbdkits_of(e.folder)) == 1


class Load:
    """An NBD client that knows nothing of reconnecting: writes and reads at depth, and remembers."""

    BLOCK, BLOCKS, DEPTH = 4096, 4096, 32

    def __init__(self, uri, seed):
        self.rng = random.Random(seed)
        self.model, self.flying = {}, {}
        self.h = nbd.NBD()
        self.h.connect_uri(uri)
        self.done = 0

    def start_one(self):
        i = self.rng.randrange(self.BLOCKS)
        if i in self.flying:
            return
        if self.rng.random() < 0.5 and i in self.model:
            buf, data = nbd.Buffer(self.BLOCK), None
            cookie = self.h.aio_pread(buf, i * self.BLOCK)
        else:
            data = self.rng.randbytes(self.BLOCK)
            buf = nbd.Buffer.from_bytearray(bytearray(data))
            cookie = self.h.aio_pwrite(buf, i * self.BLOCK)
        self.flying[i] = (cookie, buf, data)

    def reap(self):
        """An error of a request is an exception of libnbd's."""
        for i, (cookie, buf, data) in list(self.flying.items()):
            if not self.h.aio_command_completed(cookie):
                continue
            if data is None:
                assert bytes(buf.to_bytearray()) == self.model[i], f"block {i}"
            else:
                self.model[i] = data
            del self.flying[i]
            self.done += 1

    def run(self, seconds, until=0):
        """For so long, and on until so many are done."""
        end = time.monotonic() + seconds
        while time.monotonic() < end or self.done < until:
            while len(self.flying) < self.DEPTH:
                self.start_one()
            self.h.poll(20)
            self.reap()

    def finish(self):
        while self.flying:
            self.h.poll(1000)
            self.reap()
        self.h.flush()
        size, step = self.BLOCK * self.BLOCKS, 1 << 20
        disk = b"".join(self.h.pread(step, off) for off in range(0, size, step))
        for i, data in self.model.items():
            assert disk[i * self.BLOCK:(i + 1) * self.BLOCK] == data, f"block {i}"
        self.h.shutdown()


@pytest.mark.parametrize("served", ["supervised", "by hand"])
def test_killed_daemon_is_no_error_for_a_plain_nbd_client(ebb, disk, tmp_path, served):
    e = ebb(f"{disk('32M')},name=one", nbd=f"127.0.0.1:{free_port()}")
    hand = None
    if served == "by hand":
        hand = Nbdkit(tmp_path, "lun=one", f"socket={next(e.folder.glob('*port.sock'))}")
    pids = nbdkits_of(e.folder)
    load = Load(hand.uri() if hand else e.nbd("one"), 5)
    for _ in range(3):
        load.run(0.5 * PACE)
        before = load.done
        e.kill()
        load.run(0.3)
        e.start()
        load.run(0.7, until=before + 10 * Load.DEPTH)
    load.finish()
    assert nbdkits_of(e.folder) == pids
    if hand:
        assert hand.stop() == 0


@pytest.mark.soak
@pytest.mark.plain(reason="fifty starts of a sanitized daemon and their load take most of an hour")
def test_killed_fifty_times(ebb, disk):
    e = ebb(disk("32M"), nbd=f"127.0.0.1:{free_port()}")
    print(survive(e, 50, seed=os.getpid()))


def test_stop_leaves_no_process(ebb, disk):
    e = ebb(disk("16M"))
    assert len(nbdkits_of(e.folder)) == 1
    assert e.stop() == 0
    assert nbdkits_of(e.folder) == []
