# SPDX-License-Identifier: GPL-2.0-or-later
"""The steps that lead LIO from what is there to what is declared. Pure: it looks at nothing but its arguments.

Steps are ordered so that they work: what goes is taken down from the outside in (mappings, LUNs, targets, then
backstores), what comes is built from the inside out, and a target is enabled last, when nobody can find it open by
mistake. What does not differ is not touched, nor are its sessions.

A step belongs to a unit - one backstore, target, LUN, portal, ACL - and names the units that it needs. When one fails,
only what needs it is left out; all else goes on. What cannot be done at all is a problem with the name of the export.

What is not ours is never touched: names that are there and not in the record of what we made are a problem.
"""
import dataclasses

from .state import BACKSTORE_PREFIX, State, Target


@dataclasses.dataclass(frozen=True)
class Step:
    verb: str  # of State and configfs.Tree
    args: tuple = dataclasses.field(repr=False)  # may hold secrets
    name: str  # of the export, for people
    text: str
    unit: tuple
    needs: tuple = ()


@dataclasses.dataclass(frozen=True)
class Problem:
    name: str
    text: str


FOREIGN = "is there and not made by ebb-lio: left alone (`ebb-lio apply --adopt` takes it over)"


class Plan:
    def __init__(self):
        self.steps, self.problems = [], []

    def step(self, verb, args, name, text, unit, *needs):
        self.steps.append(Step(verb, args, name, text, unit, needs))

    def problem(self, name, text):
        if Problem(name, text) not in self.problems:
            self.problems.append(Problem(name, text))


def _lun_of(backstore):
    return backstore.removeprefix(BACKSTORE_PREFIX)


def _same_disk(a, b):
    return (a.lun, a.block_size, a.uuid) == (b.lun, b.block_size, b.uuid) and a.size <= b.size


