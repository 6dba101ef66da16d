# SPDX-License-Identifier: GPL-2.0-or-later
"""ebb-lio's way from a declaration to the kernel's target, with a fake kernel that keeps the real one's rules."""
import copy
import json

import pytest
from liolib import FakeTree

from ebb_lio.record import Record
from ebb_lio.service import Service
from ebb_lio.state import Backstore, Chap, Target, backstore_name, from_desired

pytestmark = pytest.mark.plain(reason="none of our programs is in it")
IQN = "iqn.2026-11.local.ebb:t"
HOST = "iqn.1993-08.org.debian:01:host"
HOST2 = "iqn.1993-08.org.debian:01:host2"


def lun(size=1 << 30, block_size=512, uuid="u"):
    return {"size": size, "block_size": block_size, "uuid": uuid}


def target(luns, iqn=IQN, portals=("127.0.0.1:3261",), acls=(), chap=None):
    t = {"iqn": iqn, "portals": list(portals), "luns": [{"number": n, "lun": name} for n, name in luns],
         "acls": [{"initiator": i, "luns": [{"number": n, "lun": name} for n, name in shown],
                   **({"chap": c} if c else {})} for i, shown, c in acls]}
    return {**t, **({"chap": chap} if chap else {})}


def declare(*targets, **luns):
    return from_desired({"generation": 1, "targets": list(targets), "luns": luns})


@pytest.fixture
def tree():
    return FakeTree()


@pytest.fixture
def service(tree, tmp_path):
    return Service(tree, Record(str(tmp_path / "state/owned.json")))


def apply(service, desired, problems=()):
    """Applies and checks that LIO is then what was declared, or that all @problems are told, and that the model is
    what the kernel has."""
    if service.model is None:
        service.read(desired)
    told = service.apply(desired)
    assert [(p.name, p.text) for p in told] == list(problems)
    ours = service.record.names
    assert service.model.targets == {n: t for n, t in service.tree.targets.items() if n in ours}
    assert service.model.backstores == {n: b for n, b in service.tree.backstores.items() if n in ours}
    if not problems:
        assert service.model.targets == desired.targets
        assert service.model.backstores == desired.backstores
        assert service.plan(desired).steps == []
    return service.tree.verbs()


CHAP = {"user": "u", "secret": "s" * 12, "mutual": {"user": "m", "secret": "t" * 12}}
FULL = declare(target([(0, "a"), (5, "b")], portals=["127.0.0.1:3261", "[::1]:3261"],
                      acls=[(HOST, [(0, "a"), (1, "b")], CHAP), (HOST2, [(0, "b")], {**CHAP, "user": "v"})]),
               a=lun(), b=lun(2 << 30, 4096, "v"))


def test_from_nothing(service, tree):
    verbs = apply(service, FULL)
    assert verbs[-1] == "enable"  # when all else is there
    t = tree.targets[IQN]
    assert (t.anyone, t.authenticate, t.enabled) == (False, True, True)
    assert t.luns == {0: "ebb-a", 5: "ebb-b"}
    assert t.acls[HOST].luns == {0: 0, 1: 5} and t.acls[HOST2].luns == {0: 5}
    assert t.acls[HOST].chap == Chap("u", "s" * 12, "m", "t" * 12)
    assert tree.backstores["ebb-b"] == Backstore("b", 2 << 30, 4096, "v")


def test_twice_is_once(service):
    apply(service, FULL)
    assert apply(service, FULL) == []


def test_everybody_may_log_in_where_nobody_is_named(service, tree):
    apply(service, declare(target([(0, "a")], chap=CHAP), a=lun()))
    t = tree.targets[IQN]
    assert t.anyone and t.authenticate and t.chap.user == "u" and not t.acls


def test_back_to_nothing(service, tree):
    apply(service, FULL)
    assert apply(service, declare())[0] == "enable"  # first the door is shut
    assert not tree.targets and not tree.backstores
    assert service.record.names == set()


@pytest.mark.parametrize("n", [1, 200])
def test_a_new_lun_costs_the_same_among_many(service, tree, n):
    luns = [(i, f"l{i}") for i in range(n)]
    there = {name: lun() for _, name in luns}
    apply(service, declare(target(luns, acls=[(HOST, luns, None)]), **there))
    more = luns + [(n, "new")]
    verbs = apply(service, declare(target(more, acls=[(HOST, more, None)]), **there, new=lun()))
    assert verbs == ["create_backstore", "add_lun", "map_lun"]


