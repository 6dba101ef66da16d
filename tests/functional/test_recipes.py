# SPDX-License-Identifier: GPL-2.0-or-later
"""The pages of docs/recipes: what they tell to type is typed, what they declare is checked."""
import os
import pathlib
import re
import shutil
import subprocess
import tempfile

import pytest
import yaml

from conftest import EBBD, ROOT, free_port, need, run
from controllib import Daemon, wait_for
from recipelib import Page

RECIPES = ROOT / "docs/recipes"


def moved(page, folder):
    """What stands for a page's addresses and folders here, where they occur."""
    (folder / "images").mkdir()
    places = {"192.0.2.10": "127.0.0.1", "198.51.100.10": "127.0.0.2", "3260": free_port(), "10809": free_port(),
              "/etc/ebb": folder, "/var/lib/ebb/images": folder / "images"}
    return page.replace({old: new for old, new in places.items() if old in page.text})


class Appliance(Daemon):
    """ebbd with a page's ebb.yaml, in the folder where the page's files are."""

    def __init__(self, page, folder):
        super().__init__(folder)
        page.write_files(folder)
        with open(self.config, "a") as f:
            f.write(f"state_dir: {folder}/state\nruntime_dir: {folder}/run\n")


@pytest.fixture
def appliance():
    """appliance(page, folder) runs ebbd; it must end cleanly."""
    started = []

    def start(page, folder):
        started.append(Appliance(page, folder))
        return started[-1].start()

    yield start
    for d in started:
        d.end()


PAGES = sorted(RECIPES.glob("*.md"))


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_what_a_page_declares_is_good(path, tmp_path):
    page = moved(Page(path), tmp_path)
    page.write_files(tmp_path)
    run(EBBD, "--config", tmp_path / "ebb.yaml", "--check")


@pytest.mark.parametrize("path", PAGES, ids=lambda p: p.stem)
def test_a_page_says_whether_it_is_run(path):
    page = Page(path)
    steps = any(b.language == "sh" for b in page.blocks)
    named = re.search(r"^Run by `(\S+)`", page.text, re.M)
    assert bool(named) == steps != ("Not run by us" in page.text)
    assert not named or path.name in (ROOT / named[1]).read_text()
    assert f"docs/recipes/{path.name}" in (ROOT / "README.md").read_text()


GREETING = b"this disk is a LUN\n"


def make_guest(folder):
    """guest.qcow2: boots, prints GREETING, which it has read from its disk, and writes it to sector 2."""
    run("as", "--32", "-o", folder / "guest.o", ROOT / "tests/functional/guest.S")
    run("ld", "-m", "elf_i386", "-Ttext", "0x7c00", "-e", "0x7c00", "--oformat", "binary", "-o", folder / "guest.img", folder / "guest.o")
    with open(folder / "guest.img", "r+b") as f:
        f.seek(512)
        f.write(GREETING)
        f.truncate(1 << 20)
    run(need("qemu-img"), "convert", "-f", "raw", "-O", "qcow2", folder / "guest.img", folder / "guest.qcow2")


def sectors(image, first):
    """What stands in a file from a sector on, up to the first zero byte."""
    with open(image, "rb") as f:
        f.seek(first * 512)
        return f.read(512).split(b"\0")[0]


@pytest.mark.plain(reason="QEMU is not what is sanitized; other tests bring the same traffic")
def test_qemu(appliance, tmp_path):
    page = moved(Page(RECIPES / "qemu.md"), tmp_path)
    make_guest(tmp_path)
    d = appliance(page, tmp_path)
    run(*page.command(tmp_path), cwd=tmp_path, timeout=120)
    for log in ("console.log", "console-scsi.log"):
        assert (tmp_path / log).read_bytes() == GREETING, log
    d.stop()
    assert sectors(tmp_path / "images/vm1.img", 2) == GREETING, "what the guest wrote"
    assert sectors(tmp_path / "images/scratch.img", 0) == b"", "what was discarded"


