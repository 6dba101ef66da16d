# SPDX-License-Identifier: GPL-2.0-or-later
"""`ebb serve` and the commands that talk to it."""
import json
import os
import re
import resource
import signal
import socket
import stat
import subprocess
import threading
import time

import pytest

from conftest import BUILD, EBB, SLOW, Ebb, free_port, need, run
from controllib import Control, wait_for


def cli_json(e, *args):
    return json.loads(e.cli("--json", *args).stdout)


def test_prints_urls_then_ready_and_reports_what_it_serves(ebb, disk, tmp_path):
    e = ebb(disk("16M"), f"{tmp_path}/new.img,name=made,size=1.5G,bs=4096,removable")
    assert e.lines[-1] == "ready"
    assert len(e.lines) == 5
    assert (tmp_path / "new.img").stat().st_size == 3 << 29
    assert (tmp_path / "new.img").stat().st_blocks == 0
    luns = {o["name"]: o for o in cli_json(e, "lun", "list")}
    assert luns["made"]["size"] == 3 << 29 and luns["made"]["block_size"] == 4096 and luns["made"]["removable"]
    assert luns["disk0"]["size"] == 16 << 20 and not luns["disk0"]["removable"]
    status = cli_json(e, "status")
    assert status["pid"] == e.proc.pid and status["luns"] == 2 and status["problems"] == []
    assert [o["url"] for o in cli_json(e, "export", "list")] == sorted(e.lines[:-1], key=lambda u: "/made" in u or ":made/" in u)
    for cmd in (("status",), ("lun", "list"), ("lun", "show", "made"), ("session", "list"), ("export", "list"), ("plan",)):
        assert e.cli(*cmd).stdout


def test_the_control_socket_is_ours_alone(ebb, disk):
    e = ebb(disk())
    assert stat.S_IMODE(e.socket.stat().st_mode) == 0o600
    e.stop()
    assert not e.socket.exists()


def test_lun_create_resize_delete(ebb, disk, tmp_path):
    e = ebb(disk("16M"))
    urls = e.cli("lun", "create", "second", tmp_path / "second.img", "--size", "8M").stdout.split()
    assert "virtual size: 8 MiB" in run(need("qemu-img"), "info", "-f", "raw", urls[0]).stdout
    assert "virtual size: 8 MiB" in run("qemu-img", "info", "-f", "raw", urls[1]).stdout
    e.cli("lun", "resize", "second", "24M")
    assert (tmp_path / "second.img").stat().st_size == 24 << 20
    for url in urls:
        assert "virtual size: 24 MiB" in run("qemu-img", "info", "-f", "raw", url).stdout
    assert e.cli("plan").stdout == e.cli("apply").stdout == "nothing to do\n"
    wait_for("nbdkit to let go of it", lambda: cli_json(e, "session", "list") == [])
    e.cli("lun", "delete", "second")
    assert [o["name"] for o in cli_json(e, "lun", "list")] == ["disk0"]
    assert (tmp_path / "second.img").stat().st_size == 24 << 20
    assert run("qemu-img", "info", "-f", "raw", urls[0], check=False).returncode
    assert e.cli("apply").stdout == "nothing to do\n"


def test_a_name_used_again_is_another_lun(ebb, disk, tmp_path):
    e = ebb(disk("16M"))

    def make(path):
        e.cli("lun", "create", "x", tmp_path / path, "--size", "8M")
        return next(o["uuid"] for o in cli_json(e, "lun", "list") if o["name"] == "x")

    first = make("one.img")
    e.cli("lun", "delete", "x")
    assert make("two.img") != first  # nobody may take two.img for one.img
    second = cli_json(e, "lun", "show", "x")["uuid"]
    assert sorted(p.name for p in (e.folder / "state/luns").iterdir()) == ["disk0.json", "x.json"]
    e.cli("lun", "delete", "x")
    assert make("one.img") not in (first, second)