def test_nothing_is_read_again_for_a_change(service, tree):
    apply(service, declare(target([(0, "a")]), a=lun()))
    tree.calls.clear()
    service.apply(declare(target([(0, "a"), (1, "b")]), a=lun(), b=lun()))
    assert not [c for c, _ in tree.calls if c.startswith("read")]


def test_a_lun_that_goes(service, tree):
    apply(service, FULL)
    verbs = apply(service, declare(target([(0, "a")], acls=[(HOST, [(0, "a")], CHAP)]), a=lun()))
    assert verbs.index("unmap_lun") < verbs.index("remove_lun") < verbs.index("delete_backstore")
    assert "enable" not in verbs and "delete_target" not in verbs  # the sessions of the other LUN go on


def test_a_number_passes_from_one_lun_to_another(service, tree):
    both = {"a": lun(), "b": lun(uuid="v")}
    apply(service, declare(target([(0, "a"), (1, "b")], acls=[(HOST, [(0, "a"), (1, "b")], None)]), **both))
    apply(service, declare(target([(0, "b"), (1, "a")], acls=[(HOST, [(0, "b"), (1, "a")], None)]), **both))
    assert tree.targets[IQN].luns == {0: "ebb-b", 1: "ebb-a"}


def test_growth_touches_the_backstore_alone(service):
    apply(service, declare(target([(0, "a")]), a=lun()))
    assert apply(service, declare(target([(0, "a")]), a=lun(2 << 30))) == ["resize_backstore"]


def test_another_lun_of_the_same_name_is_another_backstore(service, tree):
    apply(service, declare(target([(0, "a")], acls=[(HOST, [(3, "a")], None)]), a=lun()))
    verbs = apply(service, declare(target([(0, "a")], acls=[(HOST, [(3, "a")], None)]), a=lun(uuid="other")))
    assert verbs == ["unmap_lun", "remove_lun", "delete_backstore", "create_backstore", "add_lun", "map_lun"]


def test_portals_come_and_go(service):
    apply(service, declare(target([(0, "a")], portals=["127.0.0.1:1"]), a=lun()))
    assert apply(service, declare(target([(0, "a")], portals=["127.0.0.1:2"]), a=lun())) == ["remove_portal",
                                                                                             "add_portal"]


def test_a_secret_changes_without_a_disturbance(service):
    apply(service, FULL)
    other = copy.deepcopy(FULL)
    other.targets[IQN].acls[HOST].chap = Chap("u", "x" * 12)
    assert apply(service, other) == ["set_acl_chap"]


def test_fewer_may_log_in_ends_sessions(service):
    apply(service, declare(target([(0, "a")]), a=lun()))
    verbs = apply(service, declare(target([(0, "a")], acls=[(HOST, [(0, "a")], None)]), a=lun()))
    assert verbs[0] == verbs[-1] == "enable"  # shut, and open again
    verbs = apply(service, declare(target([(0, "a")], acls=[(HOST, [(0, "a")], CHAP)]), a=lun()))
    assert verbs[0] == verbs[-1] == "enable"
    verbs = apply(service, declare(target([(0, "a")]), a=lun()))  # more may
    assert "enable" not in verbs


# --- what is somebody else's ---


def test_a_foreign_target_is_never_touched(service, tree):
    tree.create_target("iqn.2003-01.org.linux-iscsi:mine")
    tree.create_target(IQN)
    tree.create_backstore("ebb-x", Backstore("x", 1, 512, ""))
    before = copy.deepcopy(tree.targets), copy.deepcopy(tree.backstores)
    tree.verbs()
    desired = declare(target([(0, "a")]), target([(0, "b")], iqn=IQN + "2"), a=lun(), b=lun())
    service.read(desired)
    told = service.apply(desired)
    assert [p.name for p in told] == [IQN] and "not made by ebb-lio" in told[0].text
    assert tree.targets.pop(IQN + "2").enabled  # all else is done
    del tree.backstores["ebb-a"], tree.backstores["ebb-b"]
    assert (tree.targets, tree.backstores) == before


def test_a_foreign_backstore_is_not_shown(service, tree):
    tree.create_backstore("ebb-a", Backstore("a", 5, 512, ""))
    desired = declare(target([(0, "a"), (1, "b")]), a=lun(), b=lun())
    service.read(desired)
    told = service.apply(desired)
    assert [p.name for p in told] == [IQN] and "'a'" in told[0].text
    assert tree.targets[IQN].luns == {1: "ebb-b"} and tree.backstores["ebb-a"].size == 5


