# SPDX-License-Identifier: GPL-2.0-or-later
"""LUNs as files: `ebb mount`, beside iSCSI and NBD."""
import errno
import json
import mmap
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile

import pytest

from conftest import EBB, PACE, SLOW, TOOLS, Ebb, need, run
from controllib import wait_for
from fuselib import (KEEP_SIZE, PUNCH, ZERO, MiB, connect, fails, fallocate, fd_of, is_mounted, mount,  # noqa: F401
                     needs_fuse, one)  # mount and one are fixtures
from iscsi_raw import READ, WRITE, Raw

pytestmark = needs_fuse


def login(e, name="one"):
    r = Raw(e.iscsi_port)
    assert r.login(e.iscsi(name).split("/")[3]).login_status == 0
    r.ready()
    return r


def open_direct(path, flags=os.O_RDWR):
    return os.open(path, flags | os.O_DIRECT)


def test_each_lun_is_a_file(ebb, disk, mount, tmp_path):
    e = ebb(f"{disk('16M')},name=one", f"{disk('8M')},name=two,ro", f"{disk('4M')},name=big,bs=4096")
    m = mount(e, umask=0o022)
    assert sorted(os.listdir(m.folder)) == ["big", "one", "two"]
    one, two = os.stat(m / "one"), os.stat(m / "two")
    assert (one.st_size, two.st_size) == (16 * MiB, 8 * MiB)
    assert [stat.filemode(s.st_mode) for s in (one, two)] == ["-rw-r--r--", "-r--r--r--"]
    assert one.st_uid == os.geteuid() and one.st_ino != two.st_ino
    assert {i.name: i.inode() for i in os.scandir(m.folder)}["one"] == one.st_ino
    assert os.statvfs(m.folder).f_blocks * os.statvfs(m.folder).f_frsize == 28 * MiB
    fails(errno.ENOENT, os.stat, m / "three")
    for call in (lambda: os.open(m / "three", os.O_CREAT | os.O_RDWR), lambda: os.unlink(m / "one"),
                 lambda: os.rename(m / "one", m / "three")):
        with pytest.raises(OSError):
            call()
    fails(errno.EPERM, os.chmod, m / "one", 0o777)
    show = json.loads(e.cli("--json", "lun", "show", "big").stdout)
    told = {a: os.getxattr(m / "big", a).decode() for a in os.listxattr(m / "big")}
    assert told["user.ebb.uuid"] == told["user.ebb.serial"] == show["uuid"]
    assert told["user.ebb.block_size"] == "4096" and told["user.ebb.name"] == "big"
    assert len(told["user.ebb.naa"]) == 16 and told["user.ebb.naa"][0] == "3"
    r = login(e, "big")
    assert told["user.ebb.naa"] in r.wait(r.command(bytes([0x12, 1, 0x83, 0, 255, 0]), 255, READ)).all.hex()
    r.close()


def test_luns_that_come_go_and_grow_are_seen(one, disk):
    e, m, path = one
    fd = os.open(path, os.O_RDONLY)
    e.cli("lun", "create", "new", disk("4M"))
    assert sorted(os.listdir(m.folder)) == ["new", "one"]
    e.cli("lun", "resize", "one", "24M")
    wait_for("the open file to have grown", lambda: os.fstat(fd).st_size == 24 * MiB)
    assert os.stat(path).st_size == os.lseek(fd, 0, os.SEEK_END) == 24 * MiB
    assert os.pread(fd, 4096, 20 * MiB) == bytes(4096)
    before = os.stat(m / "new")
    e.cli("lun", "delete", "new")
    assert os.listdir(m.folder) == ["one"]
    e.cli("lun", "create", "new", disk("8M"))
    wait_for("another file of that name", lambda: os.stat(m / "new").st_ino != before.st_ino)
    assert os.stat(m / "new").st_size == 8 * MiB
    os.close(fd)


