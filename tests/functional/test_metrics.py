# SPDX-License-Identifier: GPL-2.0-or-later
"""/metrics: what it tells is what was done, in the format that Prometheus takes, whoever else asks."""
import http.client
import json
import os
import pathlib
import re
import socket
import subprocess
import threading
import time

import pytest

from conftest import EBB, ROOT, SLOW, Ebb, free_port, need, run
from controllib import Control, Daemon, settle, wait_for

SAMPLE = re.compile(r'^([a-z_]+)(?:\{((?:[a-z]+="(?:[^"\\\n]|\\.)*",?)*)\})? (\S+)$')
LABEL = re.compile(r'([a-z]+)="((?:[^"\\\n]|\\.)*)"')


def get(port, path="/metrics", method="GET", timeout=20):
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout * SLOW)
    try:
        c.request(method, path)
        r = c.getresponse()
        return r.status, r.headers, r.read()
    finally:
        c.close()


class Metrics:
    """One scrape, checked: every line has its form, families are whole, histograms add up."""

    def __init__(self, text):
        self.text, self.heads, self.values = text, {}, {}
        family = None
        for line in text.splitlines():
            if line.startswith("# HELP "):
                family = line.split(" ", 3)[2]
                assert family not in self.heads, f"{family} comes twice"
                self.heads[family] = [line.split(" ", 3)[3]]
            elif line.startswith("# TYPE "):
                assert line.split()[2] == family
                self.heads[family].append(line.split()[3])
            else:
                name, labels, value = SAMPLE.match(line).groups()
                histogram = self.heads[family][1] == "histogram"
                assert name == family or histogram and name in [family + s for s in ("_bucket", "_sum", "_count")]
                key = name, tuple(sorted(LABEL.findall(labels or "")))
                assert key not in self.values, f"{line} comes twice"
                self.values[key] = float(value)
        self.check_histograms()

    def check_histograms(self):
        series = {}
        for (name, labels), value in self.values.items():
            if name.endswith("_bucket"):
                rest = tuple(kv for kv in labels if kv[0] != "le")
                series.setdefault((name[:-7], rest), []).append((float(dict(labels)["le"]), value))
        for (name, labels), buckets in series.items():
            assert buckets == sorted(buckets) and [v for _, v in buckets] == sorted(v for _, v in buckets)
            assert buckets[-1] == (float("inf"), self.values[name + "_count", labels])
            assert (self.values[name + "_sum", labels] > 0) == (buckets[-1][1] > 0)

    def __call__(self, name, **labels):
        return self.values[name, tuple(sorted(labels.items()))]

    def where(self, name, **labels):
        """Samples that have these labels: [(all labels, value)]."""
        return [(dict(have), v) for (n, have), v in self.values.items()
                if n == name and labels.items() <= dict(have).items()]


def scrape(port):
    status, headers, body = get(port)
    assert status == 200 and headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert int(headers["Content-Length"]) == len(body)
    return Metrics(body.decode())


def promtool(text):
    cached = ROOT / ".cache/promtool"
    tool = cached if cached.exists() else need("promtool")
    return subprocess.run([str(tool), "check", "metrics"], input=text, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, timeout=60 * SLOW, check=False)


@pytest.fixture
def watched(ebb):
    """watched(FILE...): `ebb serve` with metrics; the port is its .metrics."""
    def start(*files, args=(), **kw):
        port = free_port()
        e = ebb(*files, args=["--metrics", f"127.0.0.1:{port}", *args], **kw)
        e.metrics = port
        return e
    return start


# --- what is told ---

def test_the_address_is_printed_before_ready(watched, disk):
    e = watched(disk())
    assert e.lines[-2:] == [f"metrics http://127.0.0.1:{e.metrics}/metrics", "ready"]
    m = scrape(e.metrics)
    assert m.where("ebb_build_info")[0][0]["version"] in run(EBB, "--version").stdout
    assert m("ebb_exporter_scrapes_total") == 1 and scrape(e.metrics)("ebb_exporter_scrapes_total") == 2


