"""LIO in the guest: modules, backstores, exports, and the userspace that stock Debian has for them.

For checks (tests/vm/checks); needs root and a kernel that may be broken, so only in the guest. Everything goes through
configfs as rtslib does it, because that is what the module is asked; targetcli and tcmu-runner are started as they are.
"""
import concurrent.futures
import contextlib
import ctypes
import faulthandler
import fcntl
import itertools
import os
import pathlib
import re
import signal
import struct
import subprocess
import time

REPO = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path("/sys/kernel/config/target")
CORE = TARGET / "core"
TOOLS = REPO / os.environ.get("EBB_BUILD", "build-test") / "tests/tools/tcmu"
KERNEL = os.uname().release
OUR_MODULES = REPO / ".cache/kmod" / KERNEL
MODULES = ("in-tree", "ours")  # where target_core_user comes from

faulthandler.register(signal.SIGTERM, chain=True)  # a check that hangs tells where


def wait_for(what, condition, seconds=120):
    """Waits for a condition, and returns what it gave; the limit is for broken kernels, not for slow ones."""
    end = time.monotonic() + seconds
    while not (got := condition()):
        if time.monotonic() > end:
            raise TimeoutError(what)
        time.sleep(0.02)
    return got


_threads = concurrent.futures.ThreadPoolExecutor(96)


def background(function, *args, **options):
    """Calls a function in a thread: system calls that may not return. The future's result() takes a limit in seconds."""
    return _threads.submit(function, *args, **options)


def run(*command, **options):
    """Runs a command; its output comes back, and into the error if it fails."""
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **options)
    if done.returncode:
        raise AssertionError(f"{' '.join(map(str, command))}: exit {done.returncode}\n{done.stdout}")
    return done.stdout


def write(path, text):
    """One write, as `echo` does it: a Python file that was refused tries again when it is closed."""
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, str(text).encode())
    finally:
        os.close(fd)


# --- modules ---

PARAMETERS = pathlib.Path("/sys/module/target_core_user/parameters")


def load_tcmu(origin):
    """Loads target_core_user, Debian's own ("in-tree") or this project's ("ours")."""
    run("modprobe", "-a", "target_core_mod", "uio", "tcm_loop", "sd_mod")
    if not CORE.exists():
        run("mount", "-t", "configfs", "configfs", "/sys/kernel/config")
    unload_tcmu()  # LIO may have asked for the in-tree one
    if origin == "ours":
        run("insmod", OUR_MODULES / "target_core_user.ko")
    else:
        run("modprobe", "target_core_user")


def unload_tcmu():
    """Unloads it, which shows that nothing holds it any more."""
    for hba in CORE.glob("user_*") if CORE.exists() else ():
        hba.rmdir()
    if PARAMETERS.exists():
        wait_for("target_core_user to be free", lambda: not subprocess.run(["rmmod", "target_core_user"],
                                                                           capture_output=True).returncode)


@contextlib.contextmanager
def tcmu(origin):
    load_tcmu(origin)
    yield
    unload_tcmu()


def set_parameter(name, value):
    write(PARAMETERS / name, value)


def get_parameter(name):
    return int((PARAMETERS / name).read_text())


# --- backstores and exports ---


def find_uio(name):
    """The folder in sysfs of the uio device of backstore NAME, or None."""
    for u in pathlib.Path("/sys/class/uio").iterdir():
        if (u / "name").read_text().split("/")[:3] == ["tcm-user", "0", name]:
            return u
    return None


class Backstore:
    """A user-backed device. Options are tokens of its `control` file: max_data_area_mb, nl_reply_supported, ..."""

    hba = CORE / "user_0"

    def __init__(self, name, size, config="ebb-test/none", enable=True, **options):
        self.name, self.path = name, self.hba / name
        self.path.mkdir(parents=True)
        options = {"dev_config": config, "dev_size": size} | options
        self.control(",".join(f"{k}={v}" for k, v in options.items()))
        if enable:
            write(self.path / "enable", 1)

    def control(self, text):
        write(self.path / "control", text)

    def get(self, attribute):
        return (self.path / "attrib" / attribute).read_text().strip()

    def set(self, attribute, value):
        write(self.path / "attrib" / attribute, value)

    def remove(self):
        self.path.rmdir()


opened = {}  # descriptor of each exported disk


def try_to_open(disk):
    """A descriptor, or None: it is in sysfs before it is in use."""
    try:
        return os.open(disk, os.O_RDWR | os.O_NONBLOCK)
    except OSError:
        return None


