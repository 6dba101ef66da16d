# SPDX-License-Identifier: GPL-2.0-or-later
"""`ebb doctor`: faults are planted one by one, and each is found, blamed on the right thing, with a cure."""
import ctypes
import json
import os
import resource
import socket
import struct
import subprocess

import pytest

from conftest import EBB, SANITIZED, SLOW, need, run

GIB = 1 << 30


def deny(number, error, argument=None, bits=0):
    """For preexec_fn: from now on system call @number fails with @error (where @argument has one of @bits)."""
    def ins(code, jt, jf, k):
        return struct.pack("HBBI", code, jt, jf, k)

    load, equal, test, ret = 0x20, 0x15, 0x45, 0x06
    program = [ins(load, 0, 0, 0)]
    if argument is None:
        program += [ins(equal, 0, 1, number)]
    else:
        program += [ins(equal, 0, 3, number), ins(load, 0, 0, 16 + 8 * argument), ins(test, 0, 1, bits)]
    program += [ins(ret, 0, 0, 0x00050000 | error), ins(ret, 0, 0, 0x7fff0000)]
    code = ctypes.create_string_buffer(b"".join(program))
    head = ctypes.create_string_buffer(struct.pack("HxxxxxxP", len(program), ctypes.addressof(code)))

    def apply(_keep=code):
        libc = ctypes.CDLL(None, use_errno=True)
        assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
        assert libc.prctl(22, 2, head, 0, 0) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
    return apply


IO_URING_SETUP = 425  # the same on every architecture
OPENAT = {"x86_64": 257, "aarch64": 56}[os.uname().machine]


class Findings:
    def __init__(self, process):
        self.told, self.status = json.loads(process.stdout), process.returncode

    def of(self, check, level="failure"):
        return [f for f in self.told["findings"] if f["check"] == check and f["level"] == level]

    def one(self, check, subject, level="failure"):
        found = [f for f in self.of(check, level) if f["subject"] == subject]
        assert len(found) == 1, self.told
        assert found[0]["cure"]
        assert self.status == (1 if self.told["failures"] else 0)
        return found[0]["problem"]


@pytest.fixture
def doctor(tmp_path):
    """doctor(ARGS...): its findings; with no appliance unless a socket is named."""
    def examine(*args, before=None, sock=None):
        cmd = [str(EBB), "--json", "--socket", str(sock or tmp_path / "none.sock"), "doctor", *map(str, args)]
        p = subprocess.run(cmd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=before,
                           stdin=subprocess.DEVNULL, timeout=60 * SLOW, check=False)
        assert p.returncode in (0, 1) and not p.stderr, p.stderr
        return Findings(p)
    return examine


@pytest.fixture
def system(tmp_path):
    """A healthy /proc and /sys to plant faults in: system(**{path: text}) writes files and gives the root."""
    root = tmp_path / "root"

    def plant(files=None):
        healthy = {"proc/pressure/memory": "some avg10=0.00\n", "proc/meminfo": "MemTotal: 8388608 kB\nMemAvailable: 6291456 kB\n",
                   "proc/self/cgroup": "0::/\n", "proc/sys/vm/overcommit_memory": "0\n"}
        for path, text in {**healthy, **(files or {})}.items():
            if text is not None:
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_text(text)
        return root
    return plant


@pytest.fixture
def declared(tmp_path, disk):
    """declared(TEXT) writes a configuration with one LUN."""
    def declare(extra="", lun=""):
        path = tmp_path / "ebb.yaml"
        path.write_text(f"luns: [{{name: a, path: {disk('8M', 'a.img')}{lun}}}]\n{extra}\n")
        return path
    return declare


def test_nothing_is_wrong_with_a_healthy_file(doctor, disk, system):
    found = doctor("--root", system(), disk("64M"))
    assert found.status == 0 and found.told["failures"] == found.told["warnings"] == 0 and found.told["luns"] == 1


def test_a_running_appliance_is_looked_at(doctor, ebb, disk, system):
    e = ebb(disk("8M"), disk("8M"))
    found = doctor(sock=e.socket)
    assert found.told["failures"] == 0 and found.told["luns"] == 2
    people = run(EBB, "--socket", e.socket, "doctor")
    assert "2 LUNs: 0 failures" in people.stdout
    limit = f"Limit  Soft Limit  Hard Limit  Units\nMax open files            100                  400                  files\n"
    root = system({f"proc/{e.proc.pid}/limits": limit})
    assert "the limit is 400" in doctor("--root", root, sock=e.socket).one("limits", "open files")


