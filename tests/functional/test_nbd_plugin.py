# SPDX-License-Identifier: GPL-2.0-or-later
"""The nbdkit plugin, embedded and attached, with libnbd, nbdcopy, nbdinfo, qemu-img and fio."""
import errno
import json
import os
import pathlib
import random
import re
import resource
import signal
import socket
import subprocess
import threading
import time

import nbd
import pytest

from conftest import SLOW, need, run
from controllib import wait_for
from nbdlib import Nbdkit, PortServer, fails_with, refusal

MiB = 1 << 20
SIZE = 64 * MiB


class Server:
    """What a test of both forms needs: the URI, the backing file, and how to end it all."""

    def __init__(self, form, folder, path, flags=(), env=None):
        self.path = path
        self.port = None
        if form == "attached":
            self.port = PortServer(folder, (path, "disk"), env=env)
            self.nbdkit = Nbdkit(folder, f"socket={self.port.socket}", flags=flags)
            self.uri = self.nbdkit.uri("disk")
        else:
            args = ["ro=true"] if "-r" in flags else []
            self.nbdkit = Nbdkit(folder, f"file={path}", *args)
            self.uri = self.nbdkit.uri()

    def stop(self):
        assert self.nbdkit.stop() == 0
        if self.port:
            assert self.port.stop() == 0


@pytest.fixture(params=["embedded", "attached"])
def server(request, tmp_path, disk):
    s = Server(request.param, tmp_path, disk("64M"))
    yield s
    s.stop()


def connect(uri, allocation=False):
    h = nbd.NBD()
    if allocation:
        h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
    h.connect_uri(uri)
    return h


def test_says_what_it_can(server):
    info = json.loads(run(need("nbdinfo"), "--json", server.uri).stdout)["exports"][0]
    assert info["export-size"] == SIZE
    for can in ("cache", "fast_zero", "flush", "fua", "multi_conn", "trim", "zero"):
        assert info[f"can_{can}"] is True, can
    assert info["is_read_only"] is False
    assert info["block_size_minimum"] == 1
    assert info["block_size_preferred"] == 4096
    assert info["block_size_maximum"] == 32 * MiB


def test_random_requests_match_a_model(server):
    rng = random.Random(7)
    model = bytearray(SIZE)
    h = connect(server.uri)
    for _ in range(400):
        length = rng.choice([1, 100, 512, 4096, 5000, 65536, 300000, 5 * MiB])
        off = rng.randrange(SIZE - length)
        what = rng.choice(["write", "write", "zero", "trim", "read", "read"])
        if what == "write":
            data = rng.randbytes(length)
            h.pwrite(data, off, rng.choice([0, nbd.CMD_FLAG_FUA]))
            model[off:off + length] = data
        elif what == "zero":
            h.zero(length, off, rng.choice([0, nbd.CMD_FLAG_NO_HOLE]))
            model[off:off + length] = bytes(length)
        elif what == "trim":
            off, length = off & ~4095, (length + 4095) & ~4095
            length = min(length, SIZE - off)
            h.trim(length, off)
            model[off:off + length] = bytes(length)
        else:
            assert h.pread(length, off) == model[off:off + length]
    h.flush()
    h.shutdown()
    assert server.path.read_bytes() == model


def test_longest_request(server):
    h = connect(server.uri)
    data = random.Random(1).randbytes(32 * MiB)
    h.pwrite(data, 12345)
    assert h.pread(32 * MiB, 12345) == data


def test_extents_are_those_of_the_file(server):
    h = connect(server.uri, allocation=True)
    h.pwrite(b"x" * MiB, 8 * MiB)
    h.flush()
    found = []

    def extent(context, offset, entries, err):
        found.extend((entries[i], entries[i + 1]) for i in range(0, len(entries), 2))

    h.block_status(SIZE, 0, extent)
    hole = nbd.STATE_HOLE | nbd.STATE_ZERO
    assert found == [(8 * MiB, hole), (MiB, 0), (SIZE - 9 * MiB, hole)]


def test_trim_gives_space_back(server):
    h = connect(server.uri)
    h.pwrite(b"x" * (4 * MiB), 0, nbd.CMD_FLAG_FUA)
    before = server.path.stat().st_blocks
    h.trim(4 * MiB, 0)
    h.flush()
    assert server.path.stat().st_blocks <= before - 2 * MiB // 512
    assert h.pread(4 * MiB, 0) == bytes(4 * MiB)


