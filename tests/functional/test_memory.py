# SPDX-License-Identifier: GPL-2.0-or-later
"""The memory budget of the running appliance: who holds what, giving it back when told, and growing again."""
import json
import os

import nbd
import pytest

from controllib import Daemon, wait_for
from iscsi_raw import Raw

pytestmark = pytest.mark.plain(reason="a sanitizer's own memory is more than the budgets here")
MIB = 1 << 20
SIZE = 48 * MIB


def make_file(path, size=SIZE):
    path.write_bytes(os.urandom(size))
    return path


def read_all(uri, size=SIZE):
    h = nbd.NBD()
    h.connect_uri(uri)
    data = b"".join(h.pread(MIB, off) for off in range(0, size, MIB))
    h.shutdown()
    return data


def memory(ebb):
    return json.loads(ebb.cli("--json", "memory").stdout)


def pool(report, name):
    return next(p for p in report["pools"] if p["name"] == name)


@pytest.fixture
def served(tmp_path, ebb):
    """An appliance with 128 MiB at most, whose cache is full of one LUN, and the FIFO that tells it of pressure."""
    fifo = tmp_path / "pressure"
    os.mkfifo(fifo)
    image = make_file(tmp_path / "a.img")
    e = ebb(f"{image},cache=read", f"{make_file(tmp_path / 'b.img', MIB)},cache=none", args=["--memory", "128M"],
                    env={"MEMORY_PRESSURE_WATCH": str(fifo)})
    assert read_all(e.nbd("a")) == image.read_bytes()
    e.fifo, e.image = fifo, image
    return e


def test_every_byte_has_a_pool_and_a_lun(served):
    read_all(served.nbd("b"), MIB)
    r = memory(served)
    cache, luns = pool(r, "cache"), {o["name"]: o for o in r["luns"]}
    assert set(luns) == {"a"}  # b is not cached
    assert luns["a"]["resident"] >= SIZE * 9 // 10 and luns["a"]["misses"] > 0
    assert cache["reclaimable"] >= luns["a"]["resident"]
    assert {p["name"] for p in r["pools"]} == {"iobufs", "cache", "tmem", "process", "port"}
    assert abs(sum(p["bytes"] for p in r["pools"]) - r["budget"]["held"]) < MIB  # read one after the other
    assert r["budget"]["held"] <= 128 * MIB
    assert sum(p["target"] for p in r["pools"]) <= r["budget"]["ceiling"] * 1.01
    assert {a["name"] for a in r["arenas"]} >= {"address", "volatile", "wired pages"}
    assert r["budget"]["watches"].startswith(str(served.fifo)[:20])
    text = served.cli("memory").stdout
    assert "POOL" in text and "cache" in text and "LUN" in text
    # Nothing presses: nobody wakes up to find that out.
    assert r["budget"]["state"] == "steady" and memory(served)["budget"]["looks"] == r["budget"]["looks"]


def test_pressure_shrinks_to_the_floor_and_it_grows_again(served):
    before = memory(served)
    fd = os.open(served.fifo, os.O_RDWR)

    def at_floor():
        os.write(fd, b"x")
        b = memory(served)["budget"]
        return b["target"] == b["floor"] >= b["held"]

    wait_for("the floor", at_floor)
    os.close(fd)
    r = memory(served)
    given = pool(before, "cache")["bytes"] - pool(r, "cache")["bytes"]
    assert r["budget"]["shrinks"]["psi"] >= 1
    assert pool(r, "cache")["returned_bytes"] >= given > SIZE // 4
    assert pool(r, "cache")["shrinks"] >= 1 and r["budget"]["last_shrink"]["bytes"] > 0
    # What was given back is read from the file again, and nothing was lost.
    assert read_all(served.nbd("a")) == served.image.read_bytes()
    wait_for("growth", lambda: memory(served)["budget"]["target"] > r["budget"]["floor"], timeout=40)


def test_what_tmem_does_not_need_the_cache_has(tmp_path, ebb):
    """Random bytes do not compress: tmem's quarter would be idle."""
    image = make_file(tmp_path / "a.img", 100 * MIB)
    e = ebb(f"{image},cache=read", args=["--memory", "128M"])
    for _ in range(2):
        assert read_all(e.nbd("a"), 100 * MIB) == image.read_bytes()
    r = memory(e)
    cache, tmem, lun = pool(r, "cache"), pool(r, "tmem"), r["luns"][0]
    assert lun["resident"] > cache["target"]  # which is its share
    assert cache["bytes"] <= cache["target"] and 0 < tmem["bytes"] <= tmem["target"]
    assert r["budget"]["held"] <= 128 * MIB
    e.cli("memory", "release")
    b = memory(e)["budget"]
    assert b["held"] <= b["floor"]