def test_a_foreign_target_that_goes_makes_room(service, tree):
    tree.create_target(IQN)
    desired = declare(target([(0, "a")]), a=lun())
    service.read(desired)
    assert service.apply(desired)
    tree.delete_target(IQN)
    apply(service, desired)


def test_adopted(service, tree):
    tree.create_target(IQN)
    tree.create_backstore("ebb-a", Backstore("", 0, 0, ""))  # half made
    tree.add_portal(IQN, "127.0.0.1:9")
    desired = declare(target([(0, "a")]), a=lun())
    service.read(desired, adopt=True)
    apply(service, desired)


# --- the life of the machine ---


def another(service, tree, tmp_path):
    """The next ebb-lio."""
    return Service(tree, Record(service.record.path))


def test_after_a_reboot_all_is_made_again(service, tree, tmp_path):
    apply(service, FULL)
    apply(another(service, FakeTree(), tmp_path), FULL)


def test_what_others_did_to_ours_is_undone_at_the_next_start(service, tree, tmp_path):
    apply(service, FULL)
    tree.unmap_lun(IQN, HOST2, 0)
    tree.remove_acl(IQN, HOST2)
    tree.enable(IQN, False)
    tree.add_portal(IQN, "127.0.0.1:9")
    tree.set_access(IQN, True, False)
    tree.resize_backstore("ebb-a", 512)
    tree.verbs()
    apply(another(service, tree, tmp_path), FULL)


def test_what_went_out_of_the_declaration_while_nobody_watched_goes(service, tree, tmp_path):
    apply(service, FULL)
    apply(another(service, tree, tmp_path), declare())


def test_killed_between_any_two_steps(tree, tmp_path):
    class Killed(BaseException):
        pass

    def told(step):
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed

    changed = declare(target([(0, "b"), (2, "c")], acls=[(HOST, [(0, "c")], CHAP)]), b=lun(2 << 30, 4096, "v"), c=lun())
    for begin, end in ((declare(), FULL), (FULL, changed), (changed, declare())):
        cut, done = 0, False
        while not done:
            tree = FakeTree()
            path = str(tmp_path / f"{id(begin)}-{cut}.json")
            apply(Service(tree, Record(path)), begin)
            s, left = Service(tree, Record(path)), cut
            s.read(end)
            try:
                s.apply(end, told)
                done = True
            except Killed:
                pass
            apply(Service(tree, Record(path)), end)
            cut += 1
        assert cut > 5


def test_a_record_that_cannot_be_read_stops_all(tmp_path):
    path = tmp_path / "owned.json"
    path.write_text("{")
    with pytest.raises(RuntimeError, match="owned.json"):
        Record(str(path))


def test_a_plan_writes_nothing(tree, tmp_path):
    s = Service(tree, Record(str(tmp_path / "none/owned.json"), keep=True))
    s.read(FULL)
    assert len(s.plan(FULL).steps) > 10
    assert tree.verbs() == [] and not (tmp_path / "none").exists()


# --- failures ---


def test_one_export_fails_and_the_others_do_not(service, tree):
    tree.failing = {("create_target", IQN)}
    desired = declare(target([(0, "a")]), target([(0, "b")], iqn=IQN + "2"), a=lun(), b=lun())
    apply(service, desired, [(IQN, "is created: the kernel says no to create_target")])
    assert tree.targets[IQN + "2"].enabled and tree.targets[IQN + "2"].luns
    tree.failing = set()
    apply(service, desired)


def test_a_backstore_fails_and_the_other_luns_of_its_target_do_not(service, tree):
    tree.failing = {("create_backstore", "ebb-a")}
    apply(service, FULL, [("ebb-a", "is created for LUN a: the kernel says no to create_backstore")])
    t = tree.targets[IQN]
    assert t.luns == {5: "ebb-b"} and t.acls[HOST].luns == {1: 5} and t.enabled
    tree.failing = set()
    assert apply(service, FULL) == ["create_backstore", "add_lun", "map_lun"]


def test_a_target_whose_door_cannot_be_set_stays_shut(service, tree):
    tree.failing = {"set_access"}
    service.read(FULL)
    assert [p.name for p in service.apply(FULL)] == [IQN]
    assert not tree.targets[IQN].enabled


@pytest.mark.parametrize("verb", ["add_portal", "add_acl", "set_acl_chap", "map_lun", "add_lun", "enable"])
def test_any_failure_is_put_right_later(service, tree, verb):
    tree.failing = {verb}
    service.read(FULL)
    assert {p.name for p in service.apply(FULL)} == {IQN}
    tree.failing = set()
    apply(service, FULL)


