# SPDX-License-Identifier: GPL-2.0-or-later
"""The verbs of state.State on the kernel's target, through rtslib.

rtslib makes everything. Where it walks all of a target or of the tree to do one thing - a mapping looks at each LUN,
deleting a LUN at each mapping, deleting a backstore at each LUN there is - the one link or folder is handled here:
the plan has already put what depends on it out of the way, and a thousand LUNs would take a million looks.

Only portal group 1 of a target is looked at; we make no other.
"""
import glob
import os
import subprocess

import rtslib_fb
from rtslib_fb import tcm
from rtslib_fb.node import CFSNode
from rtslib_fb.utils import fread

from .state import Acl, Backstore, Chap, Target

SUBTYPE = "ebb/"  # of the cfgstring: which userspace handles a backstore
# A command ring of 1 MiB is plenty and pins an eighth of the default. The kernel does not wait for netlink replies:
# several daemons may listen, and the first one to say that a device is not its own would fail it.
CONTROL = "hw_block_size={},cmd_ring_size_mb=1,nl_reply_supported=-1"
NONE = "NULL"  # what configfs shows and takes for a name or secret that is not there


def load(*modules):
    for m in modules:
        if not os.path.isdir(f"/sys/module/{m}"):
            subprocess.run(["/sbin/modprobe", m], check=True, stdin=subprocess.DEVNULL)


def _text(path):
    value = fread(path)
    return "" if value == NONE else value


def _link(folder):
    """What the one link in a configfs folder leads to; None: there is none yet."""
    for e in os.scandir(folder):
        if e.is_symlink():
            return os.path.realpath(e.path)
    return None


def _drop_link(folder):
    for e in os.scandir(folder):
        if e.is_symlink():
            os.unlink(e.path)