def test_fast_zero_is_fast_or_refused(server):
    h = connect(server.uri)
    h.pwrite(b"x" * MiB, 0)
    try:
        h.zero(MiB, 0, nbd.CMD_FLAG_FAST_ZERO)
    except nbd.Error as e:
        assert e.errnum == errno.ENOTSUP
        assert h.pread(MiB, 0) == b"x" * MiB
    else:
        assert h.pread(MiB, 0) == bytes(MiB)


def test_zero_without_hole_keeps_the_space(server):
    h = connect(server.uri)
    h.pwrite(b"x" * MiB, 0, nbd.CMD_FLAG_FUA)
    h.zero(MiB, 0, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA)
    assert h.pread(MiB, 0) == bytes(MiB)
    assert server.path.stat().st_blocks >= MiB // 512


def test_one_connection_sees_what_another_wrote(server):
    a, b = connect(server.uri), connect(server.uri)
    for i in range(200):
        a.pwrite(bytes([i]) * 4096, i * 4096)
        assert b.pread(4096, i * 4096) == bytes([i]) * 4096


def test_copies_are_identical(server, tmp_path):
    image = tmp_path / "in.img"
    with open(image, "wb") as f:
        f.truncate(SIZE)
        for i in range(0, SIZE, 4 * MiB):
            f.seek(i)
            f.write(random.Random(i).randbytes(MiB))
    run(need("nbdcopy"), image, server.uri)
    run("nbdcopy", server.uri, tmp_path / "out.img")
    assert (tmp_path / "out.img").read_bytes() == image.read_bytes()
    run(need("qemu-img"), "convert", "-n", "-f", "raw", "-O", "raw", image, server.uri)
    result = run("qemu-img", "compare", "-f", "raw", "-F", "raw", image, server.uri)
    assert "identical" in result.stdout


def test_fio_verifies_at_depth(server):
    seconds = 3
    run(need("fio"), "--name=v", "--ioengine=nbd", f"--uri={server.uri}", "--rw=randwrite", "--bsrange=512-128k",
        "--bs_unaligned=0", "--blockalign=512", "--iodepth=32", "--size=32M", "--verify=crc32c",
        "--verify_fatal=1", "--verify_state_save=0", f"--runtime={seconds}", timeout=60)


@pytest.mark.parametrize("form", ["embedded", "attached"])
def test_read_only(form, tmp_path, disk):
    s = Server(form, tmp_path, disk("1M"), flags=["-r"])
    h = connect(s.uri)
    assert h.is_read_only()
    h.set_strict_mode(0)
    fails_with(errno.EPERM, h.pwrite, b"x" * 512, 0)
    h.shutdown()
    s.stop()


def test_embedded_creates_a_sparse_file(tmp_path):
    path = tmp_path / "new.img"
    k = Nbdkit(tmp_path, f"file={path}", "size=1G", "description=a new one")
    assert path.stat().st_size == 1 << 30 and path.stat().st_blocks < 64
    assert "a new one" in run("nbdinfo", k.uri()).stdout
    assert k.stop() == 0


def test_embedded_lives_when_its_file_may_not_grow(tmp_path, disk):
    n = Nbdkit(tmp_path, f"file={disk('8M')}")
    h = connect(n.uri())
    resource.prlimit(n.proc.pid, resource.RLIMIT_FSIZE, (MiB, MiB))
    for _ in range(2):
        fails_with(errno.ENOSPC, h.pwrite, b"x" * 4096, 4 * MiB)
    h.pwrite(b"y" * 4096, 0)
    assert h.pread(4096, 0) == b"y" * 4096
    h.shutdown()
    assert n.stop() == 0


def test_embedded_that_may_not_make_its_file_says_so(tmp_path):
    said = refusal(tmp_path, f"file={tmp_path / 'new'}", "size=8M",
                   preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (MiB, MiB)))
    assert "File too large" in said
    assert not (tmp_path / "new").exists()


def test_embedded_refuses_a_file_in_use(tmp_path, disk):
    path = disk("1M")
    k = Nbdkit(tmp_path, f"file={path}")
    with pytest.raises(AssertionError, match="in use"):
        Nbdkit(tmp_path, f"file={path}", name="second")
    assert k.stop() == 0


@pytest.mark.parametrize("memory,kept", [("8M", True), ("0", False)])
def test_embedded_keeps_what_is_read(tmp_path, disk, memory, kept):
    path = disk("8M")
    path.write_bytes(b"old!" * (2 * MiB))
    n = Nbdkit(tmp_path, f"file={path}", f"memory={memory}", "mode=buffered")
    h = connect(n.uri())
    assert h.pread(4096, 1 * MiB) == b"old!" * 1024
    with open(path, "r+b") as f:  # behind its back
        f.write(b"new!" * (2 * MiB))
    assert h.pread(4096, 1 * MiB) == (b"old!" if kept else b"new!") * 1024
    h.pwrite(b"mine" * 1024, 1 * MiB)
    assert h.pread(4096, 1 * MiB) == b"mine" * 1024
    h.shutdown()
    assert n.stop() == 0


