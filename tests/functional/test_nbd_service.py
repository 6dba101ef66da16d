# SPDX-License-Identifier: GPL-2.0-or-later
"""NBD as the daemon serves it: TLS, who may connect to the port, reservations, full files, growth."""
import errno
import os
import resource
import shutil
import struct
import sys
import tempfile

import nbd
import pytest

from conftest import EBB, free_port, nbdkits_of, need, run
from controllib import Daemon
from iscsi_raw import Raw
from nbdlib import PortServer, fails_with

MiB = 1 << 20


def connect(uri):
    h = nbd.NBD()
    h.set_uri_allow_local_file(True)
    h.connect_uri(uri)
    return h


# --- TLS ---


def certify(ca, folder, who, template):
    """A key and a certificate of the CA in folder @ca, or (folder == ca, who == "ca") the CA's own."""
    tool, key = need("certtool"), folder / f"{who}-key.pem"
    (folder / f"{who}.cfg").write_text(template + "expiration_days = 2\n")
    run(tool, "--generate-privkey", "--key-type=ecdsa", "--outfile", key)
    signed = ["--generate-self-signed"] if who == "ca" else [
        "--generate-certificate", "--load-ca-certificate", ca / "ca-cert.pem", "--load-ca-privkey", ca / "ca-key.pem"]
    run(tool, *signed, "--load-privkey", key, "--template", folder / f"{who}.cfg", "--outfile", folder / f"{who}-cert.pem")


def make_pki(folder):
    """A CA and a server's certificate for localhost, as nbdkit wants them named."""
    folder.mkdir()
    certify(folder, folder, "ca", "cn = Test CA\nca\ncert_signing_key\n")
    certify(folder, folder, "server", "cn = localhost\ndns_name = localhost\nip_address = 127.0.0.1\ntls_www_server\n"
            "signing_key\nencryption_key\n")
    client = folder / "client"
    client.mkdir()
    shutil.copy(folder / "ca-cert.pem", client)
    return client


def serve_tls(tmp_path, disk, tls):
    d = Daemon(tmp_path / "ebbd")
    d.declare(f"[{{name: one, path: '{disk('8M')}'}}]")
    d.port = free_port()
    text = d.config.read_text().replace(f"'unix:{d.folder}/nbd.sock']", f"'127.0.0.1:{d.port}'], tls: {tls}")
    d.config.write_text(text)
    return d.start()


def test_tls_with_certificates(tmp_path, disk):
    client = make_pki(tmp_path / "pki")
    d = serve_tls(tmp_path, disk, f"{{mode: require, certificates: '{tmp_path}/pki'}}")
    uri = f"nbds://localhost:{d.port}/one?tls-certificates={client}"
    h = connect(uri)
    assert h.get_tls_negotiated()
    h.pwrite(b"s" * 4096, 0)
    assert h.pread(4096, 0) == b"s" * 4096
    h.shutdown()
    assert "export-size: 8388608" in run(need("nbdinfo"), uri).stdout
    with pytest.raises(nbd.Error):  # in the clear
        connect(f"nbd://localhost:{d.port}/one")
    make_pki(tmp_path / "other")
    with pytest.raises(nbd.Error):  # of a CA that the client does not know
        connect(f"nbds://localhost:{d.port}/one?tls-certificates={tmp_path}/other/client")
    assert d.stop() == 0


def test_tls_clients_show_certificates(tmp_path, disk):
    ours, other = tmp_path / "pki", tmp_path / "other"
    nobody, known, stranger = make_pki(ours), ours / "known", make_pki(other)
    shutil.copytree(nobody, known)
    certify(ours, known, "client", "cn = known\ntls_www_client\nsigning_key\n")
    certify(other, stranger, "client", "cn = known\ntls_www_client\nsigning_key\n")
    shutil.copy(ours / "ca-cert.pem", stranger)  # it knows us, we do not know it
    d = serve_tls(tmp_path, disk, f"{{mode: require, certificates: '{ours}', verify_peer: true}}")

    def uri(client):
        return f"nbds://localhost:{d.port}/one?tls-certificates={client}"

    for refused in (nobody, stranger):
        with pytest.raises(nbd.Error):
            connect(uri(refused))
        h = connect(uri(known))
        assert h.get_tls_negotiated() and h.get_size() == 8 * MiB
        h.pwrite(b"k" * 512, 0)
        h.shutdown()
    assert d.stop() == 0


def test_tls_with_pre_shared_keys(tmp_path, disk):
    keys, wrong = tmp_path / "keys.psk", tmp_path / "wrong.psk"
    run(need("psktool"), "-u", "alice", "-p", keys)
    run("psktool", "-u", "alice", "-p", wrong)
    d = serve_tls(tmp_path, disk, f"{{mode: require, psk: '{keys}'}}")
    h = connect(f"nbds://alice@localhost:{d.port}/one?tls-psk-file={keys}")
    assert h.get_tls_negotiated() and h.get_size() == 8 * MiB
    h.shutdown()
    with pytest.raises(nbd.Error):
        connect(f"nbds://alice@localhost:{d.port}/one?tls-psk-file={wrong}")
    assert d.stop() == 0


# --- who may, and what is refused ---