@pytest.mark.parametrize("how", ["direct", "plain"])
def test_what_one_front_writes_the_others_read(one, how):
    e, _, path = one
    fd = open_direct(path) if how == "direct" else os.open(path, os.O_RDWR)
    buf = mmap.mmap(-1, MiB)  # aligned
    h = connect(e)
    r = login(e)
    for i in range(8):
        buf[:] = bytes([i + 1]) * MiB
        assert os.pwritev(fd, [buf], i * MiB) == MiB
        assert h.pread(MiB, i * MiB) == bytes([i + 1]) * MiB
        assert r.read(i * 2048, 8).all == bytes([i + 1]) * 4096
        h.pwrite(b"n" * 4096, i * MiB)
        assert r.wait(r.write(i * 2048 + 8, b"s" * 4096, data=b"s" * 4096)).status == 0
        assert os.preadv(fd, [buf], i * MiB) == MiB
        assert buf[:12288] == b"n" * 4096 + b"s" * 4096 + bytes([i + 1]) * 4096
    os.fsync(fd)
    os.fdatasync(fd)
    os.close(fd)
    # bytes, not blocks
    with fd_of(path, os.O_RDWR) as f:
        os.pwrite(f.fileno(), b"odd", 511)
        assert os.pread(f.fileno(), 5, 510) == b"nodd" + b"n"
    h.shutdown()
    r.close()


def test_the_end_of_the_file_is_the_end(one):
    _, _, path = one
    with fd_of(path, os.O_RDWR) as f:
        fd = f.fileno()
        assert os.pwrite(fd, b"x" * 8192, 16 * MiB - 4096) == 4096
        fails(errno.ENOSPC, os.pwrite, fd, b"x", 16 * MiB)
        assert os.pread(fd, 8192, 16 * MiB - 4096) == b"x" * 4096
        assert os.pread(fd, 1, 16 * MiB) == b""
        fails(errno.ENOSPC, fallocate, fd, ZERO, 16 * MiB - 4096, 8192)
        fallocate(fd, PUNCH | KEEP_SIZE, 16 * MiB - 4096, MiB)
        assert os.pread(fd, 8192, 16 * MiB - 4096) == bytes(4096)
        assert os.fstat(fd).st_size == 16 * MiB


def test_holes_are_made_and_found(one):
    _, _, path = one
    with fd_of(path, os.O_RDWR) as f:
        fd = f.fileno()
        os.pwrite(fd, b"d" * 4 * MiB, 4 * MiB)
        os.fsync(fd)
        assert os.lseek(fd, 0, os.SEEK_DATA) == 4 * MiB
        assert os.lseek(fd, 4 * MiB, os.SEEK_HOLE) == 8 * MiB
        fallocate(fd, PUNCH | KEEP_SIZE, 5 * MiB, MiB)
        assert os.lseek(fd, 4 * MiB, os.SEEK_HOLE) == 5 * MiB
        assert os.lseek(fd, 5 * MiB, os.SEEK_DATA) == 6 * MiB
        assert os.pread(fd, 3 * MiB, 4 * MiB) == b"d" * MiB + bytes(MiB) + b"d" * MiB
        fallocate(fd, ZERO | KEEP_SIZE, 6 * MiB, 4096)
        fallocate(fd, ZERO, 6 * MiB + 4096, 4096)
        assert os.pread(fd, 12288, 6 * MiB) == bytes(8192) + b"d" * 4096
        assert os.lseek(fd, 8 * MiB, os.SEEK_HOLE) == 8 * MiB
        fails(errno.ENXIO, os.lseek, fd, 8 * MiB, os.SEEK_DATA)
        fails(errno.ENXIO, os.lseek, fd, 16 * MiB, os.SEEK_HOLE)
        fails(errno.EOPNOTSUPP, fallocate, fd, 0, 0, 4096)
        assert os.fstat(fd).st_size == 16 * MiB


def test_sizes_stay_unless_growth_is_asked_for(one, mount, tmp_path):
    e, _, path = one
    image = tmp_path / "image"
    image.write_bytes(b"i" * MiB)
    for size in (0, MiB, 32 * MiB):
        with fd_of(path, os.O_RDWR) as f:
            fails(errno.EPERM, os.truncate, f.fileno(), size)
    os.truncate(path, 16 * MiB)
    # cp and dd open with O_TRUNC, which disks take no notice of
    run("cp", image, path)
    run("dd", f"if={image}", f"of={path}", "bs=64k", "count=4")
    assert os.stat(path).st_size == 16 * MiB
    grows = mount(e, "--grow") / "one"
    fails(errno.EPERM, os.truncate, grows, 8 * MiB)
    fails(errno.EINVAL, os.truncate, grows, 32 * MiB + 1)
    with fd_of(grows, os.O_RDWR) as f:
        os.truncate(f.fileno(), 24 * MiB)
        assert os.pwrite(f.fileno(), b"g" * 512, 24 * MiB - 512) == 512
        os.truncate(grows, 32 * MiB)
        assert os.fstat(f.fileno()).st_size == 32 * MiB
        assert os.stat(grows).st_size == 32 * MiB
    assert os.stat(grows).st_size == json.loads(e.cli("--json", "lun", "show", "one").stdout)["size"] == 32 * MiB
    wait_for("the other mount to see it", lambda: os.stat(path).st_size == 32 * MiB)