@pytest.mark.parametrize("args", [["file=x", "lun=y"], ["mode=direct", "lun=y"], ["file=x", "mode=wrong"],
                                  ["nonsense=1"], ["lun=x", "retry=0"], ["file=x", "memory=1"], ["memory=8M", "lun=y"]])
def test_wrong_configuration_is_refused(args, tmp_path):
    with pytest.raises(AssertionError, match="nbdkit did not start"):
        Nbdkit(tmp_path, *args)


# --- attached: exports, fences, growth, ends ---


@pytest.fixture
def port(tmp_path, disk):
    p = PortServer(tmp_path, (disk("8M"), "one"), (disk("16M"), "two"))
    yield p
    assert p.stop() == 0


def test_exports_are_listed(port, tmp_path):
    k = Nbdkit(tmp_path, f"socket={port.socket}")
    exports = json.loads(run("nbdinfo", "--json", "--list", k.uri()).stdout)["exports"]
    assert [(e["export-name"], e["export-size"]) for e in exports] == [("one", 8 * MiB), ("two", 16 * MiB)]
    assert exports[0]["description"] == "a LUN for tests"
    fails_with(errno.ENOENT, connect, k.uri("three"))
    fails_with(errno.ENOENT, connect, k.uri(""))  # which of the two?
    assert k.stop() == 0


def test_lun_and_default_choose(port, tmp_path):
    k = Nbdkit(tmp_path, f"socket={port.socket}", "lun=two")
    assert connect(k.uri("")).get_size() == 16 * MiB
    assert connect(k.uri("two")).get_size() == 16 * MiB
    fails_with(errno.ENOENT, connect, k.uri("one"))
    assert k.stop() == 0
    k = Nbdkit(tmp_path, f"socket={port.socket}", "default=one", name="second")
    assert connect(k.uri("")).get_size() == 8 * MiB
    assert connect(k.uri("two")).get_size() == 16 * MiB
    assert k.stop() == 0


def test_fenced_writes_are_refused_with_eperm(port, tmp_path):
    k = Nbdkit(tmp_path, f"socket={port.socket}")
    h = connect(k.uri("one"))
    assert port.command("fence one writes") == "ok"
    fails_with(errno.EPERM, h.pwrite, b"x" * 512, 0)
    h.pread(512, 0)
    assert port.command("fence one all") == "ok"
    fails_with(errno.EPERM, h.pread, 512, 0)
    assert port.command("fence one none") == "ok"
    h.pwrite(b"x" * 512, 0)
    h.shutdown()
    assert k.stop() == 0


def test_growth_is_there_for_the_next_connection(port, tmp_path):
    k = Nbdkit(tmp_path, f"socket={port.socket}")
    h = connect(k.uri("one"))
    assert port.command(f"resize one {32 * MiB}") == "ok"
    assert connect(k.uri("one")).get_size() == 32 * MiB
    h.pread(512, 0)
    h.shutdown()
    assert k.stop() == 0


def test_removed_lun_ends_with_eshutdown(port, tmp_path):
    k = Nbdkit(tmp_path, f"socket={port.socket}")
    h = connect(k.uri("one"))
    h.pread(512, 0)
    assert port.command("remove one") == "ok"
    with pytest.raises(nbd.Error) as e:
        for _ in range(1000):
            h.pread(512, 0)
    assert e.value.errnum == errno.ESHUTDOWN
    h.shutdown()
    connect(k.uri("two")).pread(512, 0)
    assert k.stop() == 0


def test_requests_wait_for_a_daemon_that_was_killed(port, tmp_path):
    k = Nbdkit(tmp_path, f"socket={port.socket}")
    h = connect(k.uri("one"))
    rng = random.Random(3)
    model = {}
    for round_ in range(5 if SLOW == 1 else 2):
        cookies = []
        for i in range(64):
            off = rng.randrange(2000) * 4096
            data = rng.randbytes(4096)
            if off in dict(cookies):
                continue
            buf = nbd.Buffer.from_bytearray(bytearray(data))
            cookies.append((off, (data, h.aio_pwrite(buf, off))))
            if i == 20:
                port.proc.kill()
                port.proc.wait()
        port.start()
        for off, (data, cookie) in cookies:
            while not h.aio_command_completed(cookie):
                h.poll(-1)
            model[off] = data
        h.flush()
        for off, data in model.items():
            assert h.pread(4096, off) == data
    h.shutdown()
    assert k.stop() == 0


