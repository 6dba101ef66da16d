# SPDX-License-Identifier: GPL-2.0-or-later
"""ebbd below a service manager: socket activation, restarts that clients wait for, what the unit files promise."""
import fcntl
import os
import select
import signal
import socket
import subprocess
import threading

import nbd
import pytest

from conftest import EBBD, ROOT, SLOW, free_port, nbdkits_of, need, run
from controllib import Control, Daemon, ebbd, wait_for  # noqa: F401 (ebbd is a fixture)
from iscsi_raw import ASYNC, Raw

IQN = "iqn.2026-11.local.ebb:a"
KEPT = "ebb-kept"
TAKE = """n=3
for fd in $EBB_FDS; do eval "exec $n<&$fd $fd<&-"; n=$((n + 1)); done
unset EBB_FDS
LISTEN_PID=$$ exec "$@"
"""


class Managed(Daemon):
    """ebbd as the manager runs it: sockets that listen already, and those that it asked to have kept."""

    def __init__(self, folder):
        super().__init__(folder)
        self.sockets = []  # (name, socket)

    def start(self, env=None):
        self.catch_up()
        high = [fcntl.fcntl(s.fileno(), fcntl.F_DUPFD, 50) for _, s in self.sockets]
        self.proc = subprocess.Popen(
            ["bash", "-c", TAKE, "bash", str(EBBD), "--config", str(self.config)], stdin=subprocess.DEVNULL,
            stdout=self.log, stderr=self.log, pass_fds=high,
            env={"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "NOTIFY_SOCKET": str(self.folder / "notify"),
                 "EBB_FDS": " ".join(map(str, high)),
                 **({"LISTEN_FDS": str(len(high)), "LISTEN_FDNAMES": ":".join(n for n, _ in self.sockets)} if high else {}),
                 **(env or {})})
        for fd in high:
            os.close(fd)
        assert self.wait_notify("READY=1")
        return self

    def receive(self, flags=0):
        data, fds, _, _ = socket.recv_fds(self.notify, 4096, 4, flags)
        lines = data.decode().split("\n")
        if "FDSTORE=1" in lines:
            assert f"FDNAME={KEPT}" in lines and len(fds) == 1
            self.sockets.append((KEPT, socket.socket(fileno=fds[0])))
        return lines

    def wait_notify(self, word):
        while True:
            try:
                lines = self.receive()
            except socket.timeout:
                raise AssertionError(f"no {word} from ebbd\n{self.stderr()}") from None
            if word in lines:
                return "\n".join(lines)

    def catch_up(self):
        """As the manager does: what was said is heard, and a socket that was shut down is dropped."""
        while select.select([self.notify], [], [], 0)[0]:
            self.receive()
        for entry in list(self.sockets):
            p = select.poll()
            p.register(entry[1], 0)
            if p.poll(0):
                entry[1].close()
                self.sockets.remove(entry)


@pytest.fixture
def managed(tmp_path):
    d = Managed(tmp_path / "ebbd")
    yield d
    status = d.stop() if d.proc else 0
    text = d.stderr()
    for _, s in d.sockets:
        s.close()
    d.log.close()
    d.notify.close()
    assert "Sanitizer" not in text, text
    assert status == 0, text


def nbd_of(d):
    h = nbd.NBD()
    h.connect_uri(f"nbd+unix:///a?socket={d.folder}/nbd.sock")
    return h


def login(d):
    r = Raw(d.iscsi_port)
    assert r.login(IQN).login_status == 0
    return r.ready()


def nbdkit_pid(d):
    pids = nbdkits_of(d.folder)
    assert len(pids) == 1
    return pids[0]


def test_started_by_the_first_client(tmp_path, disk):
    d = Daemon(tmp_path / "ebbd")
    port = free_port()
    d.iscsi_port = port
    d.declare(f"[{{name: a, path: {disk('16M')}}}]")
    (d.folder / "run").mkdir()
    with subprocess.Popen([need("systemd-socket-activate"), "-l", f"127.0.0.1:{port}", "-l", str(d.folder / "nbd.sock"),
                           "-l", str(d.socket), "-E", "PATH", "-E", f"NOTIFY_SOCKET={d.folder}/notify",
                           str(EBBD), "--config", str(d.config)],
                          stdin=subprocess.DEVNULL, stdout=d.log, stderr=d.log) as d.proc:
        wait_for("all three to be listened on", d.socket.exists)
        r = login(d)
        assert d.wait_notify("READY=1")
        assert nbd_of(d).get_size() == 16 << 20
        assert d.json("status")["config"] == str(d.config)
        r.close()
        assert d.stop() == 0
    assert "socket.unused" not in d.stderr()
    d.log.close()
    d.notify.close()


