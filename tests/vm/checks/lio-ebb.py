#!/usr/bin/python3
"""LUNs of ebbd through LIO: as user:ebb in stock targetcli, with tcmu-runner and without, and declared in ebb.yaml.
"""
# check: kernels=6.1 seconds=600
import glob
import json
import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request

import lio

BUILD = lio.REPO / os.environ.get("EBB_BUILD", "build-test")
EBB, EBBD, EBB_LIO = BUILD / "appliance/cli/ebb", BUILD / "appliance/daemon/ebbd", lio.REPO / "appliance/lio/ebb-lio"
DIR = pathlib.Path("/tmp/lio-ebb")
SOCKET, STATE = DIR / "run/control.sock", DIR / "lio-state"
IQN, HAND = "iqn.2026-11.local.ebb:declared", "iqn.2026-11.local.ebb:hand"
HOST, OTHER = "iqn.1993-08.org.debian:01:host", "iqn.1993-08.org.debian:01:other"
SECRET, MUTUAL, OTHERS = "OneSecret-1234", "Another-5678", "ThirdOne-9012"
PARTS = sys.argv[1:] or ["hand", "declared"]
PORTAL, HAND_PORTAL, METRICS = "127.0.0.1:3261", "127.0.0.1:3260", "127.0.0.1:9810"
ACLS = (f"[{{initiator: '{HOST}', chap: {{user: u, secret: {SECRET}, mutual: {{user: m, secret: {MUTUAL}}}}}}}, "
        f"{{initiator: '{OTHER}', chap: {{user: o, secret: {OTHERS}}}}}]")


def tell(what):
    print(f"{time.monotonic():8.1f} {what}", flush=True)


class Program:
    """One that runs beside us, with its output in a file, and in a session of its own: iscsid ends with its group."""

    def __init__(self, name, *command):
        self.log = open(DIR / f"{name}.log", "a+", encoding="utf-8")
        self.process = subprocess.Popen([str(c) for c in command], stdout=self.log, stderr=self.log,
                                        start_new_session=True)

    def text(self):
        return pathlib.Path(self.log.name).read_text(encoding="utf-8")

    def stop(self, how="TERM"):
        lio.stop(self.process, how)


def ebb(*words):
    return lio.run(EBB, "--socket", SOCKET, *words)


