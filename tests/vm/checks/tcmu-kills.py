#!/usr/bin/python3
"""ebbd is killed under load twenty times, on our target_core_user: initiators see no error, and nothing is lost or done twice.

ext4 on one LUN, COMPARE AND WRITE on another: each adds one to a block, so one that was carried out twice, or answered
wrongly, is a miscompare. Before, a device that goes while it is opened; then what is the kernel's to ask and was not heard:
more messages than the socket holds.

check: kernels=6.1,6.12 seconds=600 soak alone
"""
import contextlib
import hashlib
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time

import lio
from ring import Ring

BUILD = lio.REPO / os.environ.get("EBB_BUILD", "build-test")
DIR, MOUNT = pathlib.Path("/tmp/kills"), pathlib.Path("/tmp/kills-mount")
MIB = 1 << 20
KILLS = int(sys.argv[1]) if len(sys.argv) > 1 else 20
LUNS = {"files": 192 * MIB, "count": MIB}


class Ebb:
    """`ebb serve`, started until it says that it is ready, unless that is waited for later."""

    def __init__(self, wait=True):
        luns = [f"{DIR}/{name}.img,name={name},size={size}" for name, size in LUNS.items()]
        self.log = open(DIR / "log", "a+", encoding="utf-8")
        self.process = subprocess.Popen(
            [BUILD / "appliance/cli/ebb", "serve", *luns, "--tcmu", "--iscsi", "none", "--nbd", "none", "--metrics", "none",
             "--state", DIR / "state", "--socket", DIR / "ctl", "--log-level", "info"],
            stdout=subprocess.PIPE, stderr=self.log, text=True, start_new_session=True)
        if wait:
            self.wait()

    def wait(self):
        lines = iter(self.process.stdout.readline, "")
        assert "ready\n" in lines, "ebb serve ended:\n" + pathlib.Path(self.log.name).read_text()

    def stop(self, how="TERM"):
        lio.stop(self.process, how)


class Counter:
    """Adds one to the number in block 0 of a disk, again and again, by COMPARE AND WRITE."""

    def __init__(self, disk):
        self.disk, self.value, self.wrong, self.over = disk, 0, [], threading.Event()
        self.thread = lio.background(self._count)

    @staticmethod
    def block(value):
        return value.to_bytes(8, "big") * 64

    def _count(self):
        cdb = bytes([0x89, *[0] * 12, 1, 0, 0])
        while not self.over.is_set():
            data = self.block(self.value) + self.block(self.value + 1)
            status, host, _ = lio.scsi(self.disk, cdb, data=data, seconds=900)
            if (status, host) == (0, 0):
                self.value += 1
            elif (status, host) != (8, 0):  # BUSY for too long: nothing was done
                self.wrong.append((self.value, status, host))
                return

    def stop(self):
        self.over.set()
        self.thread.result(900)
        assert not self.wrong, f"(count, status, host status): {self.wrong}"
        _, _, block = lio.scsi(self.disk, bytes([0x28, *[0] * 7, 1, 0]), length=512)
        assert block == self.block(self.value), f"{block[:8].hex()} instead of {self.value:x}"


def copy_in(name, seed):
    """Writes a file of 8 MiB, with fsync; returns its sum."""
    data = hashlib.shake_128(str(seed).encode()).digest(8 * MIB)
    with open(MOUNT / name, "wb") as f:
        f.write(data)
        f.flush()
        os.fsync(f.fileno())
    return hashlib.sha256(data).hexdigest()


def under_load(disk, count):
    """Kills, with files being written and numbers counted; returns the sums of the files."""
    sums = {}
    ebb = Ebb()
    for n in range(KILLS):
        copier, before = lio.background(copy_in, f"f{n % 12}", n), count.value
        lio.wait_for("the count to go on", lambda: count.value > before + 5 or count.wrong)
        time.sleep(0.05 * (n % 7))  # somewhere in the copy
        ebb.stop("KILL")
        ebb = Ebb()
        sums[f"f{n % 12}"] = copier.result(600)
    count.stop()
    return ebb, sums