def test_a_file_that_another_service_has(doctor, ebb, disk):
    path = disk("8M")
    e = ebb(path)
    assert "another service" in doctor(path).one("files", "disk0")
    found = doctor(path, sock=e.socket)
    assert f"process {e.proc.pid}" in found.of("files")[0]["cure"]


def test_one_file_for_two_luns(doctor, disk, tmp_path):
    os.link(disk("8M"), tmp_path / "other.img")
    assert "same file as LUN disk0" in doctor(tmp_path / "disk0.img", tmp_path / "other.img").one("files", "other")


def test_a_file_that_is_a_loop_device(doctor, disk, system):
    path = disk("8M")
    root = system({"sys/block/loop7/loop/backing_file": f"{path}\n"})
    assert "loop7" in doctor("--root", root, path).one("files", "disk0")


@pytest.fixture
def device(disk):
    """device(): a loop device of a file, and its number in sysfs."""
    made = []

    def make(*args):
        made.append(run(need("losetup"), "--find", "--show", *args, disk("8M")).stdout.strip())
        number = os.stat(made[-1]).st_rdev
        return made[-1], f"{os.major(number)}:{os.minor(number)}"
    yield make
    for path in made:
        run("losetup", "-d", path)


needs_loop = pytest.mark.skipif(os.geteuid() != 0 or not os.path.exists("/dev/loop-control"), reason="needs root and loop devices")


@needs_loop
def test_a_device_that_is_well(doctor, device, system):
    path, _ = device()
    found = doctor("--root", system(), f"{path},name=dev")
    assert not found.of("files") and not found.of("files", "warning") and found.status == 0


@needs_loop
def test_a_partition_that_begins_within_a_page(doctor, device, system):
    path, number = device()
    root = system({f"sys/dev/block/{number}/start": "63\n", f"sys/dev/block/{number}/alignment_offset": "0\n"})
    assert "begins at sector 63" in doctor("--root", root, f"{path},name=dev").one("files", "dev", "warning")
    root = system({f"sys/dev/block/{number}/start": "2048\n"})
    assert not doctor("--root", root, f"{path},name=dev").of("files", "warning")
    root = system({f"sys/dev/block/{number}/alignment_offset": "3584\n"})
    assert "shifted by 3584 bytes" in doctor("--root", root, f"{path},name=dev").one("files", "dev", "warning")


@needs_loop
def test_a_device_that_others_have(doctor, device):
    path, _ = device()
    fd = os.open(path, os.O_RDONLY | os.O_EXCL)  # as a mount has it, or a driver
    try:
        assert "mounted, or claimed" in doctor(f"{path},name=dev").of("files")[0]["problem"]
    finally:
        os.close(fd)


@needs_loop
def test_a_device_with_larger_blocks(doctor, device, system):
    path, _ = device("--sector-size", "4096")
    found = doctor("--root", system(), f"{path},name=dev")
    assert "the device writes blocks of 4096 bytes" in found.one("files", "dev", "warning")
    assert not doctor("--root", system(), f"{path},name=dev,bs=4096").of("files", "warning")


def test_files_that_are_not_there(doctor, tmp_path):
    assert "is not there" in doctor(tmp_path / "none.img").one("files", "none")
    assert "cannot be made" in doctor(f"{tmp_path}/no/new.img,size=1M").one("files", "new")
    assert doctor(f"{tmp_path}/new.img,size=1M").status == 0 and not (tmp_path / "new.img").exists()
    assert "neither" in doctor("/dev/null").one("files", "null")


def test_a_path_that_is_not_utf_8(doctor, tmp_path):
    """Its finding is told all the same."""
    found = doctor(os.fsdecode(os.fsencode(tmp_path) + b"/\xe4.img,name=a"))
    assert "?.img is not there" in found.one("files", "a")


def test_sizes_that_do_not_fit_blocks(doctor, disk):
    assert "last 488 bytes" in doctor(disk("1000")).one("files", "disk0", "warning")
    assert "never cached" in doctor(disk("4608")).one("files", "disk1", "note")


