# SPDX-License-Identifier: GPL-2.0-or-later
"""ebbd tells ebb-lio what `lio:` declares and keeps what that answers; with a kernel that is a file (liolib)."""
import os
import signal
import subprocess
import sys

import nbd
import pytest
from conftest import EBB, ROOT, SLOW
from controllib import Control, ebbd, wait_for  # noqa: F401
from liolib import FileTree

from ebb_lio.state import Chap

IQN = "iqn.2026-11.local.ebb:t"
HOST = "iqn.1993-08.org.debian:01:host"
SECRET, MUTUAL = "Geheimnis-Eins!", "Geheimnis-Zwei?"


class Lio:
    """ebb-lio with its kernel."""

    def __init__(self, folder, ebbd):
        self.kernel_path, self.state, self.ebbd = str(folder / "kernel"), folder / "lio-state", ebbd
        self.log = open(folder / "lio.log", "a+", encoding="utf-8")
        self.proc = None

    def command(self, *args):
        code = "import sys; from liolib import run_with_file; sys.exit(run_with_file(sys.argv[1], sys.argv[2:]))"
        return [sys.executable, "-c", code, self.kernel_path, "--socket", str(self.ebbd.socket), "--state",
                str(self.state), *args]

    def environment(self):
        return {**os.environ, "PYTHONPATH": str(ROOT / "tests/functional")}

    def run(self, *args, check=True):
        p = subprocess.run(self.command(*args), env=self.environment(), stdout=subprocess.PIPE, check=False,
                           stderr=subprocess.STDOUT, text=True, timeout=60 * SLOW, stdin=subprocess.DEVNULL)
        assert not check or p.returncode == 0, p.stdout
        return p

    def watch(self):
        self.proc = subprocess.Popen(self.command("watch"), env=self.environment(), stdout=self.log, stderr=self.log,
                                     stdin=subprocess.DEVNULL)

    def text(self):
        self.log.flush()
        with open(self.log.name, encoding="utf-8") as f:
            return f.read()

    def kernel(self):
        return FileTree(self.kernel_path)

    def fail(self, verbs):
        self.kernel()._fail(verbs)

    def stop(self):
        self.proc.send_signal(signal.SIGTERM)
        return self.proc.wait(30 * SLOW)


@pytest.fixture
def lio(tmp_path, ebbd):
    one = Lio(tmp_path, ebbd)
    yield one
    if one.proc and one.proc.poll() is None:
        assert one.stop() == 0, one.text()
    one.log.close()


def declare(ebbd, luns="[a]", acls=True, names="a"):
    acl = (f"      acls:\n        - initiator: {HOST}\n          chap: {{user: u, secret: '{SECRET}', "
           f"mutual: {{user: m, secret: '{MUTUAL}'}}}}\n") if acls else ""
    declared = "".join(f"\n  - {{name: {n}, path: {ebbd.folder}/{n}.img, size: 4M}}" for n in names)
    lio = f"lio:\n  portals: ['127.0.0.1:3261']\n  targets:\n    - iqn: {IQN}\n      luns: {luns}\n{acl}" if luns else ""
    ebbd.declare(declared, "tcmu: true\n" + lio)


def shown(lio):
    t = lio.kernel().targets.get(IQN)
    return t.luns if t and t.enabled else None


def problems(ebbd):
    return {p["name"]: p["problem"] for p in ebbd.json("status")["problems"]}