def test_read_only_luns_and_mounts(ebb, disk, mount):
    e = ebb(f"{disk('4M')},name=one", f"{disk('4M')},name=ro,ro")
    m, ro = mount(e), mount(e, "--read-only")
    for path in (m / "ro", ro / "one"):
        assert os.stat(path).st_mode & 0o222 == 0
        with pytest.raises(OSError) as why:
            os.open(path, os.O_RDWR)
        assert why.value.errno in (errno.EROFS, errno.EACCES)  # EACCES: who is not root
        assert os.path.getsize(path) == 4 * MiB
        with fd_of(path, os.O_RDONLY) as f:
            assert os.pread(f.fileno(), 512, 0) == bytes(512)


def test_mappings(one, mount):
    e, _, path = one
    with fd_of(path, os.O_RDWR) as f:
        os.pwrite(f.fileno(), b"m" * 4096, 0)
        with mmap.mmap(f.fileno(), 16 * MiB, mmap.MAP_PRIVATE, mmap.PROT_READ) as private:
            assert private[:4096] == b"m" * 4096
        fails(errno.ENODEV, mmap.mmap, f.fileno(), 16 * MiB, mmap.MAP_SHARED)
    cached = mount(e, "--cached") / "one"
    with fd_of(cached, os.O_RDWR) as f, mmap.mmap(f.fileno(), 16 * MiB, mmap.MAP_SHARED) as shared:
        assert shared[:4096] == b"m" * 4096
        shared[MiB:MiB + 4] = b"dirt"
        shared.flush()
        assert connect(e).pread(4, MiB) == b"dirt"
        connect(e).pwrite(b"other", 0)
        with fd_of(cached, os.O_RDONLY) as again:  # from an open to the next
            assert os.pread(again.fileno(), 5, 0) == b"other"
    with fd_of(path, os.O_RDONLY) as f:
        assert os.pread(f.fileno(), 4, MiB) == b"dirt"


def reserve(r, action, kind=0, key=0, new_key=0):
    """PERSISTENT RESERVE OUT (SPC-4, 6.16)."""
    data = key.to_bytes(8, "big") + new_key.to_bytes(8, "big") + bytes(8)
    assert r.wait(r.command(bytes([0x5F, action, kind, 0, 0, 0, 0, 0, 24, 0]), 24, WRITE, data)).status == 0


def test_a_reservation_is_respected(one):
    e, _, path = one
    r = login(e)
    with fd_of(path, os.O_RDWR) as f:
        fd = f.fileno()
        os.pwrite(fd, b"a" * 4096, 0)
        reserve(r, 0, new_key=0xABC)  # REGISTER
        reserve(r, 1, kind=1, key=0xABC)  # RESERVE, write exclusive
        fails(errno.EBUSY, os.pwrite, fd, b"b" * 4096, 0)
        fails(errno.EBUSY, fallocate, fd, PUNCH | KEEP_SIZE, 0, 4096)
        assert os.pread(fd, 4096, 0) == b"a" * 4096
        reserve(r, 2, kind=1, key=0xABC)  # RELEASE
        reserve(r, 1, kind=3, key=0xABC)  # exclusive access
        fails(errno.EBUSY, os.pread, fd, 4096, 0)
        reserve(r, 2, kind=3, key=0xABC)
        os.pwrite(fd, b"b" * 4096, 0)
    r.close()


def fio(path, *args, **kw):
    return subprocess.Popen([need("fio"), "--name=f", f"--filename={path}", "--allow_file_create=0", f"--size={12 // PACE}M",
                             "--fallocate=none", "--verify_state_save=0", *args],
                            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, stdin=subprocess.DEVNULL, **kw)