def test_a_limit_on_open_files(doctor, disk):
    def limit():
        resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300))
    assert "the limit is 300" in doctor(disk(), before=limit).one("limits", "open files")


def test_a_limit_on_the_size_of_files(doctor, disk):
    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
    assert "1M of its 64M" in doctor(disk("64M"), before=limit).one("limits", "disk0")


@pytest.mark.skipif(SANITIZED, reason="sanitizers need addresses")
def test_a_limit_on_addresses(doctor, disk):
    def limit():
        resource.setrlimit(resource.RLIMIT_AS, (8 * GIB, 8 * GIB))
    assert "8G" in doctor(disk(), before=limit).one("limits", "address space", "warning")


def test_a_limit_on_tasks(doctor, disk, system):
    root = system({"proc/self/cgroup": "0::/ebb.slice\n", "sys/fs/cgroup/ebb.slice/pids.max": "12\n"})
    assert "may have 12" in doctor("--root", root, disk()).one("limits", "tasks")


def test_no_io_uring(doctor, disk, system):
    assert "Operation not permitted" in doctor(disk(), before=deny(IO_URING_SETUP, 1)).one("io_uring", "io_uring")
    assert "not implemented" in doctor(disk(), before=deny(IO_URING_SETUP, 38)).one("io_uring", "io_uring")
    root = system({"proc/sys/kernel/io_uring_disabled": "2\n"})
    found = doctor("--root", root, disk(), before=deny(IO_URING_SETUP, 1))
    assert found.of("io_uring")[0]["cure"] == "sysctl kernel.io_uring_disabled=0"


def test_no_direct_io(doctor, disk):
    no_direct = deny(OPENAT, 22, argument=2, bits=os.O_DIRECT)
    path = disk("8M")
    assert "no direct I/O" in doctor(path, before=no_direct).one("files", "disk0", "warning")
    assert "asked for" in doctor(f"{path},io=direct", before=no_direct).one("files", "disk0")
    assert not doctor(f"{path},io=buffered", before=no_direct).of("files", "warning")


def test_memory_that_a_control_group_does_not_grant(doctor, declared, system):
    group = {"sys/fs/cgroup/memory.max": f"{256 << 20}\n", "sys/fs/cgroup/memory.current": "1048576\n",
             "sys/fs/cgroup/memory.stat": "inactive_file 0\nactive_file 0\n"}
    root = system(group)
    config = declared("memory: {floor: 1G, max: 2G}\nnbd: {listen: []}\n")
    assert "control group's limit is 256M" in doctor("--root", root, "--config", config).one("memory", "memory.floor")
    config = declared("memory: {max: 2G}\nnbd: {listen: []}\n")
    assert "256M" in doctor("--root", root, "--config", config).one("memory", "memory.max", "warning")
    root = system({**group, "sys/fs/cgroup/memory.max": f"{64 << 20}\n"})
    assert "64M" in doctor("--root", root, "--config", config).one("memory", "control group")


def test_a_kernel_that_does_not_tell_of_pressure(doctor, disk, system):
    root = system({"proc/sys/vm/overcommit_memory": "2\n"})
    os.unlink(root / "proc/pressure/memory")
    found = doctor("--root", root, disk())
    assert "by a timer" in found.one("memory", "pressure", "warning")
    assert "fewer" in found.one("memory", "vm.overcommit_memory", "warning")