class Loop:
    """A SCSI host of this machine (tcm_loop) whose LUNs are backstores."""

    wwn = "naa.50014050ebb00001"

    def __init__(self):
        run("modprobe", "tcm_loop")
        self.tpg = TARGET / "loopback" / self.wwn / "tpgt_1"
        self.tpg.mkdir(parents=True)
        write(self.tpg / "nexus", "naa.50014050ebb00002")
        self.luns, self.numbers = {}, itertools.count()

    def _lun(self, backstore):
        return self.tpg / "lun" / f"lun_{self.luns[backstore]}"

    def link(self, backstore):
        """Adds the LUN; returns when the kernel has asked the device all it wants to know."""
        self.luns[backstore] = next(self.numbers)
        lun = self._lun(backstore)
        lun.mkdir()
        (lun / backstore.name).symlink_to(backstore.path)

    def export(self, backstore):
        """Adds the LUN and returns the disk that the kernel found on it: /dev/sdX."""
        self.link(backstore)
        return self.open(backstore)

    def open(self, backstore):
        disk = wait_for(f"the disk of {backstore.name}", lambda: self.disk(backstore))
        # Kept open: each first open reads partitions, and no other may begin before it is done.
        opened[disk] = wait_for(f"{disk} to open", lambda: try_to_open(disk))
        return disk

    def export_patiently(self, backstore, seconds=900):
        """As export(), and nobody gives a command up because the machine is slow."""
        backstore.set("cmd_time_out", seconds)
        disk = self.export(backstore)
        write(f"/sys/block/{disk[5:]}/device/timeout", seconds)
        return disk

    @property
    def host(self):
        return (self.tpg / "address").read_text().strip().partition(":")[0]

    def scan(self):
        """Asks the LUNs once more what they are (tcm_loop knows of none by number)."""
        write(f"/sys/class/scsi_host/host{self.host}/scan", "- - -")

    def disk(self, backstore):
        found = list(pathlib.Path("/sys/bus/scsi/devices").glob(f"{self.host}:0:1:{self.luns[backstore]}/block/sd*"))
        return f"/dev/{found[0].name}" if found else None

    def withdraw(self, backstore):
        if (disk := self.disk(backstore)) in opened:
            os.close(opened.pop(disk))
        lun = self._lun(backstore)
        (lun / backstore.name).unlink()
        lun.rmdir()
        del self.luns[backstore]

    def remove(self):
        for b in list(self.luns):
            self.withdraw(b)
        for d in (self.tpg, self.tpg.parent, self.tpg.parent.parent):
            d.rmdir()


class IscsiTarget:
    """A backstore as LUN 0 of LIO's iSCSI target, for everybody."""

    def __init__(self, name, backstore, port=3260):
        self.iqn = f"iqn.2026-11.local.ebb:{name}"
        self.url = f"iscsi://127.0.0.1:{port}/{self.iqn}/0"
        run("modprobe", "-a", "iscsi_target_mod", "crc32c")  # the kernel cannot ask for the latter itself in the guest
        self.tpg, self.backstore = TARGET / "iscsi" / self.iqn / "tpgt_1", backstore
        self.portal, self.lun = self.tpg / f"np/127.0.0.1:{port}", self.tpg / "lun/lun_0"
        for d in (self.portal, self.lun):
            d.mkdir(parents=True)
        (self.lun / backstore.name).symlink_to(backstore.path)
        for name, value in (("authentication", 0), ("generate_node_acls", 1), ("demo_mode_write_protect", 0), ("cache_dynamic_acls", 1)):
            write(self.tpg / "attrib" / name, value)
        write(self.tpg / "enable", 1)

    def remove(self):
        (self.lun / self.backstore.name).unlink()
        for d in (self.lun, self.portal, self.tpg, self.tpg.parent):
            d.rmdir()


SG_IO, SG_FROM_DEVICE, SG_TO_DEVICE = 0x2285, -3, -2
SG_HEADER = "iiBBHIPPPIIiPBBBBHHiII"  # struct sg_io_hdr


def scsi(disk, cdb, length=0, data=b"", seconds=60):
    """Sends one command, with no retries, to a disk that export() gave; returns (status, host status, data in).

    A timeout is a host status, too.
    """
    buffer = ctypes.create_string_buffer(data, max(length, len(data), 1))
    command, sense = ctypes.create_string_buffer(bytes(cdb), len(cdb)), ctypes.create_string_buffer(32)
    header = bytearray(struct.pack(SG_HEADER, ord("S"), SG_TO_DEVICE if data else SG_FROM_DEVICE, len(cdb), len(sense), 0,
                                   len(data) or length, ctypes.addressof(buffer), ctypes.addressof(command),
                                   ctypes.addressof(sense), seconds * 1000, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0))
    fcntl.ioctl(opened[disk], SG_IO, header)
    done = struct.unpack(SG_HEADER, header)
    return done[13], done[17], buffer.raw[:length]


def read_blocks(disk, first, count, **options):
    """READ(10); True if it went well."""
    status, host, _ = scsi(disk, struct.pack(">BBIBHB", 0x28, 0, first, 0, count, 0), count * 512, **options)
    return (status, host) == (0, 0)