VERIFY = ["--rw=randwrite", "--verify=crc32c", "--verify_fatal=1", "--bsrange=4k-64k", "--bs_unaligned=0"]


@pytest.mark.parametrize("engine", [("libaio", "--direct=1", "--iodepth=16"), ("psync", "--numjobs=4", "--offset_increment=4M",
                                                                              "--size=3M", "--group_reporting")], ids=lambda e: e[0])
def test_fio_verifies(one, engine):
    _, _, path = one
    p = fio(path, f"--ioengine={engine[0]}", *VERIFY, *engine[1:])
    said = p.communicate(timeout=120 * SLOW)[0]
    assert p.returncode == 0, said


LOAD = ["--ioengine=libaio", "--direct=1", "--iodepth=16", "--rw=randrw", "--bs=4k", "--time_based", "--runtime=600"]


def in_flight_here(e):
    """How many requests `ebb mount` has sent so far."""
    return sum(s["commands"] for s in json.loads(e.cli("--json", "session", "list").stdout) if s["client"] == "ebb mount")


def test_unmounted_under_load(one):
    e, m, path = one
    p = fio(path, *LOAD)
    try:
        wait_for("load", lambda: in_flight_here(e) > 200 * PACE)
        # While files are open it is not taken away ...
        assert run("fusermount3", "-u", m.folder, check=False).returncode != 0
        # ... but out of sight: who has a file open goes on.
        run("fusermount3", "-uz", m.folder)
        assert not is_mounted(m.folder) and os.listdir(m.folder) == []
        sent = in_flight_here(e)
        wait_for("more load", lambda: in_flight_here(e) > sent + 200)
        assert m.proc.poll() is None
    finally:
        p.terminate()
        said = p.communicate(timeout=60 * SLOW)[0]
    assert "error" not in said.lower().replace("err= 0", ""), said
    assert m.wait() == 0


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL], ids=lambda s: s.name)
def test_ended_under_load(one, mount, sig):
    e, m, path = one
    fd = os.open(path, os.O_RDWR)
    os.pwrite(fd, b"acknowledged" * 1000, 12 * MiB)
    p = fio(path, *LOAD)
    wait_for("load", lambda: in_flight_here(e) > 200 * PACE)
    m.proc.send_signal(sig)
    assert m.wait() == (0 if sig == signal.SIGTERM else -sig)
    assert p.wait(60 * SLOW) != 0
    p.stdout.close()
    assert is_mounted(m.folder) == (sig == signal.SIGKILL)
    with pytest.raises(OSError):
        os.pread(fd, 512, 0)
    os.close(fd)
    # The LUN is none the worse for it.
    wait_for("the port to have let it go", lambda: in_flight_here(e) == 0)
    assert connect(e).pread(12000, 12 * MiB) == b"acknowledged" * 1000
    if sig == signal.SIGKILL:
        fails(errno.ENOTCONN, os.listdir, m.folder)
        assert "fusermount3 -u first" in e.cli("mount", m.folder, check=False).stdout
        run("fusermount3", "-u", m.folder)
    assert os.path.getsize(mount(e, folder=m.folder) / "one") == 16 * MiB