class Tree:
    def __init__(self):
        load("target_core_mod", "target_core_user", "iscsi_target_mod")
        self.root = rtslib_fb.RTSRoot()
        self.fabric = rtslib_fb.FabricModule("iscsi")
        self.fabric._check_self()  # makes its folder; there is no public way but to make a target
        self.groups = {}  # iqn -> its TPG

    # --- reading ---

    def target_names(self):
        return {t.wwn for t in self.fabric.targets}

    def backstore_names(self):
        """Of user backstores, of whatever handler."""
        tcm.bs_cache.clear()  # rtslib's list of where each is: others may have made or deleted some
        return {os.path.basename(p.rstrip("/")) for p in glob.glob(f"{self.root.path}/core/user_*/*/")}

    def read_backstore(self, name):
        so = tcm.UserBackedStorageObject(name)
        config = so.config or ""
        if not so.is_configured() or not config.startswith(SUBTYPE):
            return Backstore("", 0, 0, "")
        return Backstore(config.removeprefix(SUBTYPE), so.size, int(so.get_attribute("hw_block_size")), so.wwn)

    def _read_chap(self, path):
        user, secret, mutual_user, mutual_secret = (
            _text(f"{path}/auth/{f}") for f in ("userid", "password", "userid_mutual", "password_mutual"))
        return Chap(user, secret, mutual_user, mutual_secret) if user or secret or mutual_user else None

    def _read_acl(self, acl):
        a = Acl(self._read_chap(acl.path))
        for p in glob.glob(f"{acl.path}/lun_*"):
            lun = _link(p)
            # One without a link is half made: -1 is no LUN, so it is taken down.
            a.luns[int(p.rsplit("_", 1)[1])] = int(lun.rsplit("_", 1)[1]) if lun else -1
        return a

    def read_target(self, iqn):
        target = rtslib_fb.Target(self.fabric, iqn, mode="lookup")
        if not os.path.isdir(f"{target.path}/tpgt_1"):
            return Target()
        g = rtslib_fb.TPG(target, 1, mode="lookup")
        t = Target(anyone=g.get_attribute("generate_node_acls") == "1",
                   authenticate=g.get_attribute("authentication") == "1", enabled=g.enable,
                   chap=self._read_chap(g.path), portals=set(os.listdir(f"{g.path}/np")), sessions=self.sessions(iqn))
        for p in glob.glob(f"{g.path}/lun/lun_*"):
            so = _link(p) or ""
            kind, name = so.split("/")[-2:] if so else ("", "")
            t.luns[int(p.rsplit("_", 1)[1])] = name if kind.startswith("user_") else so
        t.acls = {a.node_wwn: self._read_acl(a) for a in g.node_acls}
        return t

    def sessions(self, iqn):
        """How many initiators are logged in."""
        g = self._group(iqn)
        dynamic = fread(f"{g.path}/dynamic_sessions").replace("\0", "\n").split()
        return len(dynamic) + sum(not fread(f"{a.path}/info").startswith("No active") for a in g.node_acls)

    # --- backstores ---

    def create_backstore(self, name, b):
        def make():
            tcm.UserBackedStorageObject(name, config=SUBTYPE + b.lun, size=b.size, wwn=b.uuid,
                                        control=CONTROL.format(b.block_size))
        try:
            make()
        except rtslib_fb.RTSLibError:
            tcm.bs_cache.clear()  # a number that looked free may have been taken by others
            make()

    def resize_backstore(self, name, size):
        tcm.UserBackedStorageObject(name).set_attribute("dev_size", size)

    def delete_backstore(self, name):
        so = tcm.UserBackedStorageObject(name)
        CFSNode.delete(so)
        so._backstore.delete()

    # --- targets ---

    def _group(self, iqn):
        if iqn not in self.groups:
            target = rtslib_fb.Target(self.fabric, iqn, mode="lookup")
            self.groups[iqn] = rtslib_fb.TPG(target, 1)
        return self.groups[iqn]

    def create_target(self, iqn):
        self.groups.pop(iqn, None)
        rtslib_fb.Target(self.fabric, iqn)
        self._group(iqn)

    def delete_target(self, iqn):
        g = self._group(iqn)
        CFSNode.delete(g)
        CFSNode.delete(g.parent_target)
        del self.groups[iqn]

    def set_access(self, iqn, anyone, authenticate):
        g = self._group(iqn)
        g.set_attribute("authentication", int(authenticate))
        g.set_attribute("generate_node_acls", int(anyone))
        g.set_attribute("demo_mode_write_protect", 0)  # for initiators without an ACL

    def _write_chap(self, node, chap):
        chap = chap or Chap("", "")
        node.chap_userid, node.chap_password = chap.user, chap.secret
        node.chap_mutual_userid, node.chap_mutual_password = chap.mutual_user, chap.mutual_secret

    def set_chap(self, iqn, chap):
        self._write_chap(self._group(iqn), chap)

    def enable(self, iqn, on):
        self._group(iqn).enable = on

    def add_lun(self, iqn, number, backstore):
        rtslib_fb.LUN(self._group(iqn), number, storage_object=tcm.UserBackedStorageObject(backstore))

    def remove_lun(self, iqn, number):
        folder = f"{self._group(iqn).path}/lun/lun_{number}"
        _drop_link(folder)
        os.rmdir(folder)

    def add_portal(self, iqn, portal):
        address, port = portal.rsplit(":", 1)
        rtslib_fb.NetworkPortal(self._group(iqn), address, int(port), mode="create")

    def remove_portal(self, iqn, portal):
        address, port = portal.rsplit(":", 1)
        rtslib_fb.NetworkPortal(self._group(iqn), address, int(port), mode="lookup").delete()

    def _acl(self, iqn, initiator, mode="lookup"):
        return rtslib_fb.NodeACL(self._group(iqn), initiator, mode=mode)

    def add_acl(self, iqn, initiator):
        self._acl(iqn, initiator, mode="create")

    def remove_acl(self, iqn, initiator):
        CFSNode.delete(self._acl(iqn, initiator))

    def set_acl_chap(self, iqn, initiator, chap):
        self._write_chap(self._acl(iqn, initiator), chap)

    def map_lun(self, iqn, initiator, number, lun):
        folder = f"{self._acl(iqn, initiator).path}/lun_{number}"
        os.mkdir(folder)
        os.symlink(f"{self._group(iqn).path}/lun/lun_{lun}", f"{folder}/ebb")
        with open(f"{folder}/write_protect", "w", encoding="ascii") as f:
            f.write("0")  # the LUN itself says whether it takes writes

    def unmap_lun(self, iqn, initiator, number):
        folder = f"{self._acl(iqn, initiator).path}/lun_{number}"
        _drop_link(folder)
        os.rmdir(folder)
