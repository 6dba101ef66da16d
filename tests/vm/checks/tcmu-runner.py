#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's tcmu-runner with our handler: LUNs of `ebb serve` as disks of this kernel, made with targetcli.

A file system, fio's verification while the daemon is killed and restarted, COMPARE AND WRITE, UNMAP, growth, and what
is refused - on the in-tree module and on ours.
"""
# check: kernels=6.1,6.12 seconds=900
import os
import pathlib
import shutil
import struct
import subprocess
import time

import lio

BUILD = lio.REPO / os.environ.get("EBB_BUILD", "build-test")
EBB = BUILD / "appliance/cli/ebb"
FOLDER = pathlib.Path("/tmp/ebb")
MIB = 1 << 20
MISCOMPARE, CHECK_CONDITION = 0xE, 2


class Daemon:
    """`ebb serve` with one LUN, a."""

    def __init__(self):
        shutil.rmtree(FOLDER, ignore_errors=True)
        FOLDER.mkdir()
        self.start()

    def start(self):
        self.out = open(FOLDER / "out", "w")
        self.err = open(FOLDER / "err", "a")
        self.process = subprocess.Popen(
            [EBB, "serve", f"{FOLDER}/a.img,name=a,size=96M", "--iscsi", "127.0.0.1:3261", "--nbd", f"unix:{FOLDER}/nbd",
             "--metrics", "none", "--state", FOLDER / "state", "--socket", FOLDER / "control.sock"],
            stdin=subprocess.DEVNULL, stdout=self.out, stderr=self.err)
        lio.wait_for("the daemon", self.is_ready)
        self.port = next(FOLDER.glob("*port.sock"))

    def is_ready(self):
        assert self.process.poll() is None, (FOLDER / "err").read_text()
        return "ready" in (FOLDER / "out").read_text().split()

    def stop(self, how="TERM"):
        lio.stop(self.process, how)


class Existing:
    """A backstore that targetcli has made, as lio.Loop wants it."""

    def __init__(self, name):
        self.name, self.path = name, next(lio.CORE.glob(f"user_*/{name}"))


def install_handler():
    """Where the distribution's tcmu-runner looks, beside its own handlers."""
    folder = next(pathlib.Path("/usr/lib").glob("*/tcmu-runner"))
    shutil.copy(BUILD / "plugins/tcmu-runner/handler_ebb.so", folder)


def refused(*words):
    try:
        return f"not refused: {lio.targetcli(*words)}"
    except AssertionError as e:
        return str(e)


def compare_and_write(disk, block, expected, new):
    status, host, _ = lio.scsi(disk, struct.pack(">BBQ3xBBB", 0x89, 0, block, 1, 0, 0), data=expected + new)
    assert host == 0
    return status


def check_refusals(port):
    said = refused("/backstores/user:ebb", "create", "name=x", "size=1M", f"cfgstring=nope;socket={port}")
    assert "LUN nope: no such LUN" in said, said
    said = refused("/backstores/user:ebb", "create", "name=x", "size=1M", f"cfgstring=a;socket={port};colour=red")
    assert "colour=red: expected" in said, said
    said = refused("/backstores/user:ebb", "create", "name=x", "size=97M", f"cfgstring=a;socket={port}")
    assert "not refused" not in said, said


def check_commands(disk):
    old, new = b"o" * 512, b"n" * 512
    with open(disk, "r+b", buffering=0) as f:
        f.write(old * 8)
        os.fsync(f.fileno())
    assert compare_and_write(disk, 3, old, new) == 0
    assert compare_and_write(disk, 3, old, new) == CHECK_CONDITION
    assert compare_and_write(disk, 3, new, old) == 0
    lio.run("blkdiscard", "--offset", str(MIB), "--length", str(MIB), disk)
    lio.run("blkdiscard", "--zeroout", "--offset", str(2 * MIB), "--length", str(MIB), disk)
    with open(disk, "rb") as f:
        assert f.read(4096) == old * 8
        f.seek(MIB)
        assert f.read(2 * MIB) == bytes(2 * MIB)


def check_file_system(disk):
    mnt = FOLDER / "mnt"
    mnt.mkdir(exist_ok=True)
    lio.run("mkfs.ext4", "-q", disk)
    lio.run("mount", "-o", "discard", disk, mnt)
    lio.run("cp", "-r", "/usr/share/common-licenses", mnt)
    lio.run("umount", mnt)
    lio.drop_caches()
    lio.run("mount", disk, mnt)
    lio.run("diff", "-r", "/usr/share/common-licenses", mnt / "common-licenses")
    lio.run("umount", mnt)
    lio.run("fsck.ext4", "-fn", disk)


def written_to(disk):
    """Bytes, since it is there."""
    return int(pathlib.Path(f"/sys/block/{disk[5:]}/stat").read_text().split()[6]) * 512


def check_restarts(disk, daemon):
    """fio writes, then reads and verifies; the daemon is killed, stopped, killed meanwhile."""
    begun = written_to(disk)
    fio = subprocess.Popen(["fio", "--name=v", f"--filename={disk}", "--direct=1", "--rw=randwrite", "--bsrange=4k-64k",
                            "--iodepth=16", "--ioengine=libaio", "--size=24M", "--verify=crc32c", "--verify_fatal=1"],
                           stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    for mib, how in ((4, "KILL"), (10, "TERM"), (16, "KILL")):
        lio.wait_for("fio's work", lambda: written_to(disk) - begun > mib * MIB or fio.poll() is not None)
        assert fio.poll() is None, fio.communicate()[0]
        daemon.stop(how)
        daemon.start()
    out = fio.communicate()[0]
    assert fio.returncode == 0, out
    print("fio:", *(line.strip() for line in out.splitlines() if "IOPS=" in line))


def check_growth(disk):
    size = pathlib.Path(f"/sys/block/{disk[5:]}/size")
    assert int(size.read_text()) * 512 == 96 * MIB
    lio.run(EBB, "--socket", FOLDER / "control.sock", "lun", "resize", "a", "128M")
    rescan = size.parent / "device/rescan"

    def grown():
        rescan.write_text("1")
        return int(size.read_text()) * 512 == 128 * MIB
    lio.wait_for("the larger disk", grown)
    lio.run("dd", "if=/dev/zero", f"of={disk}", "bs=1M", "seek=127", "count=1", "oflag=direct", "status=none")


def check(origin):
    with lio.tcmu(origin):
        daemon = Daemon()
        runner = lio.Runner()
        check_refusals(daemon.port)
        lio.targetcli("/backstores/user:ebb", "create", "name=disk", "size=96M", f"cfgstring=a;socket={daemon.port}")
        backstore = Existing("disk")
        (backstore.path / "attrib/cmd_time_out").write_text("0")
        loop = lio.Loop()
        disk = loop.export(backstore)
        for step, *more in ((check_commands,), (check_restarts, daemon), (check_file_system,), (check_growth,)):
            begun = time.monotonic()
            step(disk, *more)
            print(f"{origin}: {step.__name__}: {time.monotonic() - begun:.1f} s", flush=True)
        loop.remove()
        lio.targetcli("/backstores/user:ebb", "delete", "disk")
        runner.stop()
        daemon.stop()
        assert daemon.process.returncode == 0


install_handler()
lio.run("modprobe", "ext4")
for where in lio.MODULES:
    # Of the newer kernel's own module nothing is expected that the older one's has not shown.
    if where == "ours" or lio.KERNEL.startswith("6.1.") or os.environ.get("EBB_SOAK") == "1":
        check(where)