def test_killed_nbdkit_leaves_the_daemon_alone(port, tmp_path):
    for _ in range(3):
        k = Nbdkit(tmp_path, f"socket={port.socket}")
        h = connect(k.uri("one"))
        for i in range(32):
            h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b"y" * 65536)), i * 65536)
        k.proc.kill()
        k.proc.wait()
    wait_for("them to be gone", lambda: port.command("clients").startswith("clients=0"))
    k = Nbdkit(tmp_path, f"socket={port.socket}")
    connect(k.uri("one")).pread(512, 0)
    assert k.stop() == 0


# --- the supervisor ---


@pytest.fixture
def supervised(tmp_path, disk):
    p = PortServer(tmp_path, (disk("8M"), "one"), nbd=["127.0.0.1:0", f"unix:{tmp_path}/nbd.sock"])
    p.unix = f"nbd+unix:///one?socket={tmp_path}/nbd.sock"
    yield p
    assert p.stop() == 0


def nbdkit_pid(p):
    fields = dict(f.split("=") for f in p.command("nbd").split())
    assert fields["ready"] == "1"
    return int(fields["pid"])


def test_supervisor_serves_all_addresses(supervised):
    word, address = supervised.line().split()
    assert word == "nbd"
    for uri in (f"nbd://{address}/one", supervised.unix):
        assert connect(uri).get_size() == 8 * MiB


def test_killed_nbdkit_is_started_again(supervised):
    for _ in range(3):
        assert supervised.line().startswith("nbd ")
        os.kill(nbdkit_pid(supervised), signal.SIGKILL)
        connect(supervised.unix).pread(512, 0)  # waits in the backlog, is not refused


def test_idle_clients_do_not_hold_up_the_end(tmp_path, disk):
    p = PortServer(tmp_path, (disk("8M"), "one"), nbd=[f"unix:{tmp_path}/nbd.sock"])
    h = connect(f"nbd+unix:///one?socket={tmp_path}/nbd.sock")
    h.pread(512, 0)
    assert p.stop() == 0


def gone(pid):
    """Whether the process has ended (one that nobody has waited for yet counts)."""
    try:
        with open(f"/proc/{pid}/stat") as f:
            return f.read().rsplit(")", 1)[1].split()[0] in "ZX"
    except FileNotFoundError:
        return True


def wait_gone(pid):
    wait_for(f"process {pid} to end", lambda: gone(pid))


def test_nbdkit_is_ended_by_a_stop(tmp_path, disk):
    p = PortServer(tmp_path, (disk("8M"), "one"), nbd=[f"unix:{tmp_path}/nbd.sock"])
    p.line()
    pid = nbdkit_pid(p)
    assert p.stop() == 0
    assert gone(pid)
    assert not list(tmp_path.glob("port.sock.nbdkit")) and not (tmp_path / "nbd.sock").exists()


def test_nbdkit_ends_by_itself_when_no_daemon_returns(tmp_path, disk):
    p = PortServer(tmp_path, (disk("8M"), "one"), nbd=[f"unix:{tmp_path}/nbd.sock"], env={"PORT_SERVE_RETRY": "1"})
    p.line()
    pid = nbdkit_pid(p)
    h = connect(f"nbd+unix:///one?socket={tmp_path}/nbd.sock")
    h.pread(512, 0)
    assert p.stop(signal.SIGKILL) == -signal.SIGKILL
    wait_gone(pid)


def restart(p):
    """Kills the daemon and starts it again; returns once NBD is served."""
    p.proc.kill()
    p.proc.wait()
    p.start()
    assert p.line().startswith("nbd ")


def test_killed_daemon_is_no_error_for_a_client(supervised):
    assert supervised.line().startswith("nbd ")
    pid = nbdkit_pid(supervised)
    h = connect(supervised.unix)
    rng = random.Random(11)
    for round_ in range(3):
        model, cookies = {}, []
        for i in range(64):
            off, data = i * 65536, rng.randbytes(4096)
            model[off] = data
            cookies.append(h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), off))
            if i == 20:
                supervised.proc.kill()
                supervised.proc.wait()
        late = nbd.NBD()
        late.aio_connect_unix(f"{supervised.folder}/nbd.sock")  # comes while there is no daemon
        supervised.start()
        assert supervised.line().startswith("nbd ")
        for cookie in cookies:
            while not h.aio_command_completed(cookie):
                h.poll(-1)
        h.flush()
        for off, data in model.items():
            assert h.pread(4096, off) == data
        assert nbdkit_pid(supervised) == pid
        del late
    h.shutdown()


