# SPDX-License-Identifier: GPL-2.0-or-later
"""ebbd: the service with its configuration file."""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import tempfile

import pytest

from conftest import EBBD, PLUGIN, SLOW, need, run
from controllib import ebbd, wait_for  # noqa: F401 (a fixture)
from iscsi_raw import ASYNC, Raw


def iscsi(d, iqn):
    return f"iscsi://127.0.0.1:{d.iscsi_port}/{iqn}"


def test_check_says_file_line_key_reason(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("threads: 2\nluns:\n- name: a\n  path: /a\n  size: 10Q\n")
    p = run(EBBD, "--config", path, "--check", check=False)
    assert p.returncode == 1
    assert p.stdout.startswith(f"{path}:5: luns[0].size: ")
    path.write_text("threads: 2\n")
    assert run(EBBD, "--config", path, "--check").stdout == ""
    p = run(EBBD, "--config", tmp_path / "none.yaml", "--check", check=False)
    assert p.returncode == 1 and "No such file" in p.stdout


def test_the_shipped_example_is_valid():
    example = os.path.join(os.path.dirname(__file__), "../../config/ebb.yaml")
    assert run(EBBD, "--config", example, "--check").stdout == ""


def test_runs_what_is_declared_and_tells_the_manager(ebbd, disk):
    ebbd.declare(f"[{{name: a, path: {disk('16M')}}}]")
    ebbd.start()
    assert "virtual size: 16 MiB" in run(need("qemu-img"), "info", "-f", "raw",
                                         iscsi(ebbd, "iqn.2026-11.local.ebb:a/0")).stdout
    assert ebbd.json("status")["config"] == str(ebbd.config)
    ebbd.proc.send_signal(signal.SIGTERM)
    ebbd.wait_notify("STOPPING=1")
    assert ebbd.stop() == 0


def test_a_missing_file_is_reported_and_never_dropped(ebbd, disk, tmp_path):
    path = tmp_path / "late.img"
    ebbd.declare(f"[{{name: a, path: {disk('16M')}}}, {{name: late, path: {path}}}]")
    ebbd.start()
    for _ in range(2):
        plan = ebbd.json("plan")
        assert [(s["action"], s["name"]) for s in plan["steps"]] == [
            ("create lun", "late"), ("create target", "iqn.2026-11.local.ebb:late")]
        assert plan["problems"] == 2 and "No such file" in plan["steps"][0]["problem"]
        p = ebbd.cli("apply", check=False)
        assert p.returncode == 1 and "late.img: No such file" in p.stdout
    late = next(o for o in ebbd.json("lun", "list") if o["name"] == "late")
    assert late["state"] == "offline" and "No such file" in late["problem"]
    run("truncate", "-s", "8M", path)
    ebbd.cli("apply")
    assert ebbd.cli("plan").stdout == "nothing to do\n"
    assert next(o for o in ebbd.json("lun", "list") if o["name"] == "late")["state"] == "online"


def test_apply_does_what_plan_says_and_leaves_others_alone(ebbd, disk, tmp_path):
    a, b, c = disk("16M"), disk("16M"), tmp_path / "c.img"
    ebbd.declare(f"[{{name: a, path: {a}}}, {{name: b, path: {b}}}]")
    ebbd.start()
    client = subprocess.Popen(["qemu-io", "-f", "raw", iscsi(ebbd, "iqn.2026-11.local.ebb:a/0")],
                              stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        wait_for("the session on a", lambda: ebbd.json("session", "list"))
        session = ebbd.json("session", "list")[0]["id"]
        ebbd.declare(f"[{{name: a, path: {a}}}, {{name: b, path: {b}, size: 32M}}, {{name: c, path: {c}, size: 8M}}]",
                     extra="  targets:\n  - iqn: iqn.2026-11.local.ebb:both\n    luns: [b, 5=c]\n")
        planned = ebbd.json("plan")
        assert [(s["action"], s["name"].rsplit(":", 1)[-1]) for s in planned["steps"]] == [
            ("remove target", "b"), ("grow lun", "b"), ("create lun", "c"), ("create target", "both")]
        assert ebbd.json("apply") == planned
        assert ebbd.cli("apply").stdout == "nothing to do\n"
        assert b.stat().st_size == 32 << 20
        assert "virtual size: 8 MiB" in run("qemu-img", "info", "-f", "raw", iscsi(ebbd, "iqn.2026-11.local.ebb:both/5")).stdout
        assert session in [s["id"] for s in ebbd.json("session", "list")]
        # a is busy: taking it out of the declaration is refused, and told, until the session ends
        ebbd.declare(f"[{{name: b, path: {b}}}, {{name: c, path: {c}}}]",
                     extra="  targets:\n  - iqn: iqn.2026-11.local.ebb:both\n    luns: [b, 5=c]\n")
        p = ebbd.cli("apply", check=False)
        assert p.returncode == 1 and "busy: 1 session" in p.stdout
        out = client.communicate("write -P 1 0 1M\nread -P 1 0 1M\nflush\n", timeout=60 * SLOW)[0]
        assert "failed" not in out and out.count("1 MiB, 1 ops") == 2
    finally:
        client.kill()
        client.wait()
    wait_for("a to be idle", lambda: not ebbd.json("session", "list"))
    ebbd.cli("apply")
    assert [o["name"] for o in ebbd.json("lun", "list")] == ["b", "c"]


def test_changes_of_a_lun_are_told_by_its_number(ebbd, disk):
    a, b = disk("16M"), disk("16M")
    luns = f"[{{name: a, path: {a}}}, {{name: b, path: {b}}}]"
    extra = "  targets:\n  - iqn: iqn.2026-11.local.ebb:both\n    luns: [a, 5=b{}]\n"
    ebbd.declare(luns, extra=extra.format(""))
    ebbd.start()
    r = Raw(ebbd.iscsi_port)
    assert r.login("iqn.2026-11.local.ebb:both").login_status == 0
    r.ready()
    r.wait(r.command(bytes(6), lun=5))  # from now on b is known to this session

    def event():
        p = r.recv()
        assert p.op == ASYNC and p.bhs[36] == 0
        return p.bhs[8:16], p.data[2 + 12:2 + 14]

    ebbd.cli("lun", "resize", "b", "32M")
    assert event() == (bytes([0, 5, 0, 0, 0, 0, 0, 0]), b"\x2a\x09")
    ebbd.declare(luns.replace(f"path: {b}", f"path: {b}, size: 32M"), extra=extra.format(", 200=a"))
    ebbd.cli("apply")
    assert event() == (bytes([0, 200, 0, 0, 0, 0, 0, 0]), b"\x3f\x0e")
    r.close()


def test_sighup_applies(ebbd, disk):
    a, b = disk("16M"), disk("16M")
    ebbd.declare(f"[{{name: a, path: {a}}}]")
    ebbd.start()
    ebbd.declare(f"[{{name: a, path: {a}}}, {{name: b, path: {b}}}]")
    ebbd.proc.send_signal(signal.SIGHUP)
    assert "MONOTONIC_USEC" in ebbd.wait_notify("RELOADING=1")
    ebbd.wait_notify("READY=1")
    assert [o["name"] for o in ebbd.json("lun", "list")] == ["a", "b"]
    # a file that is wrong changes nothing
    ebbd.config.write_text("luns: nonsense\n")
    ebbd.proc.send_signal(signal.SIGHUP)
    ebbd.wait_notify("READY=1")
    assert [o["name"] for o in ebbd.json("lun", "list")] == ["a", "b"]
    p = ebbd.cli("plan", check=False)
    assert p.returncode == 1 and f"{ebbd.config}:1: luns: " in p.stdout


def test_luns_made_by_command_come_back(ebbd, disk, tmp_path):
    ebbd.declare(f"[{{name: a, path: {disk('16M')}}}]")
    ebbd.start()
    ebbd.cli("lun", "create", "mine", tmp_path / "mine.img", "--size", "8M", "--description", "kept", "--cache-weight", "7",
             "--cache-floor", "2M")
    ebbd.cli("lun", "resize", "mine", "16M")
    assert ebbd.cli("apply").stdout == "nothing to do\n"
    uuid = next(o for o in ebbd.json("lun", "list") if o["name"] == "mine")["uuid"]
    assert ebbd.stop() == 0
    ebbd.start()
    mine = next(o for o in ebbd.json("lun", "list") if o["name"] == "mine")
    assert mine["uuid"] == uuid and mine["size"] == 16 << 20 and mine["description"] == "kept"
    kept = json.loads((ebbd.folder / "state/luns.json").read_text())["luns"][0]
    assert (kept["cache_weight"], kept["cache_floor"]) == (7, "2M")
    p = ebbd.cli("lun", "delete", "a", check=False)
    assert p.returncode == 1 and str(ebbd.config) in p.stdout
    ebbd.cli("lun", "delete", "mine")
    assert ebbd.stop() == 0
    ebbd.start()
    assert [o["name"] for o in ebbd.json("lun", "list")] == ["a"]


def test_one_daemon_has_a_state_directory(ebbd, disk):
    ebbd.declare("[]")
    ebbd.start()
    p = run(EBBD, "--config", ebbd.config, check=False)
    assert p.returncode == 1 and f"process {ebbd.proc.pid}) uses this state directory" in p.stdout


def test_the_watchdog_is_fed(ebbd):
    ebbd.declare("[]")
    ebbd.start(env={"WATCHDOG_USEC": "600000"})
    for _ in range(3):
        ebbd.wait_notify("WATCHDOG=1")


def test_chap_and_acl_are_from_the_file(ebbd, disk):
    ebbd.declare(f"[{{name: a, path: {disk('16M')}}}, {{name: b, path: {disk('16M')}}}]",
                 extra="  targets:\n  - iqn: iqn.2026-11.local.ebb:locked\n    luns: [a]\n"
                       "    chap: {users: [{user: me, secret: 'secretsecret1'}]}\n"
                       "  - iqn: iqn.2026-11.local.ebb:closed\n    luns: [b]\n    initiators: [iqn.1999-01.org.nobody:x]\n")
    ebbd.start()
    inq = need("iscsi-inq")
    portal = f"127.0.0.1:{ebbd.iscsi_port}"
    assert "EBB" in run(inq, f"iscsi://me%secretsecret1@{portal}/iqn.2026-11.local.ebb:locked/0").stdout
    assert run(inq, f"iscsi://{portal}/iqn.2026-11.local.ebb:locked/0", check=False).returncode
    assert run(inq, f"iscsi://me%wrongsecret12@{portal}/iqn.2026-11.local.ebb:locked/0", check=False).returncode
    assert run(inq, f"iscsi://{portal}/iqn.2026-11.local.ebb:closed/0", check=False).returncode
    # opened by a change of the file, with no restart
    text = ebbd.config.read_text()
    ebbd.config.write_text(text.replace("iqn.1999-01.org.nobody:x", "'*'"))
    ebbd.cli("apply")
    assert "EBB" in run(inq, f"iscsi://{portal}/iqn.2026-11.local.ebb:closed/0").stdout


def test_a_login_that_the_acl_overtakes_is_refused(ebbd, disk):
    iqn = "iqn.2026-11.local.ebb:shut"
    ebbd.declare(f"[{{name: a, path: {disk('16M')}}}]",
                 extra=f"  targets:\n  - iqn: {iqn}\n    luns: [a]\n    initiators: ['*']\n")
    ebbd.start()
    r, late = Raw(ebbd.iscsi_port), Raw(ebbd.iscsi_port)
    assert r.login(iqn).login_status == 0
    assert late.login(iqn, csg=0, nsg=1).login_status == 0
    ebbd.config.write_text(ebbd.config.read_text().replace("'*'", "iqn.1999-01.org.nobody:x"))
    ebbd.cli("apply")
    assert [p.bhs[36] for p in r.closed()][-1] == 2  # the session is told to go
    assert late.login_pdu([]).login_status == 0x0202
    assert late.closed() == []


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to give it up")
def test_gives_up_root(ebbd, disk, tmp_path):
    path = disk("16M")
    os.chown(path, 65534, 65534)
    for folder in [tmp_path, *tmp_path.parents]:
        if folder == pathlib.Path(tempfile.gettempdir()):
            break
        os.chmod(folder, 0o755)
    ebbd.declare(f"[{{name: a, path: {path}}}]")
    ebbd.config.write_text(ebbd.config.read_text().replace("unix:" + str(ebbd.folder), "unix:" + str(ebbd.folder / "run"))
                           + "user: nobody\n")
    os.chmod(ebbd.folder / "notify", 0o777)
    plugin = tmp_path / PLUGIN.name  # the build may lie where only root may look
    shutil.copy(PLUGIN, plugin)
    ebbd.start(env={"EBB_NBDKIT_PLUGIN": str(plugin)})
    uids = next(line for line in open(f"/proc/{ebbd.proc.pid}/status") if line.startswith("Uid:")).split()[1:]
    assert uids == ["65534"] * 4
    assert ebbd.json("lun", "list")[0]["state"] == "online"
