# SPDX-License-Identifier: GPL-2.0-or-later
"""The appliance's declaration, the kernel's target, and the record of what is ours, brought together.

The live state is read once and then followed by a model (state.State), so that a change costs what it changes. It is
read again when a step has failed (of what failed), on SIGHUP, and at the next start: whatever somebody else has
done to what is ours in between is undone then, for the declaration is what counts. Nothing ever flows back into it.
"""
from . import plan
from .state import State


class Service:
    def __init__(self, tree, record, force=False):
        self.tree, self.record, self.force = tree, record, force
        self.model = None  # not read yet
        self.foreign = set()  # declared names that somebody else has

    # --- what is there ---

    def read(self, desired, adopt=False):
        """Reads what is ours or is to be. @adopt: what is there under a declared name is ours from now on."""
        targets, backstores = self.tree.target_names(), self.tree.backstore_names()
        there, declared = targets | backstores, set(desired.targets) | set(desired.backstores)
        if adopt:
            self.record.add(there & declared)
        self.model = State()
        for iqn in sorted(targets & self.record.names):
            self.model.targets[iqn] = self.tree.read_target(iqn)
        for name in sorted(backstores & self.record.names):
            self.model.backstores[name] = self.tree.read_backstore(name)
        self.record.discard(self.record.names - there - declared)

    def _read_again(self, units):
        """What is there now of what a step has failed at."""
        targets, backstores = self.tree.target_names(), self.tree.backstore_names()
        for kind, name, *_ in units:
            mine, there, read = (self.model.backstores, backstores, self.tree.read_backstore) if kind == "backstore" \
                else (self.model.targets, targets, self.tree.read_target)
            mine.pop(name, None)
            if name in there and name in self.record.names:
                mine[name] = read(name)

    def _look_for_others(self, desired):
        """Whose are the declared names that are not recorded as ours?"""
        suspects = (set(desired.targets) | set(desired.backstores)) - self.record.names
        self.foreign = suspects & (self.tree.target_names() | self.tree.backstore_names()) if suspects else set()

    # --- from there to what is declared ---

    def plan(self, desired):
        self._look_for_others(desired)
        for iqn in set(self.model.targets) - set(desired.targets):
            self.model.targets[iqn].sessions = self.tree.sessions(iqn)
        return plan.make(desired, self.model, self.record.names, self.foreign, self.force)

    def apply(self, desired, told=lambda step: None):
        """Takes all steps. Returns the problems."""
        todo = self.plan(desired)
        made = {s.args[0] for s in todo.steps if s.verb in ("create_target", "create_backstore")}
        self.record.add(made)
        problems, failed = plan.take(todo, self.tree, self.model, told)
        if failed:
            self._read_again(failed)
        there = set(self.model.targets) | set(self.model.backstores)
        self.record.discard(self.record.names - there - set(desired.targets) - set(desired.backstores))
        return problems