# --- userspace ---


def stop(process, how):
    process.send_signal(signal.Signals["SIG" + how])
    process.wait()


class Server:
    """Disks in memory for all backstores of a name's beginning: tests/tools/tcmu/tcmu_user.c."""

    def __init__(self, prefix="", hold=None, forget=False):
        args = [TOOLS / "tcmu_user", *(["--hold", str(hold)] if hold else []), *(["--forget"] if forget else []), prefix]
        self.process = subprocess.Popen(args, stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        assert line.startswith("ready "), f"tcmu_user: {line!r}"
        self.devices = int(line.split()[1])
        self.pid = self.process.pid

    def _wait_line(self, wanted):
        while (line := self.process.stdout.readline()) != wanted + "\n":
            assert line, "tcmu_user ended"

    def wait_held(self, count):
        """Waits until that many commands are held."""
        self._wait_line(f"held {count}")

    def release(self):
        """Lets all be answered that is held or comes."""
        self.process.send_signal(signal.SIGUSR1)
        self._wait_line("released")

    def release_one(self):
        """Has the oldest command of each device that is held answered."""
        self.process.send_signal(signal.SIGHUP)
        self._wait_line("holding")

    def hold(self):
        """Holds what comes from now on."""
        self.process.send_signal(signal.SIGUSR2)
        self._wait_line("holding")

    def stop(self, how="TERM"):
        stop(self.process, how)


class Ebb:
    """`ebb serve` with the LUNs that are given as on its command line, as the userspace of backstores only."""

    def __init__(self, folder, *luns):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, out = folder, folder / "out"
        ebb = REPO / os.environ.get("EBB_BUILD", "build-test") / "appliance/cli/ebb"
        with open(out, "w", encoding="utf-8") as o, open(folder / "err", "a", encoding="utf-8") as e:
            self.process = subprocess.Popen(
                [ebb, "serve", *luns, "--tcmu", "--iscsi", "none", "--nbd", "none", "--metrics", "none", "--state", folder / "state",
                 "--socket", folder / "control.sock"], stdin=subprocess.DEVNULL, stdout=o, stderr=e)
        wait_for("ebbd", lambda: self.process.poll() is not None or "ready" in out.read_text().split())
        assert self.process.poll() is None, self.errors()

    def errors(self):
        return (self.folder / "err").read_text()

    def stop(self, how="TERM"):
        stop(self.process, how)


def start_dbus():
    """The system bus, which targetcli and tcmu-runner want."""
    os.makedirs("/run/dbus", exist_ok=True)
    if not os.path.exists("/run/dbus/system_bus_socket"):
        run("dbus-uuidgen", "--ensure")
        run("dbus-daemon", "--system", "--fork", "--nopidfile")


def make_target_folders():
    """Where targetcli saves to, and where LIO keeps reservations: in files as a thread of the kernel sees them, that is
    below the root of the first process."""
    for root in ("/", "/proc/1/root/"):
        for d in ("etc/target/backup", *(f"{t}/{k}" for t in ("etc/target", "etc/rtslib-fb-target", "var/target") for k in ("pr", "alua"))):
            os.makedirs(root + d, exist_ok=True)


class Runner:
    """Debian's tcmu-runner, with the system bus, in the foreground."""

    def __init__(self, *options):
        start_dbus()
        self.log = open("/tmp/tcmu-runner.log", "a+")
        self.process = subprocess.Popen(["tcmu-runner", *options], stdout=self.log, stderr=self.log)
        self.pid = self.process.pid
        wait_for("tcmu-runner on the bus", self._on_bus)

    def _on_bus(self):
        assert self.process.poll() is None, "tcmu-runner ended:\n" + pathlib.Path(self.log.name).read_text()
        names = run("dbus-send", "--system", "--print-reply", "--dest=org.freedesktop.DBus", "/", "org.freedesktop.DBus.ListNames")
        return "org.kernel.TCMUService1" in names

    def stop(self, how="TERM"):
        stop(self.process, how)


def targetcli(*words):
    make_target_folders()
    start_dbus()
    return run("targetcli", *words)


# --- measures ---


def memory_kb(pid, key="RssFile"):
    """A figure of /proc/PID/status. RssFile holds what a TCMU userspace has mapped of data areas and rings."""
    return int(re.search(rf"^{key}:\s+(\d+)", pathlib.Path(f"/proc/{pid}/status").read_text(), re.M)[1])


def available_kb():
    return int(re.search(r"^MemAvailable:\s+(\d+)", pathlib.Path("/proc/meminfo").read_text(), re.M)[1])


def drop_caches(what=3):
    """1: the page cache; 2: what shrinkers have; 3: both."""
    write("/proc/sys/vm/drop_caches", what)