def test_declared_changed_and_gone(ebbd, lio):
    declare(ebbd)
    ebbd.start()
    assert "ebb-lio has not answered yet" in ebbd.cli("plan").stdout
    lio.watch()
    wait_for("the export", lambda: shown(lio) == {0: "ebb-a"})
    wait_for("its report", lambda: problems(ebbd) == {})
    k = lio.kernel()
    assert k.targets[IQN].acls[HOST].chap == Chap("u", SECRET, "m", MUTUAL)
    assert k.backstores["ebb-a"].size == 4 << 20 and k.backstores["ebb-a"].uuid == ebbd.json("lun", "show", "a")["uuid"]
    assert ebbd.cli("plan").stdout == "nothing to do\n"

    declare(ebbd, "[a, 7=b]", names="ab")
    plan = ebbd.cli("plan").stdout
    assert f"+ change lio target {IQN} (2 LUNs)" in plan
    ebbd.cli("apply")
    wait_for("the second LUN", lambda: shown(lio) == {0: "ebb-a", 7: "ebb-b"})
    wait_for("its mapping", lambda: lio.kernel().targets[IQN].acls[HOST].luns == {0: 0, 7: 7})

    ebbd.cli("lun", "resize", "b", "8M")
    wait_for("its growth", lambda: lio.kernel().backstores["ebb-b"].size == 8 << 20)

    declare(ebbd, None)
    assert f"+ remove lio target {IQN}" in ebbd.cli("plan").stdout
    ebbd.cli("apply")
    wait_for("the end", lambda: not lio.kernel().targets and not lio.kernel().backstores)