@pytest.mark.plain(reason="QEMU is not what is sanitized; other tests bring the same traffic")
def test_what_qemu_does_while_the_appliance_is_away(appliance, tmp_path):
    """It waits over iSCSI, and over NBD with reconnect-delay; without, the disk fails."""
    d = appliance(moved(Page(RECIPES / "qemu.md"), tmp_path), tmp_path)
    portal, listen = (yaml.safe_load(d.config.read_text())[k] for k in ("iscsi", "nbd"))
    host, port = listen["listen"][0].split(":")
    nbd = f"driver=raw,file.driver=nbd,file.server.type=inet,file.server.host={host},file.server.port={port},file.export=scratch"
    disks = {f"{nbd},file.reconnect-delay=120": 3, nbd: 1,
             f"driver=raw,file.driver=iscsi,file.transport=tcp,file.portal={portal['portals'][0]},"
             "file.target=iqn.2026-11.local.ebb:scratch,file.lun=0": 3}
    clients = []
    for i, disk in enumerate(disks):
        clients.append(subprocess.Popen([need("qemu-io"), "--image-opts", disk], bufsize=0, stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
        clients[-1].stdin.write(f"write -P 5 {i}M 64k\n".encode())
        while b"64 KiB, 1 ops" not in (line := clients[-1].stdout.readline()):
            assert line, "qemu-io ended"
    assert d.stop() == 0
    for i, qemu in enumerate(clients):
        qemu.stdin.write(f"read -P 5 {i}M 64k\nwrite -P 6 {i + 8}M 64k\nquit\n".encode())
    d.start()
    for qemu, good in zip(clients, disks.values()):
        said = qemu.communicate(timeout=120)[0].decode()
        assert said.count("64 KiB, 1 ops") == good - 1 and ("failed" in said) == (good == 1), said


@pytest.fixture
def libvirt():
    """A folder and a libvirtd for a user's session in it: root's libvirtd has none, and would be the machine's own."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="ebb-libvirt-"))
    env = {"HOME": folder, "XDG_RUNTIME_DIR": folder / "run", "XDG_CONFIG_HOME": folder / "config", "XDG_CACHE_HOME": folder / "cache",
           "LIBVIRT_DEFAULT_URI": "qemu:///session", "PATH": "/usr/sbin:/usr/bin:/sbin:/bin"}
    user = ["env", "-i", *(f"{k}={v}" for k, v in env.items())]
    (folder / "config/libvirt").mkdir(parents=True)
    (folder / "config/libvirt/qemu.conf").write_text('stdio_handler = "file"\n')
    if os.geteuid() == 0:
        user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", *user]
        run("chown", "-R", "nobody:nogroup", folder)
    with open(folder / "libvirtd.log", "w") as log:
        daemon = subprocess.Popen([*user, need("libvirtd")], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    wait_for("libvirtd", lambda: daemon.poll() is not None or (folder / "run/libvirt/libvirt-sock").exists(), timeout=60)
    yield folder, user
    daemon.terminate()
    daemon.wait(60)
    shutil.rmtree(folder)


@pytest.mark.plain(reason="libvirt is not what is sanitized; other tests bring the same traffic")
def test_libvirt(appliance, libvirt, tmp_path):
    folder, user = libvirt
    page = moved(Page(RECIPES / "libvirt.md"), tmp_path).replace({"/var/log/libvirt": folder})
    make_guest(tmp_path)
    shutil.copy(tmp_path / "guest.img", tmp_path / "images/vm1.img")
    d = appliance(page, tmp_path)
    page.write_files(folder)
    run(*user, *page.command(folder), cwd=folder, timeout=120)
    assert "unit:0:0:0" in (folder / "volumes").read_text()
    wait_for("the guest's end", lambda: "shut off" in run(*user, "virsh", "domstate", "vm1").stdout, timeout=120)
    assert (folder / "vm1-console.log").read_bytes() == GREETING
    d.stop()
    assert sectors(tmp_path / "images/vm1.img", 2) == GREETING, "what the guest wrote"


def test_proxmox_lists_our_luns(appliance, tmp_path):
    """Its iscsidirect plugin looks for lines of this form in what iscsi-ls prints."""
    page = moved(Page(RECIPES / "proxmox.md"), tmp_path)
    d = appliance(page, tmp_path)
    portal = yaml.safe_load(d.config.read_text())["iscsi"]["portals"][0]
    listed = run(need("iscsi-ls"), "-s", f"iscsi://{portal}").stdout
    luns = re.findall(r"Lun:(\d+)\s+[\w.:-]*\s+\(Size:([\d.]+)([kMGT])\)", listed)
    assert set(luns) == {("0", "31", "G"), ("1", "31", "G")}, listed  # iscsi-ls rounds what the last block's number says


# What Kubernetes' API knows of these objects, as far as a static volume has to do with it.
KUBERNETES = {
    "Secret": {"apiVersion", "kind", "metadata", "type", "stringData", "data"},
    "PersistentVolume.spec": {"capacity", "accessModes", "volumeMode", "persistentVolumeReclaimPolicy", "storageClassName", "mountOptions",
                              "claimRef", "nodeAffinity", "iscsi"},
    "PersistentVolume.spec.iscsi": {"targetPortal", "portals", "iqn", "lun", "iscsiInterface", "fsType", "readOnly", "chapAuthDiscovery",
                                    "chapAuthSession", "secretRef", "initiatorName"},
    "PersistentVolumeClaim.spec": {"accessModes", "volumeMode", "storageClassName", "volumeName", "selector", "resources"},
}


def test_kubernetes_objects_name_what_is_declared():
    page = Page(RECIPES / "kubernetes.md")
    files = page.files("yaml")
    declared = yaml.safe_load(files.pop("ebb.yaml"))["iscsi"]
    (target,) = declared["targets"]
    objects = {(o["kind"], o["metadata"]["name"]): o for text in files.values() for o in yaml.safe_load_all(text)}
    for (kind, _), o in objects.items():
        assert set(o) <= KUBERNETES.get(kind, {"apiVersion", "kind", "metadata", "spec"}) and o["apiVersion"] == "v1"
        assert set(o.get("spec", {})) <= KUBERNETES.get(f"{kind}.spec", set(o.get("spec", {})))
    volumes = [o for (kind, _), o in objects.items() if kind == "PersistentVolume"]
    for o in volumes:
        source, claim = o["spec"]["iscsi"], objects["PersistentVolumeClaim", o["metadata"]["name"]]
        assert set(source) <= KUBERNETES["PersistentVolume.spec.iscsi"]
        assert [source["targetPortal"], *source["portals"]] == declared["portals"]
        assert source["iqn"] == target["iqn"] and f"{source['lun']}={o['metadata']['name']}" in target["luns"]
        assert ("Secret", source["secretRef"]["name"]) in objects
        assert claim["spec"]["volumeName"] == o["metadata"]["name"]
        assert all(claim["spec"].get(k) == o["spec"].get(k) for k in ("accessModes", "volumeMode", "storageClassName"))
    assert len(volumes) == 2
    secret = objects["Secret", "ebb-chap"]["stringData"]
    assert {k.split(".")[0]: v for k, v in secret.items() if k.endswith("password")} == dict.fromkeys(
        ("discovery", "node"), page.files("text")["/etc/ebb/kube.secret"].strip())
