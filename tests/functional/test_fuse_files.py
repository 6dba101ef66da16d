# SPDX-License-Identifier: GPL-2.0-or-later
"""Files of LUNs as POSIX and Linux have files: whatever is done to one, in any order; and what each call says that cannot
be done."""
import errno
import mmap
import os
import pwd
import shutil
import stat
import subprocess
import tempfile

import pytest

from conftest import PACE, SLOW, TOOLS, need, run
from fuselib import KEEP_SIZE, PUNCH, ZERO, MiB, connect, fails, fallocate, fd_of, mount, needs_fuse, one  # noqa: F401

pytestmark = needs_fuse  # mount and one are fixtures

# --- random operations ---

WAYS = {"direct": ("direct", []), "cached": ("buffered", ["--cached", "--shared"])}


def exercise(ebb, disk, mount, way, *args, seconds):
    io, options = WAYS[way]
    e = ebb(f"{disk('4M')},name=one,io={io}")
    m = mount(e, "--grow", *options[:1])
    return run(TOOLS / "file_exerciser", *options[1:], "--grow-to", 8 * MiB, "--seconds", seconds, *args, m / "one",
               timeout=seconds + 120)


@pytest.mark.parametrize("way", WAYS)
def test_random_operations(ebb, disk, mount, way):
    exercise(ebb, disk, mount, way, "--ops", 300 // PACE, "--max-len", 256 << 10, seconds=60)


@pytest.mark.soak
@pytest.mark.parametrize("way", WAYS)
def test_random_operations_for_long(ebb, disk, mount, way):
    exercise(ebb, disk, mount, way, "--seed", os.getpid(), seconds=int(os.environ.get("EBB_SOAK_SECONDS", 600)))


def test_the_exerciser_tells_what_is_wrong(one):
    e, _, path = one
    p = subprocess.Popen([TOOLS / "file_exerciser", "--seconds", "120", path], stdin=subprocess.DEVNULL,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    h = connect(e)
    try:
        while p.poll() is None:
            for i in range(16):
                h.pwrite(b"another" * 4096, i * MiB)
        said = p.communicate(timeout=60 * SLOW)[0]
    finally:
        p.kill()
        p.wait()
    assert p.returncode == 1 and " are wrong; the first at 0x" in said and "the last operations" in said, said


# --- what cannot be done ---

def test_names_cannot_be_changed(one):
    """LUNs are made, named and removed elsewhere. EPERM: the file system has no such thing, for root either."""
    _, m, path = one
    new = m / "new"
    fails(errno.EPERM, os.open, new, os.O_CREAT | os.O_RDWR)
    fails(errno.EPERM, os.mkdir, new)
    fails(errno.EPERM, os.mkfifo, new)
    fails(errno.EPERM, os.symlink, "one", new)
    fails(errno.EPERM, os.link, path, new)
    fails(errno.EPERM, os.rename, path, new)
    fails(errno.EPERM, os.unlink, path)
    for call in (os.mkdir, lambda p: os.symlink("x", p), lambda p: os.open(p, os.O_CREAT | os.O_EXCL)):
        fails(errno.EEXIST, call, path)
    for call in (os.unlink, os.stat, os.listdir, os.rmdir, lambda p: os.rename(p, path), lambda p: os.truncate(p, 0)):
        fails(errno.ENOENT, call, new)
    fails(errno.ENOTDIR, os.rmdir, path)
    fails(errno.ENOTDIR, os.stat, path / "below")
    fails(errno.ENOTDIR, os.open, path, os.O_DIRECTORY)
    fails(errno.EISDIR, os.open, m.folder, os.O_WRONLY)
    fails(errno.EXDEV, os.link, path, m.folder.parent / "link")
    fails(errno.EXDEV, os.rename, path, m.folder.parent / "moved")
    fails(errno.EBUSY, os.rmdir, m.folder)
    fails(errno.EINVAL, os.readlink, path)
    longest = os.statvfs(m.folder).f_namemax
    fails(errno.ENOENT, os.stat, m / ("n" * longest))
    fails(errno.ENAMETOOLONG, os.stat, m / ("n" * (longest + 1)))
    assert os.listdir(m.folder) == ["one"]


def test_owners_and_modes_stay_and_times_are_set(one, mount):
    e, _, _ = one
    path = mount(e, umask=0o022) / "one"
    st = os.stat(path)
    os.chmod(path, stat.S_IMODE(st.st_mode))  # as it is: what `cp -p` and rsync ask for
    os.chown(path, st.st_uid, st.st_gid)
    os.chown(path, -1, -1)
    fails(errno.EPERM, os.chmod, path, 0o600)
    fails(errno.EPERM, os.chown, path, st.st_uid + 1, -1)
    fails(errno.EPERM, os.chown, path, -1, st.st_gid + 1)
    with fd_of(path, os.O_RDWR) as f:
        fails(errno.EPERM, os.chmod, f.fileno(), 0o600)
    os.utime(path, (1, 1_000_000_000))
    assert os.stat(path).st_mtime == 1_000_000_000
    os.utime(path)
    assert os.stat(path).st_mtime > 1_000_000_000
    assert os.stat(path)[:6] == st[:6]


def test_extended_attributes_are_told_and_stay(one):
    _, _, path = one
    assert os.getxattr(path, "user.ebb.name") == b"one"
    fails(errno.ENODATA, os.getxattr, path, "user.ebb.none")
    fails(errno.EOPNOTSUPP, os.setxattr, path, "user.ebb.name", b"two")
    fails(errno.EOPNOTSUPP, os.removexattr, path, "user.ebb.name")


def test_descriptors_do_what_they_were_opened_for(one):
    _, _, path = one
    with fd_of(path, os.O_RDONLY) as f:
        fd = f.fileno()
        fails(errno.EBADF, os.pwrite, fd, b"x", 0)
        fails(errno.EBADF, fallocate, fd, PUNCH | KEEP_SIZE, 0, 4096)
        fails(errno.EINVAL, os.ftruncate, fd, 0)
        fails(errno.EACCES, mmap.mmap, fd, 4096, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE)
        fails(errno.EINVAL, os.pread, fd, 1, -1)
        fails(errno.EINVAL, os.lseek, fd, -1, os.SEEK_SET)
    fd = os.open(path, os.O_WRONLY)
    fails(errno.EBADF, os.pread, fd, 1, 0)
    fails(errno.EINVAL, fallocate, fd, ZERO, 0, 0)
    fails(errno.EINVAL, fallocate, fd, ZERO, -4096, 4096)
    fails(errno.EOPNOTSUPP, fallocate, fd, 8, 0, 4096)  # FALLOC_FL_COLLAPSE_RANGE
    fails(errno.EOPNOTSUPP, fallocate, fd, 32, 0, 4096)  # FALLOC_FL_INSERT_RANGE
    os.close(fd)
    fails(errno.EINVAL, os.truncate, path, -1)
    fails(errno.EISDIR, os.truncate, path.parent, 0)


# As another user: what each of these says.
OTHERS = """
import errno, os, sys
path = sys.argv[1]
def called(call, *args):
    try:
        call(*args)
        return 0
    except OSError as e:
        return e.errno
print(*(errno.errorcode.get(n, n) for n in (
    called(os.listdir, os.path.dirname(path)), called(os.stat, path), called(os.open, path, os.O_RDONLY),
    called(os.open, path, os.O_RDWR), called(os.open, path, os.O_WRONLY | os.O_TRUNC), called(os.truncate, path, 1 << 30),
    called(os.open, os.path.dirname(path) + "/new", os.O_CREAT | os.O_RDWR), called(os.unlink, path),
    called(os.chmod, path, 0o777), called(os.chown, path, os.getuid(), -1), called(os.utime, path, (1, 1)),
    called(os.utime, path))), os.access(path, os.R_OK), os.access(path, os.W_OK))
"""
NOT_LET_IN = "EACCES " * 12 + "False False"
READERS = "0 0 0 EACCES EACCES EACCES EACCES EACCES EPERM EPERM EPERM EACCES True False"
WRITERS = "0 0 0 0 0 EPERM EACCES EACCES EPERM EPERM EPERM 0 True True"


@pytest.fixture
def public():
    """A folder that all may enter; pytest's own are its user's alone."""
    folder = tempfile.mkdtemp(prefix="ebb-fuse-", dir="/var/tmp")
    os.chmod(folder, 0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
@pytest.mark.parametrize("options, umask, wanted", [([], 0, NOT_LET_IN), (["--allow-other"], 0o022, READERS),
                                                    (["--allow-other"], 0, WRITERS)], ids=["closed", "readers", "writers"])
def test_other_users_may_do_what_modes_let_them(public, one, mount, options, umask, wanted):
    m = mount(one[0], *options, folder=f"{public}/mnt", umask=umask)
    user = pwd.getpwnam("nobody")
    said = run(need("setpriv"), "--reuid", user.pw_uid, "--regid", user.pw_gid, "--clear-groups",
               "/usr/bin/python3", "-c", OTHERS, m / "one").stdout
    assert said.strip() == wanted
