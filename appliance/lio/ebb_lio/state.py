# SPDX-License-Identifier: GPL-2.0-or-later
"""What LIO exports, as plain data.

One form serves three ends: what is declared (from_desired), what is there (configfs.Tree.read), and a model of the
latter that follows each step taken, so that configfs is not read again for each of a thousand LUNs. The verbs of
State are those of configfs.Tree and keep the kernel's rules: a LUN needs its backstore, a mapping its LUN. That a
verb breaks them is a mistake of the plan, not of the world: it raises KeyError or ValueError.
"""
import dataclasses

BACKSTORE_PREFIX = "ebb-"


def backstore_name(lun):
    return BACKSTORE_PREFIX + lun


@dataclasses.dataclass(frozen=True)
class Chap:
    user: str
    secret: str = dataclasses.field(repr=False)
    mutual_user: str = ""
    mutual_secret: str = dataclasses.field(default="", repr=False)


@dataclasses.dataclass
class Backstore:
    lun: str  # of the appliance; "": it is half made
    size: int  # bytes
    block_size: int
    uuid: str


@dataclasses.dataclass
class Acl:
    chap: Chap | None = None
    luns: dict[int, int] = dataclasses.field(default_factory=dict)  # number shown to the initiator -> number there


@dataclasses.dataclass
class Target:
    luns: dict[int, str] = dataclasses.field(default_factory=dict)  # number -> backstore
    acls: dict[str, Acl] = dataclasses.field(default_factory=dict)  # by initiator
    portals: set[str] = dataclasses.field(default_factory=set)
    chap: Chap | None = None  # of initiators without an ACL
    anyone: bool | None = None  # initiators without an ACL may log in; None: it was never said
    authenticate: bool | None = None
    enabled: bool = False
    sessions: int = dataclasses.field(default=0, compare=False)  # when it was read


class State:
    def __init__(self):
        self.backstores = {}  # name -> Backstore
        self.targets = {}  # iqn -> Target

    # --- backstores ---

    def create_backstore(self, name, backstore):
        if name in self.backstores:
            raise ValueError(name)
        self.backstores[name] = dataclasses.replace(backstore)

    def resize_backstore(self, name, size):
        self.backstores[name].size = size

    def delete_backstore(self, name):
        if any(name in t.luns.values() for t in self.targets.values()):
            raise ValueError(f"{name} is shown")
        del self.backstores[name]

    # --- targets ---

    def create_target(self, iqn):
        if iqn in self.targets:
            raise ValueError(iqn)
        self.targets[iqn] = Target()

    def delete_target(self, iqn):
        t = self.targets[iqn]
        if t.luns or t.acls or t.portals:
            raise ValueError(f"{iqn} is not empty")
        del self.targets[iqn]

    def set_access(self, iqn, anyone, authenticate):
        t = self.targets[iqn]
        t.anyone, t.authenticate = anyone, authenticate

    def set_chap(self, iqn, chap):
        self.targets[iqn].chap = chap

    def enable(self, iqn, on):
        self.targets[iqn].enabled = on

    def add_lun(self, iqn, number, backstore):
        if number in self.targets[iqn].luns or backstore not in self.backstores:
            raise ValueError(f"{iqn} {number} {backstore}")
        self.targets[iqn].luns[number] = backstore

    def remove_lun(self, iqn, number):
        t = self.targets[iqn]
        if any(number in a.luns.values() for a in t.acls.values()):
            raise ValueError(f"{iqn}: {number} is mapped")
        del t.luns[number]

    def add_portal(self, iqn, portal):
        if portal in self.targets[iqn].portals:
            raise ValueError(portal)
        self.targets[iqn].portals.add(portal)

    def remove_portal(self, iqn, portal):
        self.targets[iqn].portals.remove(portal)

    def add_acl(self, iqn, initiator):
        if initiator in self.targets[iqn].acls:
            raise ValueError(initiator)
        self.targets[iqn].acls[initiator] = Acl()

    def remove_acl(self, iqn, initiator):
        if self.targets[iqn].acls[initiator].luns:
            raise ValueError(f"{iqn} {initiator} is mapped to")
        del self.targets[iqn].acls[initiator]

    def set_acl_chap(self, iqn, initiator, chap):
        self.targets[iqn].acls[initiator].chap = chap

    def map_lun(self, iqn, initiator, number, lun):
        t = self.targets[iqn]
        if number in t.acls[initiator].luns or lun not in t.luns:
            raise ValueError(f"{iqn} {initiator} {number} {lun}")
        t.acls[initiator].luns[number] = lun

    def unmap_lun(self, iqn, initiator, number):
        del self.targets[iqn].acls[initiator].luns[number]


# --- what is declared ---


def _name(text):
    """Names become folders below configfs, made by root: the daemon, which is not, shall not lead us elsewhere."""
    if "/" in text or text in ("", ".", ".."):
        raise RuntimeError(f"not a name: {text!r}")
    return text


def _luns(mappings):
    return {int(m["number"]): backstore_name(_name(m["lun"])) for m in mappings}


def _chap(o):
    if not o:
        return None
    mutual = o.get("mutual") or {"user": "", "secret": ""}
    return Chap(o["user"], o["secret"], mutual["user"], mutual["secret"])


def _acl(o, target):
    number_of = {}
    for number, name in sorted(target.luns.items(), reverse=True):
        number_of[name] = number  # the lowest, where a LUN is shown twice
    luns = {number: number_of[name] for number, name in _luns(o["luns"]).items() if name in number_of}
    return Acl(_chap(o.get("chap")), luns)


def _target(o):
    t = Target(luns=_luns(o["luns"]), portals=set(map(_name, o["portals"])), enabled=True)
    t.acls = {_name(a["initiator"]).lower(): _acl(a, t) for a in o["acls"]}
    t.anyone = not t.acls
    t.chap = _chap(o.get("chap")) if t.anyone else None
    t.authenticate = bool(t.chap or any(a.chap for a in t.acls.values()))
    return t


def from_desired(desired):
    """The State that the appliance's answer to `lio.desired` asks for. A LUN that does not run has no backstore in
    it, but is shown by its targets: the plan says what becomes of that."""
    s = State()
    for lun, o in desired["luns"].items():
        s.backstores[backstore_name(_name(lun))] = Backstore(lun, o["size"], o["block_size"], o["uuid"])
    for o in desired["targets"]:
        s.targets[_name(o["iqn"]).lower()] = _target(o)
    return s