def refused(*command):
    done = subprocess.run([str(c) for c in command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    assert done.returncode, f"{command} should not work: {done.stdout}"
    return done.stdout


def declare(targets="", sizes=(("a", "64M"), ("b", "32M"))):
    luns = "".join(f"  - {{name: {n}, path: {DIR}/{n}.img, size: {s}}}\n" for n, s in sizes)
    (DIR / "ebb.yaml").write_text(f"state_dir: {DIR}/state\nruntime_dir: {DIR}/run\ntcmu: true\nthreads: 2\n"
                                  f"metrics: ['{METRICS}']\n"
                                  f"iscsi: {{auto_targets: false}}\nluns:\n{luns}"
                                  + (f"lio:\n  portals: ['{PORTAL}']\n  targets:\n{targets}" if targets else ""))


def target(luns="[a]", acls=ACLS):
    return f"    - {{iqn: '{IQN}', luns: {luns}, acls: {acls}}}\n"


def start_ebbd():
    daemon = Program("ebbd", EBBD, "--config", DIR / "ebb.yaml")
    lio.wait_for("ebbd", lambda: daemon.process.poll() is not None or SOCKET.exists() and not subprocess.run(
        [EBB, "--socket", SOCKET, "status"], capture_output=True, check=False).returncode)
    assert daemon.process.poll() is None, daemon.text()
    return daemon


def service_is(daemon, state):
    lio.wait_for(f"the D-Bus service to be {state}", lambda: re.findall(r"tcmu\.dbus.*state=(\w+)", daemon.text())[-1:] == [state])


def backstores(pattern):
    return glob.glob(f"{lio.CORE}/user_*/{pattern}")  # unlike pathlib's it does not mind one that goes meanwhile


# --- by hand ---


def session(*commands):
    """One targetcli for several commands. It does not fail when one of them does."""
    lio.run("targetcli", input="\n".join((*commands, "exit", "")))


def handlers():
    return set(re.findall(r"user:(\w+)", lio.targetcli("ls", "/backstores", "depth=1")))


def use_by_hand(*options):
    """A backstore of LUN a that targetcli makes and exports, written to and read from, and taken down again."""
    lio.targetcli("/backstores/user:ebb", "create", "name=mine", "size=64M", "cfgstring=a", *options)
    session(f"/iscsi create {HAND}", f"/iscsi/{HAND}/tpg1/luns create /backstores/user:ebb/mine",
            f"/iscsi/{HAND}/tpg1 set attribute generate_node_acls=1 demo_mode_write_protect=0 authentication=0")
    url = f"iscsi://{HAND_PORTAL}/{HAND}/0"
    lio.run("qemu-io", "-f", "raw", "-c", "write -P 0x5a 3M 1M", "-c", "flush", "-c", "read -P 0x5a 3M 1M", url)
    with open(DIR / "a.img", "rb") as f:
        f.seek(3 << 20)
        assert f.read(1 << 20) == b"\x5a" * (1 << 20)
    assert "/mine" in ebb("session", "list"), ebb("session", "list")
    session(f"/iscsi delete {HAND}", "/backstores/user:ebb delete mine")
    assert not (lio.TARGET / f"iscsi/{HAND}").exists() and not backstores("mine")


def by_hand(daemon):
    service_is(daemon, "owner")
    assert handlers() == {"ebb"}, handlers()
    told = refused("targetcli", "/backstores/user:ebb", "create", "name=none", "size=64M", "cfgstring=none")
    assert "no LUN is called 'none'" in told, told
    use_by_hand()
    tell("user:ebb without tcmu-runner")
    runner = lio.Runner()
    service_is(daemon, "guest")
    assert handlers() >= {"ebb", "qcow"}, handlers()
    told = refused("targetcli", "/backstores/user:ebb", "create", "name=none", "size=64M", "cfgstring=none")
    assert "no LUN is called 'none'" in told, told
    use_by_hand("control=nl_reply_supported=-1")
    tell("user:ebb as a guest of tcmu-runner")
    runner.stop()
    service_is(daemon, "owner")
    assert handlers() == {"ebb"}, handlers()


# --- declared ---


def capacity(number=0, initiator=OTHER, secret=OTHERS):
    """Bytes of the LUN as libiscsi sees it after a login with CHAP; None: refused."""
    url = f"iscsi://o%{secret}@{PORTAL}/{IQN}/{number}"
    done = subprocess.run(["iscsi-readcapacity16", "-i", initiator, url], stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, check=False)
    found = re.search(r"Total size:\s*(\d+)", done.stdout)
    return int(found[1]) if found and not done.returncode else None


def check_metrics():
    """What LIO counts of LUN a, from the daemon; the files that it is in are readable for everybody."""
    with urllib.request.urlopen(f"http://{METRICS}/metrics") as answer:
        text = answer.read().decode()

    def value(name, labels):
        found = re.search(rf"^{name}{{{re.escape(labels)}}} (\d+)$", text, re.M)
        assert found, f"{name}{{{labels}}}: not told\n" + "\n".join(x for x in text.splitlines() if "_lio_" in x or "_area_" in x)
        return int(found[1])

    export, backstore = f'lun="a",export="lio/iscsi/{IQN}/tpg1/0"', re.search(r'ebb_tcmu_area_resident_bytes{(.*)}', text)[1]
    assert value("ebb_lio_commands_total", export) > 0
    assert value("ebb_lio_read_bytes_total", export) + value("ebb_lio_written_bytes_total", export) >= 0
    assert backstore.startswith('lun="a",backstore="user_') and value("ebb_tcmu_area_resident_bytes", backstore) > 0
    assert value("ebb_tcmu_timeouts_total", backstore) == 0
    assert value("ebb_lio_logins_total", f'target="{IQN}"') > 0 and value("ebb_lio_login_failures_total", f'target="{IQN}"') > 0
    for path in (f"iscsi/{IQN}/tpgt_1/lun/lun_0/statistics/scsi_tgt_port/in_cmds", f"iscsi/{IQN}/fabric_statistics/iscsi_instance/sessions"):
        assert lio.run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "cat", lio.TARGET / path).strip().isdigit()


class Initiator:
    """The kernel's (open-iscsi), which checks what the target answers for itself: libiscsi does not take LIO's answer."""

    def __init__(self):
        lio.run("modprobe", "-a", "iscsi_tcp", "sd_mod")
        for folder in ("/run/lock/iscsi", "/etc/iscsi"):
            os.makedirs(folder, exist_ok=True)
        pathlib.Path("/etc/iscsi/initiatorname.iscsi").write_text(f"InitiatorName={HOST}\n")
        pathlib.Path("/etc/iscsi/iscsid.conf").write_text("node.session.initial_login_retry_max = 1\n")
        self.daemon = Program("iscsid", "iscsid", "-f")
        lio.wait_for("iscsid", lambda: subprocess.run(["iscsiadm", "-m", "session"], capture_output=True, check=False).returncode in (0, 21))
        self.node = ("iscsiadm", "-m", "node", "-T", IQN, "-p", PORTAL)
        lio.run(*self.node, "-o", "new")
        for key, value in (("authmethod", "CHAP"), ("username", "u"), ("password", SECRET), ("username_in", "m")):
            lio.run(*self.node, "-o", "update", "-n", f"node.session.auth.{key}", "-v", value)

    def login(self, mutual):
        """The sizes of the disks that it finds, in bytes; None: refused."""
        lio.run(*self.node, "-o", "update", "-n", "node.session.auth.password_in", "-v", mutual)
        if subprocess.run([*self.node, "--login"], capture_output=True, check=False).returncode:
            return None
        pattern = "device/target*/*/block/sd*/size"
        sizes = lio.wait_for("disks", lambda: [int(p.read_text()) * 512 for d in pathlib.Path("/sys/class/iscsi_session").iterdir()
                                               for p in d.glob(pattern)])
        lio.run(*self.node, "--logout")
        return sizes


class Session:
    """An initiator that stays logged in."""

    def __init__(self, where):
        self.process = subprocess.Popen(["qemu-io", "-f", "raw", where], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)

    def stop(self):
        self.process.stdin.close()
        self.process.wait()


def problems():
    return {p["name"]: p["problem"] for p in json.loads(ebb("--json", "status"))["problems"]}


def watch():
    return Program("ebb-lio", EBB_LIO, "--socket", SOCKET, "--state", STATE, "watch")


def settled(count):
    """All that is declared is exported, with so many LUNs."""
    def done():
        return not problems() and len(list(lio.TARGET.glob(f"iscsi/{IQN}/tpgt_1/lun/lun_*"))) == count
    lio.wait_for(f"{count} LUNs of {IQN}", done)


def declared(daemon):
    other = lio.TARGET / "iscsi" / HAND  # somebody else's
    (other / "tpgt_1").mkdir(parents=True)
    declare(target())
    assert f"+ create lio target {IQN}" in ebb("plan")
    ebb("apply")
    helper = watch()
    settled(1)
    tell("declared and exported:\n" + helper.text())
    assert capacity() == 64 << 20
    assert capacity(secret="wrong-secret-1") is None and capacity(initiator=HOST + "x") is None
    initiator = Initiator()
    assert initiator.login(MUTUAL) == [64 << 20]
    assert initiator.login("wrong-secret-2") is None
    initiator.daemon.stop()
    for secret in (SECRET, MUTUAL, OTHERS):
        assert secret not in helper.text() + daemon.text()
    tell("CHAP both ways, and nobody else")
    check_metrics()
    tell("LIO's figures in the daemon's metrics")

    before = os.stat(lio.TARGET / f"iscsi/{IQN}/tpgt_1/lun/lun_0").st_ino
    declare(target("[a, 7=b]"))
    ebb("apply")
    settled(2)
    assert capacity(7) == 32 << 20
    assert os.stat(lio.TARGET / f"iscsi/{IQN}/tpgt_1/lun/lun_0").st_ino == before  # not made again
    ebb("lun", "resize", "a", "128M")
    lio.wait_for("a to grow", lambda: capacity() == 128 << 20)
    sizes = (("a", "128M"), ("b", "32M"))
    declare(target("[a, 7=b]"), sizes)
    tell("a LUN more, a LUN grown")

    # A reboot: nothing of ours nor of others is left in the kernel; ebbd and ebb-lio start as at boot.
    helper.stop("KILL")
    daemon.stop()
    lio.run("targetctl", "clear")
    assert not backstores("*/info") and not list(lio.TARGET.glob("iscsi/iqn*"))
    daemon = start_ebbd()
    helper = watch()
    settled(2)
    assert capacity() == 128 << 20 and capacity(7) == 32 << 20
    tell("after a reboot")

    # The daemon is killed and comes back: what is exported stays, and works again.
    daemon.stop("KILL")
    daemon = start_ebbd()
    lio.wait_for("the daemon to be back", lambda: capacity() == 128 << 20)
    tell("after a kill of the daemon")

    # A target with a session does not go, and says so; when the initiator has left it goes by itself.
    (other / "tpgt_1").mkdir(parents=True)
    declare(target("[a, 7=b]", "[]"), sizes)
    ebb("apply")
    lio.wait_for("everybody to be let in", lambda: not problems() and (
        lio.TARGET / f"iscsi/{IQN}/tpgt_1/attrib/generate_node_acls").read_text().strip() == "1")
    busy = Session(f"iscsi://{PORTAL}/{IQN}/0")
    sessions = lio.TARGET / f"iscsi/{IQN}/tpgt_1/dynamic_sessions"
    lio.wait_for("the session", lambda: sessions.read_text().strip("\0\n "))
    declare(sizes=sizes)
    ebb("apply")
    lio.wait_for("the problem", lambda: problems().get(IQN) == "busy: 1 session")
    busy.stop()
    lio.wait_for("the target to go, which is tried again after a while", lambda: not (lio.TARGET / f"iscsi/{IQN}").exists())
    lio.wait_for("its backstores to go", lambda: not backstores("ebb-*"))
    (other / "tpgt_1").rmdir()
    other.rmdir()
    tell("gone, but for what is not ours")
    assert helper.process.poll() is None
    helper.stop()
    assert helper.process.returncode == 0
    return daemon


shutil.rmtree(DIR, ignore_errors=True)
DIR.mkdir()
shutil.copy(lio.REPO / "config/dbus/ebb.conf", "/usr/share/dbus-1/system.d/ebb.conf")
lio.run("modprobe", "-a", "iscsi_target_mod", "crc32c")  # the kernel cannot ask for the latter itself in the guest
lio.start_dbus()
lio.make_target_folders()
with lio.tcmu("ours"):
    if not lio.TARGET.exists():
        lio.run("mount", "-t", "configfs", "configfs", "/sys/kernel/config")
    declare()
    service = start_ebbd()
    if "hand" in PARTS:
        by_hand(service)
    if "declared" in PARTS:
        service = declared(service)
    service.stop()
tell("good")