@pytest.mark.parametrize("args, reason", [
    (("lun", "create", "disk0", "/x"), "declared already"),
    (("lun", "create", "new", "/nonexistent/x"), "No such file"),
    (("lun", "create", "b/d", "/x"), "name"),
    (("lun", "create", "new", "/x", "--size", "1000"), "multiple of 512"),
    (("lun", "create", "new", "/x", "--io", "fast"), "auto, direct, buffered"),
    (("lun", "create", "new", "/x", "--cache", "none", "--cache-weight", "2"), "cache_weight: the LUN is not cached"),
    (("lun", "create", "new", "/x", "--cache-weight", "99999"), "at most 10000"),
    (("lun", "create", "new", "/x", "--cache-floor", "much"), "cache_floor"),
    (("lun", "resize", "nobody", "1G"), "no LUN is called 'nobody'"),
    (("lun", "resize", "disk0", "1M"), ""),
    (("lun", "resize", "disk0", "1X"), "unknown unit"),
    (("lun", "delete", "nobody"), "no LUN is called 'nobody'"),
    (("lun", "show", "nobody"), "no LUN is called 'nobody'"),
    (("session", "kick", "iscsi-99"), "no session is called 'iscsi-99'"),
])
def test_what_is_refused_says_why_and_changes_nothing(ebb, disk, args, reason):
    e = ebb(disk("16M"))
    before = cli_json(e, "lun", "list")
    p = e.cli(*args, check=False)
    assert p.returncode == 1 and reason in p.stdout and p.stdout.startswith("ebb ")
    assert cli_json(e, "lun", "list") == before
    assert e.cli("plan").stdout == "nothing to do\n"


@pytest.mark.parametrize("args", [
    (), ("sing",), ("lun",), ("lun", "sing"), ("lun", "create"), ("lun", "create", "a"), ("lun", "list", "x"),
    ("lun", "show", "a", "b"), ("status", "--no-such"), ("serve",), ("serve", "/x", "--threads", "0"),
    ("serve", "/x,bs=1"), ("serve", "/x,what"), ("serve", "/x", "--iscsi", "nowhere"), ("serve", "/x,size=1Y"),
    ("lun", "create", "a", "/x", "--block-size", "y"),
])
def test_misuse_is_exit_2(args, tmp_path):
    assert run(EBB, "--socket", tmp_path / "none.sock", *args, check=False).returncode == 2


def test_who_refuses_an_option_is_named(tmp_path):
    for command in ("mount", "serve", "top", "lun list"):
        assert run(EBB, *command.split(), "--no-such", check=False).stdout.startswith(f"ebb {command}: ")


def test_an_answer_that_could_not_be_written_is_no_success(ebb, disk):
    e = ebb(disk())
    with open("/dev/full", "w", encoding="ascii") as full:
        p = subprocess.run([EBB, "--socket", e.socket, "--json", "lun", "list"], stdout=full, stderr=subprocess.PIPE,
                           timeout=60 * SLOW, check=False)
    assert p.returncode == 1 and b"standard output" in p.stderr


def test_nobody_there_is_exit_1(tmp_path):
    p = run(EBB, "--socket", tmp_path / "none.sock", "status", check=False)
    assert p.returncode == 1 and "no appliance answers" in p.stdout


def test_an_appliance_in_a_folder_of_others_is_not_asked(ebb, disk, tmp_path):
    """Whoever is the first to make /tmp/ebb-UID could answer in the place of ours."""
    own = tmp_path / "ebb"
    e = ebb(disk(), folder=own)
    env = {k: v for k, v in os.environ.items() if k != "EBB_SOCKET"} | {"XDG_RUNTIME_DIR": str(tmp_path)}
    own.chmod(0o700)
    assert f"pid {e.proc.pid}" in run(EBB, "status", env=env).stdout
    own.chmod(0o777)
    assert f"pid {e.proc.pid}" not in run(EBB, "status", env=env, check=False).stdout


def test_tables_do_not_command_the_terminal(ebb, disk):
    path = disk(name="a\x1b[2Jb\u009bc.img")
    e = ebb(f"{path},name=a")
    assert "/a?[2Jb??c.img\n" in e.cli("lun", "list").stdout
    assert "\x1b" in cli_json(e, "lun", "list")[0]["path"]


