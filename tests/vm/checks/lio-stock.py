#!/usr/bin/python3
"""Debian's own userspace, unchanged, on both modules: tcmu-runner serves a qcow2 image which targetcli exports over iSCSI.

check: kernels=6.1,6.12 seconds=600 soak
"""
import os

import lio

IQN = "iqn.2026-11.local.ebb:stock"
URL = f"iscsi://127.0.0.1:3260/{IQN}/0"
IMAGE = "/tmp/stock.qcow2"


def use(origin):
    lio.run("qemu-img", "create", "-q", "-f", "qcow2", "-o", "compat=0.10", IMAGE, "64M")
    runner = lio.Runner()
    assert "user:qcow" in lio.targetcli("ls", "/backstores")
    lio.targetcli("/backstores/user:qcow", "create", "name=stock", "size=64M", f"cfgstring={IMAGE}")
    lio.targetcli("/iscsi", "create", IQN)
    lio.targetcli(f"/iscsi/{IQN}/tpg1/luns", "create", "/backstores/user:qcow/stock")
    lio.targetcli(f"/iscsi/{IQN}/tpg1", "set", "attribute", "generate_node_acls=1", "demo_mode_write_protect=0",
                  "authentication=0")
    for pattern, place in ((0x5A, "0"), (0xA5, "17M"), (0x3C, "63M")):
        lio.run("qemu-io", "-f", "raw", "-c", f"write -P {pattern} {place} 1M", "-c", "flush", URL)
    lio.drop_caches()
    for pattern, place in ((0x5A, "0"), (0xA5, "17M"), (0x3C, "63M"), (0, "32M")):
        lio.run("qemu-io", "-f", "raw", "-c", f"read -P {pattern} {place} 1M", URL)
    info = (lio.CORE / "user_0/stock/info").read_text()
    assert f"Size: {64 << 20}" in info, info
    lio.targetcli("/iscsi", "delete", IQN)
    lio.targetcli("/backstores/user:qcow", "delete", "stock")
    runner.stop()
    # What was written is in the image, for whoever opens it without us.
    assert "pattern verif" not in lio.run("qemu-io", "-f", "qcow2", "-c", "read -P 0xa5 17M 1M", IMAGE).lower()
    os.unlink(IMAGE)
    print(f"{origin}: {info.splitlines()[-1].strip()}", flush=True)


for module in lio.MODULES:
    with lio.tcmu(module):
        use(module)