@pytest.mark.parametrize("protocol", ["iscsi", "nbd"])
def test_operations_and_bytes_are_exact(watched, disk, protocol):
    e = watched(disk("64M"), disk("8M"))
    url = getattr(e, protocol)("disk0")
    run(need("qemu-io"), "-f", "raw", "-d", "unmap", "-c", "write 0 256k", "-c", "write 1M 4k", "-c", "read 0 64k",
        "-c", "read 1M 512", "-c", "read 8k 4k", "-c", "discard 0 128k", "-c", "flush", url)
    m = scrape(e.metrics)
    ops = {kv["op"]: v for kv, v in m.where("ebb_lun_operations_total", lun="disk0")}
    assert (ops["read"], ops["write"], ops["unmap"]) == (3, 2, 1) and ops["flush"] >= 1
    got = {kv["op"]: v for kv, v in m.where("ebb_lun_bytes_total", lun="disk0")}
    assert (got["read"], got["write"], got["unmap"]) == (65536 + 512 + 4096, (256 << 10) + 4096, 128 << 10)
    assert "flush" not in got
    for op in ("read", "write", "flush"):
        assert m("ebb_lun_latency_seconds_count", lun="disk0", op=op) == ops[op]
        assert 0 < m("ebb_lun_latency_seconds_sum", lun="disk0", op=op) < 60
    assert sum(v for _, v in m.where("ebb_lun_errors_total")) == 0
    assert sum(v for _, v in m.where("ebb_lun_operations_total", lun="disk1")) == 0
    assert m("ebb_lun_size_bytes", lun="disk0") == 64 << 20 and m("ebb_lun_size_bytes", lun="disk1") == 8 << 20
    assert m("ebb_lun_inflight_operations", lun="disk0") == 0


def test_requests_are_told_by_length_and_alignment(watched, disk):
    e = watched(disk("64M"))
    run(need("qemu-io"), "-f", "raw", "-d", "unmap", "-c", "write 0 4k", "-c", "write 64k 64k", "-c", "read 512 512",
        "-c", "read 0 4k", "-c", "read 4k 4k", "-c", "write -z 8M 1M", "-c", "discard 0 64k", e.iscsi())
    m = scrape(e.metrics)
    shapes = {(kv["op"], kv["size"], kv["alignment"]): v for kv, v in m.where("ebb_lun_requests_total")}
    assert shapes == {("write", "4096", "4096"): 1, ("write", "262144", "65536"): 1, ("read", "4096", "512"): 1,
                      ("read", "4096", "4096"): 2}
    commands = {kv["command"]: v for kv, v in m.where("ebb_lun_commands_total", lun="disk0") if kv["command"] != "status"}
    assert commands == {"zero": 1}
    shown = json.loads(e.cli("--json", "lun", "show", "disk0").stdout)["counters"]
    assert {(r["op"], str(r["size"]), str(r["alignment"])): r["ops"] for r in shown["requests"]} == shapes
    assert shown["commands"]["zero"] == shown["commands"]["unmap"] == 1
    assert shown["miscompares"] == 0 and not m.where("ebb_lun_miscompares_total")


@pytest.mark.parametrize("cache", ["read", "none"])
def test_the_time_of_stages_is_that_of_operations(watched, disk, cache):
    e = watched(f"{disk('64M')},cache={cache}")
    run(need("qemu-io"), "-f", "raw", "-c", "write 0 8M", *["-c", "read 0 64k"] * 20, e.iscsi())
    m = scrape(e.metrics)
    for op in ("read", "write"):
        stages = {kv["stage"]: v for kv, v in m.where("ebb_lun_stage_seconds_total", lun="disk0", op=op)}
        assert set(stages) <= {"queue", "cache", "disk"}
        assert sum(stages.values()) == pytest.approx(m("ebb_lun_latency_seconds_sum", lun="disk0", op=op), abs=1e-6)
        assert cache == "read" and op == "read" or stages["disk"] > 0
    sent = [v for kv, v in m.where("ebb_session_stage_seconds_total", stage="send")]
    assert all(v >= 0 for v in sent)