def test_help_of_every_command():
    top = run(EBB, "--help").stdout
    commands = re.findall(r"^  ([a-z]+(?: [a-z]+)?)  +\S", top, re.M)
    assert "serve" in commands and "lun create" in commands and len(commands) >= 12
    for c in commands:
        assert f"Usage: ebb {c}" in run(EBB, *c.split(), "--help").stdout
    assert run(EBB, "--version").stdout.startswith("ebb ")


def test_outwaits_an_address_that_is_being_given_up(tmp_path, disk):
    """The kernel may keep a listening socket a moment after the process that had it was killed."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", free_port()))
        other.listen()
        e = Ebb(tmp_path / "e", [disk("16M")], iscsi_port=other.getsockname()[1], wait=False)
        timer = threading.Timer(0.7, other.close)
        timer.start()
        e.start()
        timer.join()
        assert e.stop() == 0


def test_an_address_in_use_is_refused_by_name(tmp_path, disk):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        e = Ebb(tmp_path / "e", [disk("16M")], iscsi_port=other.getsockname()[1], wait=False)
        with pytest.raises(AssertionError, match="serve ended: 1"):
            e.start()
        assert e.stderr().count(address) == 1 and "Address already in use" in e.stderr()


def test_a_file_in_use_is_refused_by_name(ebb, disk, tmp_path):
    path = disk("16M")
    ebb(path)
    other = Ebb(tmp_path / "other", [path], wait=False)
    p = run(*other.cmd, check=False)
    assert p.returncode == 1 and str(path) in p.stdout and "use" in p.stdout
    q = run(EBB, "serve", tmp_path / "nothing.img", "--iscsi", "none", "--nbd", "none", "--socket",
            tmp_path / "n.sock", "--state", tmp_path / "n", check=False)
    assert q.returncode == 1 and "nothing.img: No such file" in q.stdout


def test_a_state_directory_in_use_is_refused_by_name(ebb, disk, tmp_path):
    e = ebb(disk("16M"))
    state = e.folder / "state"
    p = run(EBB, "serve", disk("16M"), "--iscsi", "none", "--nbd", "none", "--socket", tmp_path / "n.sock", "--state",
            state, check=False)
    assert p.returncode == 1 and str(state) in p.stdout and f"process {e.proc.pid}) uses" in p.stdout
    assert cli_json(e, "status")["luns"] == 1
    e.kill()
    e.start()  # who was killed holds nothing


def test_a_port_in_use_is_refused_by_name(disk, tmp_path):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        addr = f"127.0.0.1:{s.getsockname()[1]}"
        p = run(EBB, "serve", disk(), "--iscsi", addr, "--nbd", "none", "--socket", tmp_path / "n.sock",
                "--state", tmp_path / "n", check=False)
    assert p.returncode == 1 and addr in p.stdout


def test_a_busy_lun_is_not_deleted_unless_forced(ebb, disk, tmp_path):
    e = ebb(disk("16M"))
    e.cli("lun", "create", "b", tmp_path / "b.img", "--size", "8M")
    url = next(o["url"] for o in cli_json(e, "export", "list") if o["lun"] == "b" and o["protocol"] == "iscsi")
    client = subprocess.Popen(["qemu-io", "-r", "-f", "raw", url], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                              stderr=subprocess.STDOUT)
    try:
        wait_for("a session on b", lambda: any(o["export"].endswith(":b") for o in cli_json(e, "session", "list")))
        assert next(o for o in cli_json(e, "lun", "list") if o["name"] == "b")["sessions"] == 1
        p = e.cli("lun", "delete", "b", check=False)
        assert p.returncode == 1 and "busy: 1 session" in p.stdout
        e.cli("lun", "delete", "b", "--force")
        wait_for("b to be gone", lambda: [o["name"] for o in cli_json(e, "lun", "list")] == ["disk0"])
        wait_for("its session to be gone", lambda: cli_json(e, "session", "list") == [])
    finally:
        client.kill()
        client.wait()


def test_kick_ends_a_session(ebb, disk):
    e = ebb(disk("16M"))
    client = subprocess.Popen(["qemu-io", "-r", "-f", "raw", e.iscsi()], stdin=subprocess.PIPE,
                              stdout=subprocess.DEVNULL, stderr=subprocess.STDOUT)
    try:
        wait_for("a session", lambda: cli_json(e, "session", "list"))
        old = cli_json(e, "session", "list")[0]["id"]
        e.cli("session", "kick", old)
        wait_for("it to be gone", lambda: old not in [o["id"] for o in cli_json(e, "session", "list")])
    finally:
        client.kill()
        client.wait()


def test_sigterm_keeps_what_was_written(ebb, disk, tmp_path):
    path = disk("16M")
    e = ebb(f"{path},io=buffered")
    run("qemu-io", "-f", "raw", "-t", "writeback", "-c", "write -P 0x5a 0 1M", e.iscsi())
    assert e.stop() == 0
    assert path.read_bytes()[:1 << 20] == b"\x5a" * (1 << 20)
    assert not [p for p in e.folder.iterdir() if p.is_socket()]


def test_identity_survives_a_restart(ebb, disk):
    path = disk("16M")
    e = ebb(path)
    uuid = cli_json(e, "lun", "list")[0]["uuid"]
    assert e.stop() == 0
    e.start()
    assert cli_json(e, "lun", "list")[0]["uuid"] == uuid


def test_defaults_need_no_options(tmp_path, disk):
    """Run with a home of its own: state and sockets are made there and nothing else is asked for."""
    env = dict(os.environ, HOME=str(tmp_path), XDG_RUNTIME_DIR=str(tmp_path))
    env.pop("XDG_STATE_HOME", None)
    env.pop("EBB_SOCKET", None)
    args = [EBB, "serve", disk("16M"), "--iscsi", f"127.0.0.1:{free_port()}", "--nbd", f"127.0.0.1:{free_port()}"]
    p = subprocess.Popen([str(a) for a in args], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
    try:
        for line in p.stdout:
            if line == "ready\n":
                break
        assert json.loads(run(EBB, "--json", "status", env=env).stdout)["pid"] == p.pid
        state = list((tmp_path / ".local/state/ebb/serve").iterdir())
        assert len(state) == 1 and state[0].name.startswith("disk0-")
    finally:
        p.send_signal(signal.SIGTERM)
        _, err = p.communicate(timeout=30 * SLOW)
    assert p.returncode == 0, err


def test_one_beside_another_leaves_nothing(ebb, disk, tmp_path):
    """Its sockets, and what stands beside them, have names that nobody uses again."""
    e = ebb(disk(), folder=tmp_path / "ebb")
    env = {k: v for k, v in os.environ.items() if k != "EBB_SOCKET"} | {"XDG_RUNTIME_DIR": str(tmp_path)}
    e.folder.chmod(0o700)
    before = set(os.listdir(e.folder))
    p = run(EBB, "serve", disk(), "--iscsi", f"127.0.0.1:{e.iscsi_port}", "--nbd", "none", "--metrics", "none", "--state",
            tmp_path / "other", env=env, check=False)
    assert p.returncode == 1 and "another appliance runs" in p.stdout and set(os.listdir(e.folder)) == before


@pytest.mark.parametrize("data, words", [
    (b"\n", "not JSON"),
    (b"{\n", "not JSON"),
    (b"\x00\xff\x80\n", "not JSON"),
    (b"[" * 3000 + b"\n", "not JSON"),
    (b'{"v":1,"method":"sing"}\n', "unknown method 'sing'"),
    (b'{"v":9,"method":"status"}\n', "version 1"),
    (b'{"v":1,"method":"lun.show","params":{"name":["x"]}}\n', "must be a string"),
    (b'{"v":1,"method":"lun.create","params":{"name":"a","path":"/x","block_size":99999999999}}\n', "must be 512 or 4096"),
], ids=["empty", "open", "binary", "deep", "method", "version", "type", "range"])
def test_bad_messages_get_an_error_and_hurt_nobody(ebb, disk, data, words):
    e = ebb(disk())
    bad, good = Control(e.socket), Control(e.socket)
    bad.send(data)
    answer = bad.line()
    assert not answer["ok"] and words in answer["error"]["message"]
    assert good.call("status")["ok"]
    assert bad.call("lun.list")["ok"]  # the same connection goes on


def test_an_endless_message_is_cut_off(ebb, disk):
    e = ebb(disk())
    c = Control(e.socket)
    try:
        for _ in range(64):
            c.send(b"x" * 65536)
    except OSError:
        pass
    try:
        answer = c.line()
        assert answer["error"]["code"] == "too-large"
        assert c.line() is None
    except ConnectionResetError:
        pass
    assert Control(e.socket).call("status")["ok"]


def test_requests_sent_at_once_are_answered_in_order(ebb, disk):
    e = ebb(disk())
    c = Control(e.socket)
    c.send(b"".join(json.dumps({"v": 1, "id": i, "method": "status"}).encode() + b"\n" for i in range(100)))
    assert [c.line()["id"] for _ in range(100)] == list(range(100))


def test_many_connections_at_once_and_those_that_leave(ebb, disk, tmp_path):
    e = ebb(disk())
    conns = [Control(e.socket) for _ in range(40)]
    for i, c in enumerate(conns):
        c.send(json.dumps({"v": 1, "id": i, "method": "lun.create",
                           "params": {"name": f"l{i}", "path": f"{tmp_path}/l{i}.img", "size": "1M"}}).encode() + b"\n")
    for c in conns[1::2]:
        c.close()
    assert all(c.line()["ok"] for c in conns[0::2])
    names = {o["name"] for o in cli_json(e, "lun", "list")}
    assert {f"l{i}" for i in range(0, 40, 2)} <= names
    wait_for("the plan to be empty", lambda: e.cli("plan").stdout == "nothing to do\n")


@pytest.mark.alone
def test_a_thousand_luns(ebb, tmp_path):
    """Start under 3 s, list under 0.1 s, under 64 KiB an idle LUN, 0 % CPU idle."""
    files = []
    for i in range(1000):
        path = tmp_path / f"l{i}.img"
        with open(path, "wb") as f:
            f.truncate(64 << 20)
        files.append(path)
    one = ebb(f"{tmp_path}/one.img,size=1M")
    base = cli_json(one, "status")["resident_bytes"]
    one.stop()
    e, took, times = ebb(*files, wait=False), [], []
    # Once is enough: others may use the machine.
    while len(took) < 3 and min(took, default=3) >= 3:
        if took:
            e.stop()
        start = time.monotonic()
        e.start()
        took.append(time.monotonic() - start)
    assert len(e.lines) == 2001
    while len(times) < 100 and min(times, default=1) >= 0.1:
        start = time.monotonic()
        listed = e.cli("lun", "list").stdout
        times.append(time.monotonic() - start)
    assert listed.count("\n") == 1001
    each = (cli_json(e, "status")["resident_bytes"] - base) / 1000

    def ticks():
        fields = open(f"/proc/{e.proc.pid}/stat").read().rsplit(")", 1)[1].split()
        return int(fields[11]) + int(fields[12])

    def idle():
        before = ticks()
        time.sleep(3)
        return ticks() == before

    print(f"start {min(took):.2f} s, list {min(times):.3f} s, {each / 1024:.1f} KiB a LUN")
    assert min(took) < 3 and min(times) < 0.1 and each < 65536
    wait_for("three seconds in which nothing runs", idle, timeout=30)  # what the start left behind has to settle
    assert "virtual size" in run("qemu-img", "info", "-f", "raw", e.iscsi("l999")).stdout
    assert "virtual size" in run("qemu-img", "info", "-f", "raw", e.nbd("l500")).stdout


def test_more_luns_than_files_may_be_open_is_said(disk, tmp_path):
    def few():
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256))

    p = run(EBB, "serve", disk(), "--iscsi", "none", "--nbd", "none", "--socket", tmp_path / "s.sock", "--state",
            tmp_path / "st", check=False, preexec_fn=few)
    assert p.returncode == 1 and "open files, the limit is 256" in p.stdout