def test_connection_made_without_a_daemon_waits_for_it(supervised):
    supervised.line()
    supervised.proc.kill()
    supervised.proc.wait()
    found = []
    t = threading.Thread(target=lambda: found.append(connect(supervised.unix).get_size()))
    t.start()
    t.join(0.5)
    assert t.is_alive()
    supervised.start()
    t.join(20 * SLOW)
    assert found == [8 * MiB]


def test_adopted_nbdkit_is_looked_after(supervised):
    supervised.line()
    restart(supervised)
    pid = nbdkit_pid(supervised)
    assert "adopted=1" in supervised.command("nbd")
    os.kill(pid, signal.SIGKILL)
    assert supervised.line().startswith("nbd ")  # the addresses are bound anew
    assert nbdkit_pid(supervised) != pid
    assert "adopted=0" in supervised.command("nbd")
    connect(supervised.unix).pread(512, 0)


def test_other_options_replace_the_nbdkit(tmp_path, disk):
    p = PortServer(tmp_path, (disk("8M"), "one"), nbd=[f"unix:{tmp_path}/nbd.sock"])
    p.line()
    pid = nbdkit_pid(p)
    p.env["PORT_SERVE_RETRY"] = "77"
    restart(p)
    assert gone(pid)
    assert nbdkit_pid(p) != pid
    assert "nbd.nbdkit.replaced" in p.stderr()
    connect(f"nbd+unix:///one?socket={tmp_path}/nbd.sock").pread(512, 0)
    assert p.stop() == 0


def kill_both(p):
    pid = nbdkit_pid(p)
    for proc in (p.proc.pid, pid):
        os.kill(proc, signal.SIGKILL)
    p.proc.wait()
    wait_gone(pid)
    return pid


@pytest.mark.parametrize("damage", ["empty", "flipped", "short", "text", "folder"])
def test_damaged_record_is_ignored_and_said(tmp_path, disk, damage):
    p = PortServer(tmp_path, (disk("8M"), "one"), nbd=[f"unix:{tmp_path}/nbd.sock"])
    p.line()
    kill_both(p)
    record = tmp_path / "port.sock.nbdkit"
    good = record.read_bytes()
    if damage == "folder":
        record.unlink()
        record.mkdir()
    else:
        record.write_bytes({"empty": b"", "flipped": good.replace(b"pid ", b"pid 1", 1), "short": good[:-8],
                            "text": b"anything\n" * 1000}[damage])
    p.start()
    if damage == "folder":
        p.proc.kill()
        p.proc.wait()
        record.rmdir()
        p.start()
    assert p.line().startswith("nbd ")
    assert "nbd.record" in p.stderr()
    connect(f"nbd+unix:///one?socket={tmp_path}/nbd.sock").pread(512, 0)
    assert p.stop() == 0


def fnv(data):
    h = 0xcbf29ce484222325
    for b in data:
        h = (h ^ b) * 0x100000001b3 % (1 << 64)
    return h


def started(pid):
    """When a process started, in clock ticks: field 22 of its stat."""
    return int(pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19])


def test_pid_that_was_used_again_is_left_alone(tmp_path, disk):
    p = PortServer(tmp_path, (disk("8M"), "one"), nbd=[f"unix:{tmp_path}/nbd.sock"])
    p.line()
    before = started(nbdkit_pid(p))
    kill_both(p)
    stranger = subprocess.Popen(["sleep", "100"])
    while started(stranger.pid) == before:  # a pid cannot come back within a tick
        stranger.kill()
        stranger.wait()
        stranger = subprocess.Popen(["sleep", "100"])
    record = tmp_path / "port.sock.nbdkit"
    text = record.read_text().split("sum ")[0]
    text = re.sub(r"(?m)^pid .*", f"pid {stranger.pid}", text)
    record.write_text(text + f"sum {fnv(text.encode()):016x}\n")
    p.env["PORT_SERVE_RETRY"] = "78"  # would end it, if it were taken for ours
    p.start()
    p.line()
    assert nbdkit_pid(p) != stranger.pid
    assert "ignored" not in p.stderr()
    assert p.stop() == 0
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


def test_address_of_a_stranger_is_named(tmp_path, disk):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        address = f"127.0.0.1:{s.getsockname()[1]}"
        with pytest.raises(AssertionError, match=f"{address}.*in use"):
            PortServer(tmp_path, (disk("1M"), "x"), nbd=[address])


def test_address_in_use_is_refused(supervised, tmp_path, disk):
    supervised.line()
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(AssertionError, match="in use"):
        PortServer(other, (disk("1M"), "x"), nbd=[f"unix:{tmp_path}/nbd.sock"]).line()
