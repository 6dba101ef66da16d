# SPDX-License-Identifier: GPL-2.0-or-later
"""The status page: what it asks for is what was done; in a browser it shows it, by keyboard too, dark and light."""
import http.client
import json
import re
import signal
import subprocess

import pytest

from conftest import ROOT, SLOW, free_port, need, run
from controllib import wait_for
from test_metrics import get, scrape, watched  # noqa: F401 (a fixture)


def status(port):
    code, headers, body = get(port, "/status.json")
    assert code == 200 and headers["Content-Type"] == "application/json"
    return json.loads(body)


def test_it_needs_nobody_else(watched, disk):
    code, headers, body = get(watched(disk()).metrics, "/")
    assert code == 200 and headers["Content-Type"].startswith("text/html")
    assert "default-src 'none'" in headers["Content-Security-Policy"]
    page = body.decode()
    assert page == (ROOT / "appliance/exporter/page/index.html").read_text()
    assert not re.search(r"https?://|\bimport\b|<link[^>]+href=(?!\"data:)|<script[^>]+src|@import|url\(", page)


def test_its_figures_are_those_of_metrics(watched, disk):
    e = watched(f"{disk('64M')},cache=read", f"{disk('8M')},cache=none")
    run(need("qemu-io"), "-f", "raw", "-c", "write 0 64k", "-c", "read 0 4k", "-c", "read 0 4k", e.iscsi("disk0"))
    o, m = status(e.metrics), scrape(e.metrics)
    assert [lun["name"] for lun in o["luns"]] == ["disk0", "disk1"]
    for lun in o["luns"]:
        for op in ("read", "write", "unmap", "flush", "other"):
            assert lun[op]["ops"] == m("ebb_lun_operations_total", lun=lun["name"], op=op)
        assert lun["read"]["bytes"] == m("ebb_lun_bytes_total", lun=lun["name"], op="read")
        assert lun["size"] == m("ebb_lun_size_bytes", lun=lun["name"])
    first, second = o["luns"]
    assert first["hits"] == sum(v for _, v in m.where("ebb_lun_cache_hits_total", lun="disk0"))
    assert "hits" not in second and second["flush"]["bytes"] is None
    assert first["read"]["seconds"] == pytest.approx(m("ebb_lun_latency_seconds_sum", lun="disk0", op="read"))
    assert {p["name"] for p in o["pools"]} == {kv["pool"] for kv, _ in m.where("ebb_memory_pool_bytes")}
    assert o["budget"]["ceiling"] == m("ebb_memory_ceiling_bytes") and o["start"] == m("ebb_process_start_time_seconds")
    assert set(o["budget"]["shrinks"]) == {kv["cause"] for kv, _ in m.where("ebb_memory_shrinks_total")}
    assert scrape(e.metrics)("ebb_exporter_scrapes_total") == m("ebb_exporter_scrapes_total") + 1  # the page's do not count


def test_it_names_sessions_whatever_they_are_called(watched, disk):
    e = watched(disk())
    name = 'iqn.2026-11.test:",session="x'
    client = subprocess.Popen([need("qemu-io"), "-c", "sleep 600000", "--image-opts",
                               f"driver=iscsi,transport=tcp,portal=127.0.0.1:{e.iscsi_port},"
                               f"target=iqn.2026-11.local.ebb:disk0,lun=0,initiator-name={name.replace(',', ',,')}"],
                              stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_for("the session", lambda: client.poll() is not None or status(e.metrics)["sessions"])
        sessions = status(e.metrics)["sessions"]
        listed = json.loads(e.cli("--json", "session", "list").stdout)
        assert [(s["id"], s["client"], s["export"]) for s in sessions] == [(o["id"], o["client"], o["export"]) for o in listed]
    finally:
        client.kill()
        client.wait()


# --- in a browser ---

@pytest.fixture
def browser():
    from webdriver import Browser
    b = Browser()
    yield b
    b.close()


ROWS = "return [...document.querySelectorAll('#luns-table tbody tr')].map(tr => tr.cells[0].textContent)"


@pytest.mark.soak
def test_in_a_browser(watched, tmp_path, browser):
    e = watched(*[f"{tmp_path}/lun{i:02}.img,size=8M" for i in range(30)])
    browser.open(f"http://127.0.0.1:{e.metrics}/?interval=200")
    wait_for("LUNs", lambda: len(browser.run(ROWS)) == 25)
    assert browser.run("return document.querySelector('#state').textContent") == "serving"
    browser.keys("n")
    assert browser.run(ROWS) == [f"lun{i}" for i in range(25, 30)]
    browser.keys("b/lun2")
    assert browser.run("return document.activeElement.id") == "luns-filter"
    assert browser.run(ROWS) == [f"lun{i}" for i in range(20, 30)]
    run(need("qemu-io"), "-f", "raw", "-c", "write 0 8M", e.iscsi("lun27"))
    browser.run("document.querySelector('#luns-table th:nth-child(5) button').focus()")  # written
    from webdriver import ENTER
    browser.keys(ENTER)
    assert browser.run("return document.querySelector('#luns-table th:nth-child(5)').ariaSort") == "descending"
    theme = browser.run("return document.documentElement.dataset.theme")
    browser.keys("t")
    assert browser.run("return document.documentElement.dataset.theme") == ("light" if theme == "dark" else "dark")
    plots = "return [...document.querySelectorAll('canvas')].map(c => new Set(c.getContext('2d').getImageData(0, 0, c.width, c.height).data).size)"
    wait_for("plots", lambda: min(browser.run(plots)) > 20)
    assert "could be given back" in browser.run("return document.querySelector('#tide-text').textContent")
    browser.keys("p")
    assert browser.run("return document.querySelector('#pause').ariaPressed") == "true"
    assert not browser.log()
    browser.keys("p")
    e.proc.send_signal(signal.SIGSTOP)  # takes connections, and answers nothing
    wait_for("silence is told", lambda: browser.run("return document.querySelector('#state').textContent") == "no answer", 60)
    e.proc.send_signal(signal.SIGCONT)
    wait_for("its return", lambda: browser.run("return document.querySelector('#state').textContent") == "serving")
    e.stop()
    wait_for("the end is told", lambda: browser.run("return document.querySelector('#state').textContent") == "no answer")