@pytest.mark.parametrize("verb", ["unmap_lun", "remove_lun", "remove_acl", "remove_portal", "delete_target",
                                  "delete_backstore", "enable"])
def test_any_removal_that_fails_is_done_later(service, tree, verb):
    apply(service, FULL)
    tree.failing = {verb}
    assert service.apply(declare())
    tree.failing = set()
    apply(service, declare())
    assert service.record.names == set()


def test_a_lun_that_does_not_run(service, tree):
    missing = declare(target([(0, "a"), (1, "b")]), b=lun())
    apply(service, missing, [(IQN, "LUN 'a' does not run")])
    assert tree.targets[IQN].luns == {1: "ebb-b"}
    apply(service, declare(target([(0, "a"), (1, "b")]), a=lun(), b=lun()))
    tree.verbs()
    apply(service, missing, [(IQN, "LUN 'a' does not run")])
    assert tree.targets[IQN].luns == {0: "ebb-a", 1: "ebb-b"}  # it may come back: its commands wait


def test_a_target_with_sessions_does_not_go(service, tree):
    apply(service, FULL)
    tree.logged_in = {IQN: 2}
    apply(service, declare(), [(IQN, "busy: 2 sessions")])
    assert tree.targets[IQN] == FULL.targets[IQN]
    tree.logged_in = {}
    apply(service, declare())


def test_a_busy_target_may_show_what_others_have(service, tree):
    """Somebody has added a backstore of his own to a target of ours, which is to go and has sessions."""
    apply(service, FULL)
    tree.backstores["theirs"] = Backstore("theirs", 1 << 20, 512, "w")
    tree.targets[IQN].luns[7] = "theirs"
    tree.logged_in = {IQN: 1}
    service.model = None
    apply(service, declare(), [(IQN, "busy: 1 session")])
    assert tree.targets[IQN].luns[7] == "theirs" and set(tree.backstores) == {"ebb-a", "ebb-b", "theirs"}
    tree.logged_in = {}
    apply(service, declare())
    assert set(tree.backstores) == {"theirs"}


@pytest.mark.parametrize("desired", [
    lambda: declare(target([(0, "../a")]), a=lun()),
    lambda: declare(target([("0/../../x", "a")]), a=lun()),
    lambda: declare(target([(0, "a")], iqn="iqn.2026-11.local.ebb:t/../u"), a=lun()),
    lambda: declare(target([(0, "a")], iqn=".."), a=lun()),
    lambda: declare(target([(0, "a")], portals=["127.0.0.1:3261/.."]), a=lun()),
    lambda: declare(target([(0, "a")], acls=[(f"{HOST}/..", [(0, "a")], None)]), a=lun()),
    lambda: declare(target([(0, "a")], acls=[(HOST, [("0/..", "a")], None)]), a=lun()),
    lambda: declare(**{"../a": lun()}),
])
def test_a_daemon_that_is_not_itself_leads_root_nowhere(desired):
    """Names become folders."""
    with pytest.raises((RuntimeError, ValueError)):
        desired()


def test_force_ends_the_sessions(tree, tmp_path):
    s = Service(tree, Record(str(tmp_path / "owned.json")), force=True)
    apply(s, FULL)
    tree.logged_in = {IQN: 2}
    apply(s, declare())


def test_no_secret_in_what_is_told(service, tree):
    said = []
    service.read(FULL)
    service.apply(FULL, lambda step: said.append(f"{step.text} {step!r}"))
    tree.failing = {"set_acl_chap"}
    other = copy.deepcopy(FULL)
    for acl in other.targets[IQN].acls.values():
        acl.chap = Chap("u", "x" * 12, "m", "y" * 12)
    problems = service.apply(other)
    assert problems
    text = " ".join(said) + repr(problems) + repr(service.model.targets) + json.dumps(sorted(service.record.names))
    for secret in ("s" * 12, "t" * 12, "x" * 12, "y" * 12):
        assert secret not in text


def test_names_of_one_case(service, tree):
    apply(service, declare(target([(0, "a")], iqn="naa.5000C50000000001", acls=[("eui.00AA00AA00AA00AA", [(0, "a")], None)]),
                           a=lun()))
    assert set(tree.targets) == {"naa.5000c50000000001"}


def test_the_model_refuses_what_the_kernel_would():
    t = FakeTree()
    t.create_target(IQN)
    with pytest.raises(ValueError):
        t.add_lun(IQN, 0, backstore_name("a"))
    t.targets[IQN] = Target(luns={0: "ebb-a"})
    with pytest.raises(ValueError):
        t.delete_target(IQN)