def apply_answered(ebbd, answer):
    """`ebb apply`, with @answer(helper) done in the place of ebb-lio before it reports that all is done."""
    helper = Control(ebbd.socket, timeout=60)
    before = helper.call("lio.desired")["result"]["generation"]
    with subprocess.Popen([str(EBB), "--socket", str(ebbd.socket), "apply"], stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as p:
        helper.call("lio.wait", generation=before)
        desired = helper.call("lio.desired")["result"]
        assert desired["targets"] == []
        answer(helper)
        helper.call("lio.report", generation=desired["generation"], problems=[])
        said = p.communicate(timeout=60 * SLOW)[0]
    helper.close()
    return said, p.returncode


def names(ebbd):
    return [o["name"] for o in ebbd.json("lun", "list")]


def test_one_apply_takes_a_lun_away_with_its_export(ebbd):
    """A client over NBD has the LUN open, in the place of the kernel."""
    declare(ebbd, names="ab")
    ebbd.start()
    client = nbd.NBD()
    client.connect_uri(f"nbd+unix:///a?socket={ebbd.folder}/nbd.sock")

    def let_go(helper):
        assert names(ebbd) == ["a", "b"]
        client.shutdown()
        wait_for("the client to go", lambda: not helper.call("session.list")["result"])

    declare(ebbd, None, names="b")
    said, status = apply_answered(ebbd, let_go)
    assert status == 0 and "remove lun a" in said and "busy" not in said, said
    assert names(ebbd) == ["b"]


def test_a_lun_that_others_use_outlives_its_export(ebbd):
    declare(ebbd, names="ab")
    ebbd.start()
    client = nbd.NBD()
    client.connect_uri(f"nbd+unix:///a?socket={ebbd.folder}/nbd.sock")
    declare(ebbd, None, names="b")
    said, status = apply_answered(ebbd, lambda helper: None)
    assert status == 1 and "busy: 1 session" in said, said
    client.pwrite(b"\1" * 4096, 0)
    assert client.pread(4096, 0) == b"\1" * 4096
    client.shutdown()


def test_secrets_are_in_the_kernel_only(ebbd, lio):
    declare(ebbd)
    ebbd.start()
    lio.watch()
    wait_for("the export", lambda: shown(lio))
    with open(f"/proc/{lio.proc.pid}/cmdline", encoding="utf-8") as f:
        told = f.read()
    told += lio.text() + ebbd.stderr() + ebbd.cli("--json", "status").stdout + ebbd.cli("plan").stdout
    told += (lio.state / "owned.json").read_text()
    assert SECRET not in told and MUTUAL not in told
    assert IQN in told


def test_a_lun_that_is_declared_cannot_be_deleted_beneath(ebbd, lio):
    declare(ebbd)
    ebbd.start()
    ebbd.cli("lun", "create", "mine", f"{ebbd.folder}/mine.img", "--size", "1M")
    assert ebbd.cli("lun", "delete", "mine").returncode == 0
    assert "declared" in ebbd.cli("lun", "delete", "a", check=False).stdout


def test_what_fails_is_told_by_its_name_and_tried_again(ebbd, lio):
    lio.fail({("create_target", IQN)})
    declare(ebbd)
    ebbd.start()
    lio.watch()
    wait_for("the report", lambda: "the kernel says no" in problems(ebbd).get(IQN, ""))
    assert f"! attention {IQN}: is created: the kernel says no" in ebbd.cli("plan").stdout
    lio.fail(set())
    lio.proc.send_signal(signal.SIGHUP)
    wait_for("the export", lambda: shown(lio) == {0: "ebb-a"})
    wait_for("its report", lambda: problems(ebbd) == {})


def test_the_daemon_goes_and_comes(ebbd, lio):
    lio.watch()  # there is no daemon yet
    declare(ebbd)
    ebbd.start()
    wait_for("the export", lambda: shown(lio) == {0: "ebb-a"})
    assert ebbd.stop() == 0
    assert shown(lio) == {0: "ebb-a"}  # initiators wait
    declare(ebbd, "[3=a]")
    ebbd.start()
    wait_for("the change", lambda: shown(lio) == {3: "ebb-a"})


def test_it_stays_when_ebb_lio_ends_and_comes_back_after_a_reboot(ebbd, lio):
    declare(ebbd)
    ebbd.start()
    lio.watch()
    wait_for("the export", lambda: shown(lio) == {0: "ebb-a"})
    assert lio.stop() == 0
    assert shown(lio) == {0: "ebb-a"}
    os.unlink(lio.kernel_path)  # a reboot
    lio.watch()
    wait_for("the export", lambda: shown(lio) == {0: "ebb-a"})


def test_once(ebbd, lio):
    declare(ebbd)
    ebbd.start()
    assert f"+ {IQN}: is created\n" in lio.run("plan").stdout
    assert shown(lio) is None
    assert f"{IQN}: is enabled\n" in lio.run("apply").stdout
    assert shown(lio) == {0: "ebb-a"} and problems(ebbd) == {}
    assert lio.run("plan").stdout == "nothing to do\n"
    assert ebbd.stop() == 0
    assert "no such file" in lio.run("apply", check=False).stdout.lower()
    lio.run("remove")
    assert not lio.kernel().targets


def test_what_it_cannot_do_is_said_in_a_line():
    p = subprocess.run([sys.executable, ROOT / "appliance/lio/ebb-lio", "--state", "/proc/no-such-folder", "remove"],
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60 * SLOW, check=False)
    assert p.returncode == 1 and p.stdout.startswith("ebb-lio: ") and p.stdout.count("\n") == 1, p.stdout


def test_one_at_a_time(ebbd, lio):
    declare(ebbd)
    ebbd.start()
    lio.watch()
    wait_for("the export", lambda: shown(lio))
    p = lio.run("apply", check=False)
    assert p.returncode == 1 and "another ebb-lio is at work" in p.stdout


def test_who_waits_is_answered_by_a_change_and_may_leave(ebbd):
    declare(ebbd)
    ebbd.start()
    for _ in range(100):  # more than there may be connections
        c = Control(ebbd.socket)
        now = c.call("lio.desired")["result"]["generation"]
        c.send(b'{"v": 1, "method": "lio.wait", "params": {"generation": %d}}\n' % now)
        c.close()
    waiter, other = Control(ebbd.socket), Control(ebbd.socket)
    assert waiter.call("lio.wait", generation=now - 1)["result"]["generation"] == now
    waiter.send(b'{"v": 1, "id": 1, "method": "lio.wait", "params": {"generation": %d}}\n' % now)
    waiter.send(b'{"v": 1, "id": 2, "method": "lio.desired"}\n')  # its answer comes after
    assert other.call("apply")["ok"]
    first, second = waiter.line(), waiter.line()
    assert (first["id"], second["id"]) == (1, 2)
    assert first["result"]["generation"] == second["result"]["generation"] > now
    assert not other.call("lio.report", generation=1, problems=[{"name": "x"}])["ok"]
    assert not other.call("lio.report", generation=1, problems="x")["ok"]
    waiter.send(b'{"v": 1, "method": "lio.wait", "params": {"generation": %d}}\n' % first["result"]["generation"])
    # and the daemon ends with somebody waiting (the fixture sees to it)
