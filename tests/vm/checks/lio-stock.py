#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Debian's own userspace, unchanged, on both modules: tcmu-runner serves a qcow2 image which targetcli exports over iSCSI.

The image lies on ext4: for a new cluster tcmu-runner calls fallocate(FALLOC_FL_ZERO_RANGE), which tmpfs (6.1, 6.12) does not
know, and then the write ends with MEDIUM ERROR. That is shown too, as it must be the same with both modules.

check: kernels=6.1,6.12 seconds=600 soak
"""
import os
import pathlib
import subprocess

import lio

IQN = "iqn.2026-11.local.ebb:stock"
URL = f"iscsi://127.0.0.1:3260/{IQN}/0"
DISK, MOUNT = pathlib.Path("/tmp/stock.ext4"), pathlib.Path("/tmp/stock")
WRITTEN = ((0x5A, "0"), (0xA5, "17M"), (0x3C, "63M"))


def export(image):
    lio.run("qemu-img", "create", "-q", "-f", "qcow2", image, "64M")
    lio.targetcli("/backstores/user:qcow", "create", "name=stock", "size=64M", f"cfgstring={image}")
    lio.targetcli("/iscsi", "create", IQN)
    lio.targetcli(f"/iscsi/{IQN}/tpg1/luns", "create", "/backstores/user:qcow/stock")
    lio.targetcli(f"/iscsi/{IQN}/tpg1", "set", "attribute", "generate_node_acls=1", "demo_mode_write_protect=0",
                  "authentication=0")


def withdraw(image):
    lio.targetcli("/iscsi", "delete", IQN)
    lio.targetcli("/backstores/user:qcow", "delete", "stock")
    os.unlink(image)


def qemu_io(*commands, form="raw", where=URL):
    """What it said: its exit status does not always tell what became of reads and writes."""
    return subprocess.run(["qemu-io", "-f", form, *(word for c in commands for word in ("-c", c)), str(where)], text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False).stdout


def good(said):
    return said and "failed" not in said and "error" not in said.lower() and "not identical" not in said


def use(image):
    export(image)
    for pattern, place in WRITTEN:
        said = qemu_io(f"write -P {pattern} {place} 1M", "flush")
        assert good(said), said
    lio.drop_caches()
    for pattern, place in (*WRITTEN, (0, "32M")):
        said = qemu_io(f"read -P {pattern} {place} 1M")
        assert good(said), said
    info = (lio.CORE / "user_0/stock/info").read_text()
    assert f"Size: {64 << 20}" in info, info
    # What was written is in the image, for whoever opens it without us.
    for pattern, place in WRITTEN:
        said = qemu_io(f"read -P {pattern} {place} 1M", form="qcow2", where=image)
        assert good(said), said
    withdraw(image)
    return info.splitlines()[-1].strip()


def use_where_it_cannot_write(image):
    export(image)
    said = qemu_io("write -P 1 0 1M")
    withdraw(image)
    assert not good(said) and "0x0c00" in said, said  # WRITE ERROR


lio.run("modprobe", "-a", "ext4", "loop", "iscsi_target_mod", "crc32c")
lio.run("truncate", "-s", "256M", DISK)
lio.run("mkfs.ext4", "-q", DISK)
MOUNT.mkdir(exist_ok=True)
lio.run("mount", "-o", "loop", DISK, MOUNT)
for module in lio.MODULES:
    with lio.tcmu(module):
        runner = lio.Runner()
        assert "user:qcow" in lio.targetcli("ls", "/backstores")
        print(f"{module}: {use(MOUNT / 'image.qcow2')}", flush=True)
        use_where_it_cannot_write(pathlib.Path("/tmp/image.qcow2"))
        runner.stop()
lio.run("umount", MOUNT)