def test_sessions_tell_their_time_with_the_socket(watched, disk):
    e = watched(disk("64M"))
    client = subprocess.Popen([need("qemu-io"), "-f", "raw", "-c", "write 0 16M", "-c", "read 0 16M", "-c", "sleep 600000",
                               e.iscsi()], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        def told():
            m = scrape(e.metrics)
            done = [v for _, v in m.where("ebb_session_read_bytes_total")]
            return m if done and done[0] >= 16 << 20 else None

        wait_for("the reads", told)
        stages = {kv["stage"]: v for kv, v in told().where("ebb_session_stage_seconds_total")}
        assert stages["receive"] > 0 and stages["send"] > 0  # 16 MiB pass a socket in more than a turn
    finally:
        client.kill()
        client.wait()


def test_errors_are_counted(watched, disk, tmp_path):
    e = watched(disk("8M"))
    os.truncate(tmp_path / "disk0.img", 4096)  # behind its back: reads beyond come up short
    run(need("qemu-io"), "-f", "raw", "-c", "read 4M 4k", e.iscsi(), check=False)
    m = scrape(e.metrics)
    shown = json.loads(e.cli("--json", "lun", "show", "disk0").stdout)["counters"]
    for op in ("read", "write", "unmap", "flush", "other"):
        for field, name in (("ops", "operations"), ("errors", "errors")):
            assert m(f"ebb_lun_{name}_total", lun="disk0", op=op) == shown[op][field]
    assert m("ebb_lun_errors_total", lun="disk0", op="read") >= 1


def test_sessions_are_told_by_who_and_to_what(watched, disk):
    e = watched(disk("64M"))
    clients = []
    try:
        for url in (e.iscsi(), e.nbd()):
            clients.append(subprocess.Popen([need("qemu-io"), "-f", "raw", "-c", "write 0 1M", "-c", "read 0 64k", "-c",
                                             "sleep 600000", url], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL))
        def have_read():
            read = [v for _, v in scrape(e.metrics).where("ebb_session_read_bytes_total")]
            return len(read) == 2 and min(read) >= 65536

        wait_for("the reads", have_read)
        m = scrape(e.metrics)
        info = {kv["session"]: kv for kv, v in m.where("ebb_session_info") if v == 1}
        iscsi = next(s for s in info if info[s]["protocol"] == "iscsi")
        port = next(s for s in info if info[s]["protocol"] == "port")
        assert info[iscsi]["export"].endswith(":disk0") and info[port]["export"] == "disk0"
        listed = {o["id"]: o["client"] for o in json.loads(e.cli("--json", "session", "list").stdout)}
        for s in (iscsi, port):
            who = {"session": s, "initiator": listed[s]}
            assert m("ebb_session_written_bytes_total", **who) == 1 << 20
            assert m("ebb_session_commands_total", **who) >= 2
            assert abs(m("ebb_session_start_time_seconds", **who) - time.time()) < 60 * SLOW
            assert m("ebb_session_errors_total", **who) == 0
        assert m("ebb_session_read_bytes_total", session=port, initiator=listed[port]) == 65536
        assert m("ebb_port_session_doorbells_total", session=port, initiator=listed[port]) >= 1
        assert m("ebb_port_session_resident_bytes", session=port, initiator=listed[port]) > 0
        assert m("ebb_iscsi_sessions") == 1 and m("ebb_nbd_ready") == 1
        assert promtool(m.text).stdout == ""
    finally:
        for c in clients:
            c.kill()
            c.wait()
    wait_for("no session", lambda: not scrape(e.metrics).where("ebb_session_info"))
    assert scrape(e.metrics)("ebb_lun_bytes_total", lun="disk0", op="write") == 2 << 20


def test_a_restart_of_nbdkit_is_counted(watched, disk):
    e = watched(disk())
    assert scrape(e.metrics)("ebb_nbd_restarts_total") == 0
    os.kill(json.loads(e.cli("--json", "status").stdout)["nbd"]["nbdkit_pid"], 9)
    wait_for("a restart", lambda: scrape(e.metrics)("ebb_nbd_restarts_total") == 1)
    wait_for("nbdkit", lambda: scrape(e.metrics)("ebb_nbd_ready") == 1)


def test_memory_is_told_as_ebb_memory_tells_it(watched, disk):
    e = watched(disk("64M"), args=["--memory", "512M"])
    run(need("qemu-io"), "-f", "raw", "-c", "write 0 8M", e.iscsi())
    settle(lambda: memory_agrees(scrape(e.metrics), json.loads(e.cli("--json", "memory").stdout)))


def memory_agrees(m, told):
    assert m("ebb_memory_ceiling_bytes") == told["budget"]["ceiling"] == 512 << 20
    assert m("ebb_memory_floor_bytes") == told["budget"]["floor"]
    assert m("ebb_memory_reserved_bytes") == told["budget"]["reserved"] > 0
    assert {kv["cause"] for kv, _ in m.where("ebb_memory_shrinks_total")} == set(told["budget"]["shrinks"])
    pools = {kv["pool"]: v for kv, v in m.where("ebb_memory_pool_bytes")}
    assert set(pools) == {p["name"] for p in told["pools"]} and "iobufs" in pools
    assert sum(pools.values()) > 1 << 20
    for p in told["pools"]:
        assert m("ebb_memory_pool_floor_bytes", pool=p["name"]) == p["floor"]
        parts = sum(m(f"ebb_memory_pool_{kind}_bytes", pool=p["name"]) for kind in ("reclaimable", "wired"))
        assert parts <= pools[p["name"]]
    arenas = {kv["arena"]: v for kv, v in m.where("ebb_vmem_size_bytes")}
    assert arenas == {a["name"]: a["total"] for a in told["arenas"]} and len(arenas) >= 4
    for a in arenas:
        assert m("ebb_vmem_allocated_bytes", arena=a) <= arenas[a]
        assert m("ebb_vmem_allocs_total", arena=a) >= m("ebb_vmem_frees_total", arena=a)
    mapped = sum(v for _, v in m.where("ebb_iobuf_mapped_bytes"))
    assert pools["iobufs"] == mapped


def test_the_tiers_of_the_cache(watched, disk):
    """Page by page: a miss, then hits; what is written is known; zeros are only noted."""
    e = watched(f"{disk('64M')},cache=read")
    page = 4096
    run(need("qemu-io"), "-f", "raw", "-c", f"write -P 7 0 {4 * page}", e.iscsi())
    for n in range(3):
        run("qemu-io", "-f", "raw", "-c", f"read -P 7 0 {4 * page}", "-c", f"read -P 0 1M {2 * page}", e.iscsi())
        m = scrape(e.metrics)
        hits = {kv["tier"]: v for kv, v in m.where("ebb_lun_cache_hits_total", lun="disk0")}
        assert m("ebb_lun_cache_misses_total", lun="disk0") + sum(hits.values()) >= 6 * (n + 1)
    assert hits["memory"] >= 8 and hits["zero"] >= 4 and hits["tmem"] == 0
    assert m("ebb_lun_cache_fills_total", lun="disk0") >= 6
    settle(lambda: cache_agrees(scrape(e.metrics), json.loads(e.cli("--json", "lun", "show", "disk0").stdout)["cache"]))
    assert m("ebb_lun_cache_resident_bytes", lun="disk0") >= 4 * page
    assert m("ebb_cache_pages") >= 4 and m("ebb_cache_zero_pages") >= 2
    assert m("ebb_cache_max_bytes") >= m("ebb_cache_target_bytes") >= m("ebb_cache_resident_bytes") >= 4 * page
    assert m("ebb_volatile_marks_total") >= m("ebb_volatile_pages")


def cache_agrees(m, shown):
    for kv, v in m.where("ebb_lun_cache_hits_total", lun="disk0"):
        assert v == shown[f"hits_{kv['tier']}"]
    for name in ("misses", "fills", "updates", "invalidated", "evicted"):
        assert m(f"ebb_lun_cache_{name}_total", lun="disk0") == shown[name]
    for name in ("purged", "fills_lost", "demoted"):  # told from the first on
        told = [v for _, v in m.where(f"ebb_lun_cache_{name}_total", lun="disk0")]
        assert told == ([shown[name]] if shown[name] else [])


def test_use_is_told_by_export(watched, disk):
    e = watched(disk("64M"), disk("8M"))
    assert not scrape(e.metrics).where("ebb_export_sessions")
    for url in (e.iscsi("disk0"), e.nbd("disk0"), e.nbd("disk1")):
        run(need("qemu-io"), "-f", "raw", "-c", "write 0 64k", "-c", "read 0 4k", "-c", "read 4k 4k", url)

    def told():
        m = scrape(e.metrics)
        assert all(v == 0 for _, v in m.where("ebb_export_sessions"))  # they have ended, what they did counts on
        return m
    m = settle(told)
    exports = {(kv["lun"], kv["export"]) for kv, _ in m.where("ebb_export_sessions")}
    iscsi = "iscsi/iqn.2026-11.local.ebb:disk0/0"
    assert exports == {("disk0", iscsi), ("disk0", "nbd"), ("disk1", "nbd")}
    for lun, export in exports:
        assert m("ebb_export_read_bytes_total", lun=lun, export=export) >= 8192
        assert m("ebb_export_written_bytes_total", lun=lun, export=export) == 65536
        assert m("ebb_export_operations_total", lun=lun, export=export) >= 3
    whole = sum(v for _, v in m.where("ebb_lun_operations_total", lun="disk0"))
    assert sum(v for _, v in m.where("ebb_export_operations_total", lun="disk0")) == whole
    assert not m.where("ebb_export_errors_total")


def test_promtool_finds_nothing_whatever_names_are(watched, disk, tmp_path):
    e = watched(disk())
    for i, name in enumerate(('quo"te', "back\\slash\\", "new\nline", "d\u00e9j\u00e0", b"not\xff\xfeutf8", '"} 1')):
        folder = os.path.join(os.fsencode(tmp_path), name if isinstance(name, bytes) else name.encode())
        os.mkdir(folder)
        serve = subprocess.run([str(EBB), "--socket", str(e.socket), "lun", "create", f"x{i}", folder + b"/f.img", "--size",
                                "1M"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
        assert serve.returncode == 0 or isinstance(name, bytes), serve.stdout
    m = scrape(e.metrics)
    assert len(m.where("ebb_lun_info")) >= 6
    p = promtool(m.text)
    assert p.returncode == 0 and p.stdout == ""
    bad = promtool(m.text + "# HELP x_total \n# TYPE x_total gauge\nx_total 1\n")
    assert bad.stdout  # it would have said so


def test_the_page_and_its_description_agree(watched, disk):
    rows = re.findall(r"^\| `(ebb_\w+)` \| (\w+) \| \w* \| ([^|]*) \| (.*) \|$", (ROOT / "docs/metrics.md").read_text(), re.M)
    m = scrape(watched(disk()).metrics)
    assert [(name, kind, text) for name, kind, _, text in rows] == [(n, h[1], h[0]) for n, h in m.heads.items()]
    labels = {name: set(filter(None, names.strip().split(", "))) for name, _, names, _ in rows}
    for (name, have), _ in m.values.items():
        family = name if name in labels else re.sub(r"_(bucket|sum|count)$", "", name)
        assert {k for k, _ in have} - {"le"} == labels[family], name


# --- where it listens ---

def test_paths_and_methods(watched, disk):
    e = watched(disk())
    assert get(e.metrics, "/healthz")[::2] == (200, b"ok\n")
    status, headers, body = get(e.metrics, "/")
    assert status == 200 and headers["Content-Type"].startswith("text/html") and b'href="/metrics"' in body
    status, headers, body = get(e.metrics, "/metrics", "HEAD")
    assert status == 200 and body == b"" and int(headers["Content-Length"]) > 1000
    for path in ("/x", "/metrics/", "/metrics/..", "//metrics", "/etc/passwd", "/%2e%2e"):
        assert get(e.metrics, path)[0] == 404
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "TRACE", "BREW"):
        status, headers, _ = get(e.metrics, "/metrics", method)
        assert status == 405 and headers["Allow"] == "GET, HEAD"
    assert get(e.metrics, "/metrics?x=1")[0] == 200


def test_an_address_that_cannot_be_had_is_named(disk, tmp_path):
    def serve(address):
        return run(EBB, "serve", disk(), "--iscsi", "none", "--nbd", "none", "--metrics", address, "--socket",
                   tmp_path / "n.sock", "--state", tmp_path / "n", check=False)

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        address = f"127.0.0.1:{s.getsockname()[1]}"
        p = serve(address)
        assert p.returncode == 1 and p.stdout.count(address) == 1 and "Address already in use" in p.stdout
    p = serve("192.0.2.1:9810")
    assert p.returncode == 1 and "192.0.2.1:9810" in p.stdout
    for bad in ("nowhere", "localhost:9810", "127.0.0.1", "127.0.0.1:99999"):
        p = serve(bad)
        assert p.returncode == 2 and bad in p.stdout


def test_an_address_that_nobody_asked_for_may_be_taken(tmp_path, disk):
    with socket.socket() as s:
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            s.bind(("127.0.0.1", 9810))
            s.listen()
        except OSError:
            pass  # it is taken
        e = Ebb(tmp_path / "e", [disk()], wait=False)
        e.cmd = e.cmd[:e.cmd.index("--metrics")]
        e.start()
        assert not [line for line in e.lines if line.startswith("metrics")]
        assert "127.0.0.1:9810" in e.stderr() and "none are served" in e.stderr()
        assert e.stop() == 0


def test_several_addresses_one_a_unix_socket(watched, disk, tmp_path):
    e = watched(disk(), args=["--metrics", f"unix:{tmp_path}/m.sock"])
    assert f"metrics unix:{tmp_path}/m.sock" in e.lines
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(f"{tmp_path}/m.sock")
        s.sendall(b"GET /healthz HTTP/1.0\r\n\r\n")
        assert s.makefile().read().endswith("ok\n")
    assert get(e.metrics, "/healthz")[0] == 200
    e.stop()
    assert not os.path.exists(f"{tmp_path}/m.sock")


def test_the_service_listens_where_it_is_told_only(tmp_path):
    port = free_port()
    d = Daemon(tmp_path / "d")
    d.declare(extra=f"metrics: ['127.0.0.1:{port}']\n")
    d.start()
    try:
        assert scrape(port)("ebb_iscsi_sessions") == 0
        assert f"url=http://127.0.0.1:{port}/metrics" in d.stderr()
    finally:
        assert d.stop() == 0
    d.declare()
    d.start()
    try:
        with pytest.raises(ConnectionRefusedError):
            get(port)
        listening = run("ss", "-Hltnp").stdout if os.access("/usr/bin/ss", os.X_OK) else ""
        assert [line for line in listening.splitlines() if f"pid={d.proc.pid}," in line and str(d.iscsi_port) not in line] == []
    finally:
        assert d.stop() == 0


# --- others who ask ---

def test_scrapes_while_luns_come_and_go(watched, disk, tmp_path):
    e = watched(disk(), *[f"{tmp_path}/s{i}.img,size=1M" for i in range(40)])
    end, seen, failures = threading.Event(), [0], []

    def scraper():
        try:
            while not end.is_set():
                m = scrape(e.metrics)
                assert len(m.where("ebb_lun_size_bytes")) >= 41
                assert len(m.where("ebb_lun_operations_total")) == 5 * len(m.where("ebb_lun_size_bytes"))
                seen[0] += 1
        except Exception as err:  # of a thread: told below
            failures.append(err)

    threads = [threading.Thread(target=scraper) for _ in range(2)]
    for t in threads:
        t.start()
    c, made, until = Control(e.socket), 0, time.monotonic() + 60 * SLOW
    while (made < 20 or seen[0] < 20) and not failures and time.monotonic() < until:
        assert c.call("lun.create", name="comes", path=f"{tmp_path}/comes.img", size="1M")["ok"]
        assert c.call("lun.delete", name="comes")["ok"]  # and it is closed: the file can be had again at once
        made += 1
    end.set()
    for t in threads:
        t.join()
    assert not failures, failures[0]
    assert made >= 20 and seen[0] >= 20


def connect(port):
    return socket.create_connection(("127.0.0.1", port), timeout=20 * SLOW)


def test_clients_that_never_finish_make_room(watched, disk):
    """More connections than there is room for, all of them half a request: who asks is still answered."""
    e = watched(disk())
    idle = [connect(e.metrics) for _ in range(200)]
    for s in idle:
        try:
            s.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\nX-Slow: ")
        except OSError:
            pass  # made room already
    for _ in range(20):
        m = scrape(e.metrics)
    assert m("ebb_exporter_displaced_total") >= 140
    files = m("ebb_process_open_fds")
    for s in idle:
        s.close()
    wait_for("their end", lambda: scrape(e.metrics)("ebb_process_open_fds") < files - 30)


def test_clients_that_do_not_read_hold_a_bounded_number_of_answers(watched, tmp_path):
    e = watched(*[f"{tmp_path}/s{i}.img,size=1M" for i in range(300)])
    slow = []
    for _ in range(40):
        s = socket.socket()
        s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        s.connect(("127.0.0.1", e.metrics))
        s.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
        slow.append(s)
    statuses = []

    def answered():
        statuses.append(get(e.metrics)[0])
        return statuses[-1] == 200

    wait_for("an answer", answered)
    assert set(statuses) <= {200, 503}
    for s in slow:
        s.close()
    wait_for("room", lambda: get(e.metrics)[0] == 200)


@pytest.mark.parametrize("data", [
    b"GET /metrics HTTP/1.1\r\nX: " + b"x" * (1 << 20) + b"\r\n\r\n",
    b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1\r\n\r\n",
    b"\r\n" * 100000,
    b"A: b\r\n" * 100000 + b"\r\n",
    b"GET /metrics HTTP/1.1\r\n" + b"A: b\r\n" * 100000 + b"\r\n",
    b"\x00\xff\x80" * 1000 + b"\r\n\r\n",
    b"GET /metrics HTTP/9.9\r\n\r\n",
    b"GET\r\n\r\n",
    b"POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999999999\r\n\r\nxx",
    b"POST /metrics HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\nxx",
    b"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nxx",
    b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n" * 500,
], ids=["header", "path", "blank", "no-request", "headers", "binary", "version", "short", "length", "chunk", "body", "pipeline"])
def test_bad_requests_hurt_nobody(watched, disk, data):
    e = watched(disk())
    before = scrape(e.metrics)("ebb_process_resident_memory_bytes")
    for _ in range(8):
        with connect(e.metrics) as s:
            try:
                s.sendall(data)
                # libmicrohttpd may overlook an end that comes with the bytes before it, until the connection is idle
                # for 15 s: not waited for.
                s.settimeout(0.5)
                s.shutdown(socket.SHUT_WR)
                while s.recv(1 << 16):
                    pass
            except OSError:
                pass
    assert scrape(e.metrics)("ebb_process_resident_memory_bytes") < before + (64 << 20)


@pytest.mark.plain(reason="a sanitizer's own thread wakes ten times a second")
def test_who_asks_for_nothing_wakes_nobody(watched, disk):
    e = watched(disk())
    scrape(e.metrics)

    def switches():
        total = 0
        for task in pathlib.Path(f"/proc/{e.proc.pid}/task").iterdir():
            total += int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", (task / "status").read_text(), re.M)[1])
        return total

    def quiet():
        before = switches()
        time.sleep(2)
        return switches() == before

    wait_for("two seconds of quiet", quiet)  # what the start and the scrape left behind has to settle


def test_a_thousand_luns(watched, tmp_path):
    """In one answer, of which the reactors do not notice. How long it takes is scripts/bench_metrics' to say."""
    files = [tmp_path / f"vm-disk-{i:04}.img" for i in range(1000)]
    for path in files:
        with open(path, "wb") as f:
            f.truncate(1 << 20)
    e = watched(*files)
    assert len(scrape(e.metrics).where("ebb_lun_size_bytes")) == 1000

    def turns():
        return [v for _, v in scrape(e.metrics).where("ebb_reactor_turns_total")]

    def unnoticed():
        """For 15 of them: what the start left behind has to settle."""
        before = turns()
        assert all(len(get(e.metrics)[2]) < 5_000_000 for _ in range(15))
        return turns() == before

    wait_for("scrapes that nobody notices", unnoticed, timeout=30)