def test_memory_is_released_by_command(served):
    held = pool(memory(served), "cache")["bytes"]
    assert "given back" in served.cli("memory", "release", "--size", "8M").stdout
    r = memory(served)
    assert r["budget"]["returned_bytes"] >= 8 * MIB
    assert held - 16 * MIB < pool(r, "cache")["bytes"] <= held
    served.cli("memory", "release")
    b = memory(served)["budget"]
    assert b["held"] <= b["floor"] and b["shrinks"]["command"] >= 2
    p = served.cli("memory", "release", "--size", "much", check=False)
    assert p.returncode == 1 and "size" in p.stdout
    assert read_all(served.nbd("a")) == served.image.read_bytes()


def test_a_changed_budget_is_applied_while_running(tmp_path):
    d = Daemon(tmp_path)
    image = make_file(tmp_path / "a.img")
    luns = f"[{{name: a, path: {image}}}]"
    d.declare(luns, "memory: {max: 128M, floor: 32M}\n")
    d.start()
    try:
        uri = next(u["url"] for u in d.json("export", "list") if u["protocol"] == "nbd")
        assert read_all(uri) == image.read_bytes()
        d.declare(luns, "memory: {max: 64M, floor: 16M}\n")
        assert d.cli("plan").stdout == "+ set memory memory (max 128M -> 64M, floor 32M -> 16M)\n"
        d.cli("apply")
        b = d.json("memory")["budget"]
        assert (b["ceiling"], b["floor"]) == (64 * MIB, 16 * MIB) and b["held"] <= 64 * MIB
        assert "nothing to do" in d.cli("plan").stdout
        d.declare(luns, "memory: {max: 256M, floor: 16M}\n")
        d.cli("apply", check=False)
        assert "memory.max: the read cache was started with room for 128M" in d.cli("plan").stdout
        assert d.json("memory")["budget"]["ceiling"] == 256 * MIB
        d.declare(luns, "memory: {max: 64M, floor: 16M}\n")
        d.cli("apply")
        d.declare(luns, "memory: {max: 64M, floor: 16M, tmem: {codec: none}}\n")
        assert "memory.tmem: differs" in d.cli("plan").stdout
        assert read_all(uri) == image.read_bytes()
    finally:
        assert d.stop() == 0


def test_what_the_floor_cannot_serve_is_refused(tmp_path):
    d = Daemon(tmp_path)
    make_file(tmp_path / "a.img", MIB)
    make_file(tmp_path / "b.img", MIB)
    d.declare(f"[{{name: a, path: {tmp_path}/a.img}}]", "memory: {max: 64M, floor: 100K}\n")
    d.start()
    try:
        p = d.cli("lun", "create", "b", tmp_path / "b.img", check=False)
        assert p.returncode == 1 and "LUN 'b'" in p.stdout and "memory.floor" in p.stdout
        assert [o["name"] for o in d.json("lun", "list")] == ["a"]
        d.declare(f"[{{name: a, path: {tmp_path}/a.img}}]", "memory: {max: 64M, floor: 1M}\n")
        d.cli("apply")
        d.cli("lun", "create", "b", tmp_path / "b.img")
        # A promise that was made is kept: the floor does not fall below it.
        d.declare(f"[{{name: a, path: {tmp_path}/a.img}}]", "memory: {max: 64M, floor: 100K}\n")
        assert "promised" in d.cli("apply", check=False).stdout
    finally:
        assert d.stop() == 0


def test_sessions_beyond_the_floor_are_refused(tmp_path):
    d = Daemon(tmp_path)
    image = make_file(tmp_path / "a.img", MIB)
    luns, target, place = f"[{{name: a, path: {image}}}]", "iqn.2026-11.local.ebb:a", 64 << 10
    d.declare(luns, "memory: {max: 64M, floor: 1M}\n")
    d.start()
    try:
        uri = next(u["url"] for u in d.json("export", "list") if u["protocol"] == "nbd")
        # Room for two, beside what there is.
        reserved = d.json("memory")["budget"]["reserved"]
        d.declare(luns, f"memory: {{max: 64M, floor: {reserved + 2 * place}}}\n")
        d.cli("apply")
        raw = [Raw(d.iscsi_port) for _ in range(3)]
        assert [r.login(target, initiator=f"iqn.2026-11.x:{i}").login_status for i, r in enumerate(raw)] == [0, 0, 0x302]
        assert d.json("memory")["budget"]["reserved"] == reserved + 2 * place
        with pytest.raises(nbd.Error):
            read_all(uri, MIB)
        raw[0].close()
        wait_for("its place", lambda: d.json("memory")["budget"]["reserved"] == reserved + place)
        assert read_all(uri, MIB) == image.read_bytes()
    finally:
        assert d.stop() == 0


def test_addresses_that_are_limited_do(tmp_path, ebb):
    image = make_file(tmp_path / "a.img", MIB)
    e = ebb(f"{image},cache=read", args=["--memory", "64M"], wait=False)
    e.cmd = ["sh", "-c", 'ulimit -v 3000000; exec "$@"', "sh", *e.cmd]
    e.start()
    assert read_all(e.nbd("a"), MIB) == image.read_bytes()
    assert pool(memory(e), "cache")["reclaimable"] > 0