def waits_in(pid, function):
    """Whether a thread of process PID sleeps in that function of the kernel's."""
    with contextlib.suppress(OSError):  # a thread that has ended
        return any(function in (t / "stack").read_text() for t in pathlib.Path(f"/proc/{pid}/task").iterdir())
    return False


def removed_while_opened():
    """Removal has folders of configfs locked and waits for ebbd, which opens the device and needs those folders."""
    gone = lio.Backstore("gone", LUNS["count"], config="ebb/count", nl_reply_supported=-1)
    gone.set("nl_reply_supported", 1)
    held = Ring("gone")  # for this ebbd waits a while
    ebb = Ebb(wait=False)
    lio.wait_for("ebbd to open it", lambda: waits_in(ebb.process.pid, "nanosleep"))
    rmdir = subprocess.Popen(["rmdir", gone.path])
    lio.wait_for("the kernel to ask", lambda: rmdir.poll() is not None or waits_in(rmdir.pid, "tcmu_device_destroy"))
    held.close()
    assert rmdir.wait(120) == 0
    ebb.wait()
    return ebb


def lost_questions(ebb):
    """ebbd stands still until more messages have come than it can hear, and then hears that it has lost some."""
    before = (DIR / "log").read_text().count("tcmu.netlink ")
    ebb.process.send_signal(signal.SIGSTOP)
    for n in range(100):
        lio.Backstore(f"noise{n}", MIB, config="other/none", nl_reply_supported=-1).remove()
    asked = lio.background(lio.Backstore, "late", LUNS["count"], config="ebb/count", nl_reply_supported=1)
    lio.wait_for("the question", lambda: lio.find_uio("late"))
    ebb.process.send_signal(signal.SIGCONT)
    lio.wait_for("ebbd to hear of it", lambda: (DIR / "log").read_text().count("tcmu.netlink ") > before)
    # Who asked fails (EINTR), long before the kernel would give up; Python's write() then asks again, and is heard.
    asked.result(150).remove()


DIR.mkdir()
MOUNT.mkdir()
pathlib.Path("/proc/sys/net/core/rmem_default").write_text("16384")  # ebbd's netlink socket holds but a few messages
lio.run("modprobe", "-a", "ext4", "crc32c")
with lio.tcmu("ours"):
    first = removed_while_opened()
    made, loop = {n: lio.Backstore(n, size, config=f"ebb/{n}") for n, size in LUNS.items()}, lio.Loop()
    disks = {n: loop.export(b) for n, b in made.items()}
    for backstore in made.values():
        backstore.set("cmd_time_out", 300)  # for slow machines: ebbd is away meanwhile
    for disk in disks.values():
        pathlib.Path(f"/sys/block/{disk[5:]}/device/timeout").write_text("600")
    lio.run("mkfs.ext4", "-q", disks["files"])
    lio.run("mount", disks["files"], MOUNT)
    first.stop()
    server, sums = under_load(disks["files"], Counter(disks["count"]))
    lio.run("umount", MOUNT)
    lio.drop_caches()
    lio.run("fsck.ext4", "-fn", disks["files"])
    lio.run("mount", disks["files"], MOUNT)
    for file, wanted in sums.items():
        assert hashlib.sha256((MOUNT / file).read_bytes()).hexdigest() == wanted, file
    lio.run("umount", MOUNT)
    log = (DIR / "log").read_text()
    print(f"{KILLS} kills, {len(sums)} files, COMPARE AND WRITE ended for the killed: {log.count('tcmu.redo')}")
    complaints = [line for line in lio.run("dmesg").splitlines()
                  if any(w in line for w in ("I/O error", "critical", "Aborting journal", "offlined"))]
    assert not complaints, complaints
    loop.withdraw(made["count"])
    lost_questions(server)
    loop.remove()
    for backstore in made.values():
        lio.background(backstore.remove).result(120)
    server.stop()