def listening(address):
    family = socket.AF_UNIX if address[0] == "/" else socket.AF_INET
    s = socket.socket(family)
    s.bind(address if family == socket.AF_UNIX else ("127.0.0.1", int(address)))
    s.listen(16)
    return s


def test_a_socket_unit_outlives_the_daemon(managed, disk):
    managed.declare(f"[{{name: a, path: {disk('16M')}}}]")
    (managed.folder / "run").mkdir()
    managed.sockets = [("ebb-iscsi.socket", listening(str(managed.iscsi_port))),
                       ("ebb-nbd.socket", listening(f"{managed.folder}/nbd.sock")),
                       ("ebb.socket", listening(str(managed.socket)))]
    managed.start()
    login(managed).close()
    assert managed.stop() == 0
    waiting = Raw(managed.iscsi_port)  # not refused: it waits in the backlog
    asked = Control(managed.socket)
    asked.send(b'{"v": 1, "id": 1, "method": "status", "params": {}}\n')
    managed.start()
    assert len(managed.sockets) == 3  # what is the unit's is not kept a second time
    assert waiting.login(IQN).login_status == 0
    assert asked.line()["ok"]
    assert nbd_of(managed).get_size() == 16 << 20
    waiting.close()
    asked.close()


def test_a_socket_that_nothing_declares_is_told(managed):
    port = free_port()
    managed.declare("[]")
    managed.sockets = [("ebb-iscsi.socket", listening(str(port)))]
    managed.start()
    assert f"socket.unused address=127.0.0.1:{port}" in managed.stderr()


def test_what_is_no_socket_is_refused(managed):
    managed.declare("[]")
    managed.sockets = [("strange", open("/dev/null", "rb"))]
    with pytest.raises(AssertionError, match="no READY=1"):
        managed.notify.settimeout(1)
        managed.start()
    assert managed.proc.wait(20 * SLOW) == 1
    assert "ebbd: socket 'strange' of the service manager: " in managed.stderr()
    managed.proc = None


def test_clients_wait_for_the_successor(managed, disk):
    managed.declare(f"[{{name: a, path: {disk('16M')}}}]")
    managed.start()
    assert len(managed.sockets) == 3  # portal, NBD, control
    pid = nbdkit_pid(managed)
    h, r = nbd_of(managed), login(managed)
    h.pwrite(b"before" * 512, 4096)
    assert r.wait(r.write(0, b"\x17" * 512, data=b"\x17" * 512)).status == 0
    assert managed.stop(signal.SIGUSR1) == 0
    assert [p.bhs[36] for p in r.closed() if p.op == ASYNC] == [2]  # the line goes; nobody is asked to log out
    found = {}

    def go_on():
        h.pwrite(b"amidst" * 512, 8192)
        found["old"] = h.pread(3072, 4096)

    def come_anew():
        found["new"] = nbd_of(managed).pread(3072, 4096)

    threads = [threading.Thread(target=go_on), threading.Thread(target=come_anew)]
    for t in threads:
        t.start()
    waiting = Raw(managed.iscsi_port)
    assert not found
    managed.start()
    assert nbdkit_pid(managed) == pid
    for t in threads:
        t.join(60 * SLOW)
    assert found == {"old": b"before" * 512, "new": b"before" * 512}
    assert nbd_of(managed).pread(3072, 8192) == b"amidst" * 512
    assert waiting.login(IQN).login_status == 0
    waiting.ready()
    assert waiting.read(0, 1).all == b"\x17" * 512
    waiting.close()
    assert managed.stop() == 0
    wait_for("nbdkit to end with a stop", lambda: not nbdkits_of(managed.folder))


def test_what_is_kept_goes_when_its_address_is_given_up(managed, disk):
    luns = f"[{{name: a, path: {disk('16M')}}}]"

    def move_portal():
        old, managed.iscsi_port = managed.iscsi_port, free_port()
        managed.declare(luns)
        return old

    def is_given_up(port):
        managed.catch_up()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=20 * SLOW)
        login(managed).close()

    managed.declare(luns)
    managed.start()
    old = move_portal()
    managed.cli("apply")
    is_given_up(old)
    # One that was declared when it was kept, and is no more when it comes back.
    old = move_portal()
    assert managed.stop(signal.SIGUSR1) == 0
    managed.start()
    is_given_up(old)


def test_memory_high_follows_from_the_declaration(tmp_path):
    path = tmp_path / "ebb.yaml"
    path.write_text("memory: {max: 4G}\n")
    assert run(EBBD, "--config", path, "--memory-high").stdout == f"{(5 << 30) + (256 << 20)}\n"
    path.write_text("threads: 2\n")
    assert run(EBBD, "--config", path, "--memory-high").stdout == "infinity\n"


def test_units_are_as_confined_as_promised():
    said = run(ROOT / "scripts/check-service").stdout
    assert "ebb.service" in said
