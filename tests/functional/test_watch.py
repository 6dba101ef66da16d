# SPDX-License-Identifier: GPL-2.0-or-later
"""Rules for Prometheus, the dashboard for Grafana, and the status page that needs neither."""
import http.client
import json
import re
import subprocess
import time

import pytest

from conftest import ROOT, SLOW, free_port, need, run
from controllib import wait_for

RULES = ROOT / "config/prometheus/ebb.rules.yml"
TESTS = ROOT / "config/prometheus/ebb.rules.test.yml"


def promtool(*args, check=True):
    cached = ROOT / ".cache/promtool"
    return run(cached if cached.exists() else need("promtool"), *args, check=check)


@pytest.mark.plain(reason="looks at no program of ours")
def test_the_rules_say_what_they_should():
    assert "SUCCESS" in promtool("check", "rules", RULES).stdout
    assert "SUCCESS" in promtool("test", "rules", TESTS).stdout
    alerts = set(re.findall(r"alert: (\w+)", RULES.read_text()))
    assert alerts <= set(re.findall(r"alertname: (\w+)", TESTS.read_text())), "an alert has no test"
    bounds = set(re.findall(r'\{\d+, "([0-9.e-]+)", (?:true|false)\}', (ROOT / "appliance/exporter/metrics.c").read_text()))
    asked = set(re.findall(r'le="([^"]+)"', RULES.read_text() + TESTS.read_text())) - {"+Inf"}
    assert bounds and asked <= bounds, "a bucket that is never told"
    page = (ROOT / "docs/watch.md").read_text()
    assert not [a for a in alerts if f"| `{a}` |" not in page], "docs/watch.md does not tell what to do"


@pytest.mark.plain(reason="looks at no program of ours")
def test_rules_and_dashboard_ask_for_what_there_is(tmp_path):
    assert "ask for what there is" in run(ROOT / "scripts/check-dashboards").stdout
    bad = tmp_path / "bad.rules.yml"
    for expr, what in (("ebb_no_such_total > 0", "no metric is called ebb_no_such_total"),
                       ("rate(ebb_lun_size_bytes_bucket[1m])", "ebb_lun_size_bytes_bucket"),
                       ('ebb_lun_size_bytes{pool="a"}', "has no label pool"),
                       ("sum by (pool) (ebb_lun_size_bytes)", "the label pool")):
        bad.write_text(json.dumps({"groups": [{"name": "g", "rules": [{"alert": "A", "expr": expr}]}]}))
        p = run(ROOT / "scripts/check-dashboards", bad, check=False)
        assert p.returncode == 1 and what in p.stdout
