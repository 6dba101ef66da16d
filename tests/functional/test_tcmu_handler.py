# SPDX-License-Identifier: GPL-2.0-or-later
"""handler_ebb.so, loaded by a runner without a kernel, before a daemon that is killed."""
import random
import re
import signal
import subprocess
import time

import pytest

from conftest import BUILD, PACE, SLOW, TOOLS, run

HANDLER = BUILD / "plugins/tcmu-runner/handler_ebb.so"
LOAD = TOOLS / "runner/runner_load"
SIZE = 32 << 20


class Load:
    def __init__(self, e, depth):
        port = next(e.folder.glob("*port.sock"))
        self.proc = subprocess.Popen([LOAD, HANDLER, f"ebb/a;socket={port}", str(SIZE), "3600", str(depth)],
                                     stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert self.proc.stdout.readline() == "ready\n", self.proc.communicate()[0]

    def finish(self):
        """Ends it and returns its figures."""
        self.proc.send_signal(signal.SIGTERM)
        out = self.proc.communicate(timeout=60 * SLOW)[0]
        assert self.proc.returncode == 0, out
        return {k: int(v) for k, v in re.findall(r"(\w+)=(\d+)", out)}


@pytest.fixture
def load():
    started = []

    def start(*args):
        started.append(Load(*args))
        return started[-1]

    yield start
    for w in started:
        if w.proc.poll() is None:
            w.proc.kill()
            w.proc.wait()


@pytest.mark.long
@pytest.mark.parametrize("mode", ["direct", "buffered"])
@pytest.mark.parametrize("depth", [8, 200])
def test_a_killed_daemon_does_not_show(ebb, disk, load, mode, depth):
    e = ebb(f"{disk(SIZE)},name=a,io={mode}")
    rng = random.Random(depth)
    w = load(e, depth)
    for i in range(3):
        time.sleep(rng.uniform(0.2, 0.8) * PACE)
        assert w.proc.poll() is None, w.proc.communicate()[0]
        if i == 1:
            assert e.stop() == 0
        else:
            e.kill()
        e.start()
    time.sleep(0.3 * PACE)
    got = w.finish()
    assert got["errors"] == 0
    assert got["ops"] > depth and got["counted"] > 0


def test_refusals_say_why(ebb, disk):
    e = ebb(f"{disk(SIZE)},name=a")
    port = next(e.folder.glob("*port.sock"))
    for config, why in ((f"ebb/b;socket={port}", "LUN b: no such LUN"), ("ebb/", "no LUN: expected ebb/LUN")):
        p = run(LOAD, HANDLER, config, SIZE, 1, check=False)
        assert p.returncode == 2 and f"refused: {why}" in p.stdout, p.stdout
    p = run(LOAD, HANDLER, f"ebb/a;socket={port}", SIZE + 512, 1, check=False)
    assert p.returncode == 2 and f"the LUN has {SIZE} bytes, the backstore {SIZE + 512}" in p.stdout