def test_a_killed_daemon_is_a_pause(one):
    e, m, path = one
    p = fio(path, "--ioengine=libaio", "--direct=1", "--iodepth=8", "--loops=10000", *VERIFY)
    try:
        for _ in range(2):
            wait_for("load", lambda: in_flight_here(e) > 100)
            e.kill()
            e.start()
        wait_for("all to be written and verified once more", lambda: json.loads(
            e.cli("--json", "lun", "show", "one").stdout)["counters"]["read"]["bytes"] > 24 * MiB // PACE, timeout=120)
    finally:
        p.terminate()
        said = p.communicate(timeout=60 * SLOW)[0]
    assert "err= 0" in said and "verify:" not in said, said
    assert os.listdir(m.folder) == ["one"]


def test_nothing_is_lost_or_done_twice_over_killed_daemons(one):
    e, _, path = one
    p = subprocess.Popen([TOOLS / "file_exerciser", "--seconds", "3600", "--max-len", "65536", path], stdin=subprocess.DEVNULL,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        for kill in (True, True, False):
            wait_for("load, or its end", lambda: in_flight_here(e) > 20 or p.poll() is not None, 60)
            if kill and p.poll() is None:
                e.kill()
                e.start()
        p.terminate()  # with a look at every byte
        said = p.communicate(timeout=180 * SLOW)[0]
        assert p.returncode == 0, said
    finally:
        p.kill()
        p.wait()


def test_mistakes_are_said(one, tmp_path):
    e, m, path = one
    for args, status, word in ((["mount"], 2, "no DIR"), (["mount", "a", "b"], 2, "too many"),
                               (["mount", path], 1, "not a directory"), (["mount", m.folder], 1, "mounted there already"),
                               (["mount", tmp_path, "--port", tmp_path / "none"], 1, "none"),
                               (["mount", tmp_path / "nowhere"], 1, "nowhere")):
        p = e.cli(*args, check=False)
        assert p.returncode == status and word in p.stdout, p.stdout
    assert "--grow" in e.cli("mount", "--help").stdout


def test_goes_to_the_background(one, tmp_path):
    """And finds the appliance from there, however it was named."""
    e, _, _ = one
    folder = tmp_path / "background"
    folder.mkdir()
    run(EBB, "mount", "--grow", folder, cwd=e.folder, env=dict(os.environ, EBB_SOCKET=e.socket.name))
    assert os.listdir(folder) == ["one"]
    size = (folder / "one").stat().st_size + MiB
    os.truncate(folder / "one", size)
    assert (folder / "one").stat().st_size == size
    run("fusermount3", "-u", folder)
    wait_for("its client to leave", lambda: str(folder) not in run("ps", "-eo", "args").stdout)


@pytest.fixture
def nobody():
    """(A folder that belongs to nobody, with our program in it; the words that make a command his)."""
    user = pwd.getpwnam("nobody")
    folder = tempfile.mkdtemp(prefix="ebb-fuse-", dir="/var/tmp")
    os.chmod(folder, 0o755)
    os.chmod(shutil.copy(EBB, f"{folder}/ebb"), 0o755)
    for name in ("serve", "mnt"):
        os.mkdir(f"{folder}/{name}")
    with open(f"{folder}/disk", "wb") as f:
        f.truncate(4 * MiB)
    for path in (folder, f"{folder}/serve", f"{folder}/mnt", f"{folder}/disk"):
        os.chown(path, user.pw_uid, user.pw_gid)
    yield folder, [need("setpriv"), "--reuid", str(user.pw_uid), "--regid", str(user.pw_gid), "--clear-groups"]
    shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="all other tests are by an ordinary user then")
def test_by_an_ordinary_user(nobody, mount):
    """Mounted without any rights, for nobody else, not even for root."""
    folder, as_user = nobody
    e = Ebb(f"{folder}/serve", [], nbd="none", wait=False)
    e.cmd = [*as_user, f"{folder}/ebb", "serve", f"{folder}/disk,name=one", *e.cmd[2:]]
    e.start()
    try:
        m = mount(e, folder=f"{folder}/mnt", prefix=as_user)
        with pytest.raises(PermissionError):
            os.listdir(m.folder)
        listed = run(*as_user, "ls", "-l", m.folder).stdout
        assert "nobody" in listed and str(4 * MiB) in listed
        run(*as_user, "dd", "if=/dev/zero", f"of={m / 'one'}", "bs=64k", "count=8", "conv=fsync")
        assert m.end() == 0
    finally:
        assert e.stop() == 0, e.stderr()


def checker(e, m, seconds, seed, extra=()):
    """Our consistency checker over all three."""
    return run(TOOLS / "consistency/consistency", "--iscsi", e.iscsi(), "--nbd", e.nbd(), "--file", m / "one", "--file", m / "one",
               "--seconds", seconds, "--seed", seed, *extra, timeout=seconds + 120)


@pytest.mark.long
@pytest.mark.parametrize("mode", ["direct", "buffered"])
def test_three_fronts_at_once_stay_coherent(ebb, disk, mount, mode):
    e = ebb(f"{disk('64M')},name=one,io={mode}")
    checker(e, mount(e), 6 // PACE, seed=1)


@pytest.mark.soak
@pytest.mark.parametrize("mode", ["direct", "buffered"])
def test_three_fronts_for_long(ebb, disk, mount, mode):
    e = ebb(f"{disk('64M')},name=one,io={mode}")
    checker(e, mount(e), int(os.environ.get("EBB_SOAK_SECONDS", 600)), seed=os.getpid())