def test_more_promised_than_the_file_system_has(doctor, tmp_path):
    fs = os.statvfs(tmp_path)
    path = tmp_path / "big.img"
    with open(path, "wb") as f:
        f.truncate((fs.f_bavail * fs.f_frsize + (64 * GIB)) // 4096 * 4096)
    assert "ENOSPC" in doctor(path).one("space", str(path), "warning")


def test_addresses_that_cannot_be_had(doctor, declared, tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        mine = f"127.0.0.1:{taken.getsockname()[1]}"
        config = declared(f"iscsi: {{portals: ['{mine}', '192.0.2.1:3260']}}\n"
                          f"nbd: {{listen: ['unix:{tmp_path}/no/nbd.sock']}}\n")
        found = doctor("--config", config)
        assert "in use" in found.one("addresses", mine)
        assert "no interface" in [f for f in found.of("addresses") if f["subject"] == "192.0.2.1:3260"][0]["cure"]
        assert "No such file" in found.one("addresses", f"unix:{tmp_path}/no/nbd.sock")


def test_portals_that_other_hosts_cannot_reach(doctor, declared):
    config = declared("iscsi: {portals: ['127.0.0.1:0']}\nnbd: {listen: []}\n")
    assert "other hosts" in doctor("--config", config).one("addresses", "portals", "note")


def test_no_nbdkit(doctor, declared, tmp_path):
    config = declared(f"nbd: {{listen: ['unix:{tmp_path}/nbd.sock'], nbdkit: /none/nbdkit}}\niscsi: {{portals: []}}\n")
    assert "cannot be executed" in doctor("--config", config).one("nbdkit", "/none/nbdkit")


def test_no_modules_for_the_kernels_target(doctor, declared, system):
    config = declared("tcmu: true\nnbd: {listen: []}\n")
    found = doctor("--root", system({"sys/module/target_core_mod/refcnt": "1\n"}), "--config", config)
    assert "not loaded" in found.one("modules", "target_core_user")
    assert {f["subject"] for f in found.of("modules")} == {"target_core_user", "configfs"}


def test_a_declaration_that_cannot_be_read(doctor, tmp_path):
    (tmp_path / "bad.yaml").write_text("luns: []\nthreads: many\n")
    assert "bad.yaml:2" in doctor("--config", tmp_path / "bad.yaml").one("config", str(tmp_path / "bad.yaml"))


def test_a_declaration_that_is_the_services(tmp_path):
    """An administrator who has forgotten sudo is not told to correct the file, nor that all is well."""
    config = tmp_path / "ebb.yaml"
    config.write_text("luns: []\n")
    config.chmod(0)
    without = [need("setpriv"), "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []
    p = subprocess.run([*without, str(EBB), "--json", "--socket", tmp_path / "none.sock", "doctor", "--config", config],
                       stdout=subprocess.PIPE, text=True, timeout=60 * SLOW, check=False)
    found = Findings(p).of("config")
    assert len(found) == 1 and found[0]["cure"].startswith("run this as root")


@pytest.mark.skipif(os.path.exists("/etc/ebb/ebb.yaml"), reason="this machine has a declaration")
def test_nothing_to_look_at_is_said(doctor):
    assert "no LUN was looked at" in doctor().one("config", "appliance", "note")


def test_many_faults_at_once(doctor, disk, system, tmp_path):
    """Each is told of, whatever else is wrong."""
    os.link(disk("8M", "mail.img"), tmp_path / "copy.img")
    disk("1000", "odd.img")
    (tmp_path / "dir").mkdir()
    luns = "".join(f"  - {{name: {n}, path: {tmp_path}/{n}.img}}\n" for n in ("mail", "copy", "odd", "gone"))
    config = tmp_path / "ebb.yaml"
    config.write_text(f"luns:\n{luns}  - {{name: folder, path: {tmp_path}/dir}}\niscsi: {{portals: ['192.0.2.1:3260']}}\n"
                      f"nbd: {{listen: ['unix:{tmp_path}/no/nbd.sock'], nbdkit: /none/nbdkit}}\nmemory: {{floor: 64G, max: 128G}}\ntcmu: true\n")
    root = system({"proc/sys/vm/overcommit_memory": "2\n"})
    found = doctor("--root", root, "--config", config, before=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (300, 300)))
    told = {(f["check"], f["subject"]) for f in found.told["findings"]}
    assert told >= {("limits", "open files"), ("memory", "memory.floor"), ("memory", "vm.overcommit_memory"), ("files", "copy"),
                    ("files", "odd"), ("files", "gone"), ("files", "folder"), ("addresses", "192.0.2.1:3260"),
                    ("addresses", f"unix:{tmp_path}/no/nbd.sock"), ("nbdkit", "/none/nbdkit"), ("modules", "target_core_user")}
    assert found.status == 1 and all(f["cure"] for f in found.told["findings"])


def test_what_makes_no_sense_is_refused(tmp_path):
    for args in (["--config", "x", "file"], ["--no-such"], [f"{tmp_path}/f.img,name=/"]):
        p = run(EBB, "doctor", *args, check=False)
        assert p.returncode == 2, p.stdout