class _Maker:
    """One plan in the making."""

    def __init__(self, desired, live, owned, foreign, force):
        self.want, self.live, self.owned, self.force = State(), live, owned, force
        self.plan = Plan()
        self.remade = set()  # backstores that are deleted and created again
        self._want_backstores(desired, foreign)
        self._want_targets(desired, foreign)

    # --- what can be wanted ---

    def _want_backstores(self, desired, foreign):
        for name, b in desired.backstores.items():
            if name not in foreign:
                self.want.backstores[name] = b
        for t in desired.targets.values():
            for name in t.luns.values():
                if name not in desired.backstores and name in self.live.backstores and name in self.owned:
                    self.want.backstores[name] = self.live.backstores[name]  # the LUN may come back: it stays

    def _want_targets(self, desired, foreign):
        for iqn, t in desired.targets.items():
            if iqn in foreign:
                self.plan.problem(iqn, f"a target of this name {FOREIGN}")
                continue
            for name in sorted(set(t.luns.values())):
                if name not in desired.backstores:
                    self.plan.problem(iqn, f"LUN '{_lun_of(name)}' does not run")
                elif name in foreign:
                    self.plan.problem(iqn, f"LUN '{_lun_of(name)}': a backstore {name} {FOREIGN}")
            luns = {n: name for n, name in t.luns.items() if name in self.want.backstores}
            acls = {i: dataclasses.replace(a, luns={m: n for m, n in a.luns.items() if n in luns})
                    for i, a in t.acls.items()}
            self.want.targets[iqn] = dataclasses.replace(t, luns=luns, acls=acls)

    def _gone_targets(self):
        """Ours, there, and not wanted."""
        for iqn, t in sorted(self.live.targets.items()):
            if iqn in self.owned and iqn not in self.want.targets:
                if t.sessions and not self.force:
                    self.plan.problem(iqn, f"busy: {t.sessions} session{'s' if t.sessions > 1 else ''}")
                    self.want.targets[iqn] = t  # as it is
                    for name in t.luns.values():
                        if name in self.live.backstores:  # others may have added one of theirs
                            self.want.backstores.setdefault(name, self.live.backstores[name])
                else:
                    yield iqn

    # --- steps ---

    def _unmap(self, iqn, initiator, number):
        self.plan.step("unmap_lun", (iqn, initiator, number), iqn, f"initiator {initiator} loses LUN {number}",
                       ("map", iqn, initiator, number))

    def _remove_acl(self, iqn, initiator, acl):
        for number in sorted(acl.luns):
            self._unmap(iqn, initiator, number)
        self.plan.step("remove_acl", (iqn, initiator), iqn, f"initiator {initiator} may no longer log in",
                       ("acl", iqn, initiator), *(("map", iqn, initiator, n) for n in acl.luns))

    def _remove_lun(self, iqn, number, t):
        self.plan.step("remove_lun", (iqn, number), iqn, f"LUN {number} goes", ("lun", iqn, number),
                       *(("map", iqn, i, m) for i, a in t.acls.items() for m, n in a.luns.items() if n == number))

    def _remove_portal(self, iqn, portal):
        self.plan.step("remove_portal", (iqn, portal), iqn, f"no longer at {portal}", ("portal", iqn, portal))

    def _remove_target(self, iqn):
        t = self.live.targets[iqn]
        if t.enabled:
            self.plan.step("enable", (iqn, False), iqn, "is disabled", ("enable", iqn))
        for initiator, acl in sorted(t.acls.items()):
            self._remove_acl(iqn, initiator, acl)
        for number in sorted(t.luns):
            self._remove_lun(iqn, number, t)
        for portal in sorted(t.portals):
            self._remove_portal(iqn, portal)
        self.plan.step("delete_target", (iqn,), iqn, "is removed", ("target", iqn),
                       *(("acl", iqn, i) for i in t.acls), *(("lun", iqn, n) for n in t.luns),
                       *(("portal", iqn, p) for p in t.portals))

    def _stays(self, have, want, number):
        """Whether LUN @number of a target is what it shall be, and stays through this plan."""
        return have.luns[number] == want.luns.get(number) and have.luns[number] not in self.remade

    def _closes(self, have, want):
        """Whether somebody may be logged in who would not be let in any more."""
        return have.enabled and ((have.anyone and not want.anyone) or (want.authenticate and not have.authenticate))

    def _take_down(self, iqn, have, want):
        """What goes of a target that stays."""
        if self._closes(have, want):
            self.plan.step("enable", (iqn, False), iqn, "ends its sessions: fewer may log in", ("enable", iqn))
        for initiator, acl in sorted(have.acls.items()):
            if initiator not in want.acls:
                self._remove_acl(iqn, initiator, acl)
                continue
            for number, lun in sorted(acl.luns.items()):
                if want.acls[initiator].luns.get(number) != lun or not self._stays(have, want, lun):
                    self._unmap(iqn, initiator, number)
        for number in sorted(have.luns):
            if not self._stays(have, want, number):
                self._remove_lun(iqn, number, have)
        for portal in sorted(have.portals - want.portals):
            self._remove_portal(iqn, portal)

    def _build_access(self, iqn, have, want):
        target = ("target", iqn)
        if (have.anyone, have.authenticate) != (want.anyone, want.authenticate):
            who = "every initiator" if want.anyone else "declared initiators"
            how = "with CHAP" if want.authenticate else "without CHAP"
            self.plan.step("set_access", (iqn, want.anyone, want.authenticate), iqn, f"{who} may log in, {how}",
                           ("access", iqn), target)
        if have.chap != want.chap:
            self.plan.step("set_chap", (iqn, want.chap), iqn, "CHAP differs", ("access", iqn), target)

    def _build_acl(self, iqn, initiator, have, want, have_target):
        unit = ("acl", iqn, initiator)
        if have is None:
            self.plan.step("add_acl", (iqn, initiator), iqn, f"initiator {initiator} may log in", unit,
                           ("target", iqn))
        if (have.chap if have else None) != want.chap:
            self.plan.step("set_acl_chap", (iqn, initiator, want.chap), iqn, f"CHAP of {initiator} differs", unit,
                           unit)
        for number, lun in sorted(want.luns.items()):
            if have and have.luns.get(number) == lun and self._stays(have_target, self.want.targets[iqn], lun):
                continue
            self.plan.step("map_lun", (iqn, initiator, number, lun), iqn,
                           f"initiator {initiator} is shown LUN {lun} as {number}", ("map", iqn, initiator, number),
                           unit, ("lun", iqn, lun), ("map", iqn, initiator, number))

    def _build(self, iqn, want):
        have = self.live.targets.get(iqn)
        target = ("target", iqn)
        if have is None:
            have = Target()
            self.plan.step("create_target", (iqn,), iqn, "is created", target)
        self._build_access(iqn, have, want)
        for number, name in sorted(want.luns.items()):
            if number not in have.luns or not self._stays(have, want, number):
                self.plan.step("add_lun", (iqn, number, name), iqn, f"LUN {number} is {_lun_of(name)}",
                               ("lun", iqn, number), target, ("backstore", name), ("lun", iqn, number))
        for initiator, acl in sorted(want.acls.items()):
            self._build_acl(iqn, initiator, have.acls.get(initiator), acl, have)
        for portal in sorted(want.portals - have.portals):
            self.plan.step("add_portal", (iqn, portal), iqn, f"listens at {portal}", ("portal", iqn, portal), target)
        if want.enabled and (not have.enabled or self._closes(have, want)):
            self.plan.step("enable", (iqn, True), iqn, "is enabled", ("enable", iqn), target, ("access", iqn))

    def _backstore_steps(self):
        for name, b in sorted(self.live.backstores.items()):
            if name in self.owned and (name not in self.want.backstores or name in self.remade):
                self.plan.step("delete_backstore", (name,), name, "is deleted", ("backstore", name),
                               *(("lun", iqn, n) for iqn, t in self.live.targets.items()
                                 for n, shown in t.luns.items() if shown == name))
        for name, b in sorted(self.want.backstores.items()):
            have = self.live.backstores.get(name)
            unit = ("backstore", name)
            if have is None or name in self.remade:
                self.plan.step("create_backstore", (name, b), name, f"is created for LUN {b.lun}", unit, unit)
            elif have.size < b.size:
                self.plan.step("resize_backstore", (name, b.size), name, f"grows to {b.size} bytes", unit)

    def make(self):
        for iqn in list(self._gone_targets()):
            self._remove_target(iqn)
        for name, b in self.want.backstores.items():
            if name in self.live.backstores and not _same_disk(self.live.backstores[name], b):
                self.remade.add(name)
        for iqn, want in sorted(self.want.targets.items()):
            if iqn in self.live.targets:
                self._take_down(iqn, self.live.targets[iqn], want)
        self._backstore_steps()
        for iqn, want in sorted(self.want.targets.items()):
            self._build(iqn, want)
        return self.plan


def make(desired, live, owned, foreign=frozenset(), force=False):
    """The Plan from @live to @desired (States). @owned: names of targets and backstores that are ours, whether they
    are there or not; @foreign: names that are there and not ours. @force: end the sessions of what goes."""
    return _Maker(desired, live, owned, foreign, force).make()


def take(plan, tree, model, before=lambda step: None):
    """Takes the steps of @plan on @tree, and on @model those that worked. Returns the problems, the plan's own and
    those met, and the units that failed."""
    problems, failed = list(plan.problems), set()
    for step in plan.steps:
        if failed.intersection(step.needs):
            failed.add(step.unit)
            continue
        try:
            before(step)
            getattr(tree, step.verb)(*step.args)
        except Exception as e:  # rtslib's, and what configfs says of a write
            failed.add(step.unit)
            problems.append(Problem(step.name, f"{step.text}: {e}"))
        else:
            getattr(model, step.verb)(*step.args)
    return problems, failed