def test_a_second_daemon_on_the_port_is_refused_by_name(ebb, disk, tmp_path):
    e = ebb(disk("8M"))
    h, pids, port = connect(e.nbd()), nbdkits_of(e.folder), next(e.folder.glob("*port.sock"))
    h.pwrite(b"1" * 4096, 0)
    for _ in range(2):
        p = run(EBB, "serve", disk("8M", "other.img"), "--iscsi", "none", "--nbd", f"unix:{tmp_path}/nbd.sock", "--socket",
                e.socket, "--state", tmp_path / "state", check=False)
        assert p.returncode == 1 and str(port) in p.stdout and "in use" in p.stdout
        assert h.pread(4096, 0) == b"1" * 4096
        assert connect(e.nbd()).get_size() == 8 * MiB
    assert nbdkits_of(e.folder) == pids
    assert e.cli("lun", "list").stdout
    cookie = h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(b"2" * 4096)), 0)
    e.kill()
    e.start()  # finds its clients, and they find it
    while not h.aio_command_completed(cookie):
        h.poll(-1)
    assert h.pread(4096, 0) == b"2" * 4096
    assert nbdkits_of(e.folder) == pids
    h.shutdown()



@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else (setpriv)")
def test_port_refuses_other_users(disk):
    with tempfile.TemporaryDirectory(prefix="ebb-port-") as folder:
        os.chmod(folder, 0o755)
        p = PortServer(folder, (disk("1M"), "one"))
        os.chmod(p.socket, 0o666)
        ask = ("import socket,sys; s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.settimeout(20);"
               "s.connect(sys.argv[1]); sys.stdout.write(repr(s.recv(100)))")
        other = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        got = run(need("setpriv"), *other[1:], sys.executable, "-c", ask, p.socket)
        assert got.stdout == "b''"
        assert "port.refused" in p.stderr() and "credentials" in p.stderr()
        assert p.stop() == 0


def reserve_out(r, action, kind, key, new_key):
    """PERSISTENT RESERVE OUT (SPC-4, 6.16). Returns the status."""
    data = struct.pack(">QQ8x", key, new_key)
    cdb = bytes([0x5F, action, kind, 0, 0]) + struct.pack(">IB", len(data), 0)
    return r.wait(r.command(cdb, edtl=len(data), flags=0x20, data=data)).status


def test_reservation_of_an_initiator_fences_nbd(ebb, disk):
    e = ebb(f"{disk('8M')},name=one", nbd=f"127.0.0.1:{free_port()}")
    h = connect(e.nbd("one"))
    h.pwrite(b"a" * 4096, 0)
    r = Raw(e.iscsi_port)
    assert r.login(e.iscsi("one").split("/")[3]).login_status == 0
    r.ready()
    assert reserve_out(r, 0, 0, 0, 0xABC) == 0  # REGISTER
    assert reserve_out(r, 1, 1, 0xABC, 0) == 0  # RESERVE, write exclusive
    fails_with(errno.EPERM, h.pwrite, b"b" * 4096, 0)
    fails_with(errno.EPERM, h.zero, 4096, 0)
    assert h.pread(4096, 0) == b"a" * 4096
    assert reserve_out(r, 2, 1, 0xABC, 0) == 0  # RELEASE
    assert reserve_out(r, 1, 3, 0xABC, 0) == 0  # exclusive access
    fails_with(errno.EPERM, h.pread, 4096, 0)
    assert reserve_out(r, 2, 3, 0xABC, 0) == 0
    h.pwrite(b"b" * 4096, 0)
    h.shutdown()
    r.close()


@pytest.mark.parametrize("mode", ["direct", "buffered"])
def test_file_that_may_not_grow_is_enospc(ebb, disk, mode):
    e = ebb(f"{disk('8M')},name=one,io={mode}", nbd=f"127.0.0.1:{free_port()}")
    h = connect(e.nbd("one"))
    before = resource.prlimit(e.proc.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(e.proc.pid, resource.RLIMIT_FSIZE, (MiB, before[1]))
    fails_with(errno.ENOSPC, h.pwrite, b"x" * 4096, 4 * MiB)
    h.pwrite(b"y" * 4096, 0)
    resource.prlimit(e.proc.pid, resource.RLIMIT_FSIZE, before)
    h.pwrite(b"x" * 4096, 4 * MiB)
    assert h.pread(4096, 0) == b"y" * 4096
    h.shutdown()


def test_read_only_lun(ebb, disk):
    e = ebb(f"{disk('8M')},name=one,ro", nbd=f"127.0.0.1:{free_port()}")
    h = connect(e.nbd("one"))
    assert h.is_read_only()
    h.set_strict_mode(0)
    fails_with(errno.EPERM, h.pwrite, b"x" * 512, 0)
    h.pread(512, 0)
    h.shutdown()


def test_growth_is_seen_by_a_new_connection(ebb, disk):
    e = ebb(f"{disk('8M')},name=one", nbd=f"127.0.0.1:{free_port()}")
    h = connect(e.nbd("one"))
    e.cli("lun", "resize", "one", "16M")
    new = connect(e.nbd("one"))
    assert (h.get_size(), new.get_size()) == (8 * MiB, 16 * MiB)
    new.pwrite(b"z" * 4096, 12 * MiB)
    h.pread(4096, 0)
    for c in (h, new):
        c.shutdown()
