# SPDX-License-Identifier: GPL-2.0-or-later
"""A kernel's target to test ebb-lio with: keeps LIO's rules, counts what is asked of it, fails where it is told to."""
import copy
import os
import pickle
import sys

from conftest import ROOT

sys.path.insert(0, str(ROOT / "appliance/lio"))
from ebb_lio.state import State  # noqa: E402


class FakeTree(State):
    """Configfs as it would be: State's verbs keep the rules that the kernel has."""

    def __init__(self):
        super().__init__()
        self.calls = []  # (verb, arguments)
        self.failing = set()  # verbs, or (verb, first argument)
        self.logged_in = {}  # iqn -> sessions

    def __getattribute__(self, name):
        value = super().__getattribute__(name)
        if name.startswith("_") or name == "verbs" or not callable(value):
            return value

        def verb(*args):
            self.calls.append((name, args))
            if self.failing & {name, (name, args[0] if args else None)}:
                raise OSError(f"the kernel says no to {name}")
            return value(*args)
        return verb

    def create_target(self, iqn):
        super().create_target(iqn)
        self.targets[iqn].anyone, self.targets[iqn].authenticate = False, True  # the kernel's defaults

    def target_names(self):
        return set(self.targets)

    def backstore_names(self):
        return set(self.backstores)

    def read_target(self, iqn):
        t = copy.deepcopy(self.targets[iqn])
        t.sessions = self.logged_in.get(iqn, 0)
        return t

    def read_backstore(self, name):
        return copy.deepcopy(self.backstores[name])

    def sessions(self, iqn):
        return self.logged_in.get(iqn, 0)

    def verbs(self):
        """What was changed since the last time."""
        done = [c for c, _ in self.calls if not c.startswith(("read", "target_names", "backstore_names", "sessions"))]
        self.calls.clear()
        return done


class FileTree(FakeTree):
    """One that outlives the process, kept in a file. What it shall fail at stands in a file beside it, which only the
    test writes (_fail)."""

    def __init__(self, path):
        super().__init__()
        self.path = path
        self._load()

    def _load(self):
        for name, path in (("kernel", self.path), ("failing", f"{self.path}.failing")):
            try:
                with open(path, "rb") as f:
                    o = pickle.load(f)
            except FileNotFoundError:
                continue
            if name == "kernel":
                self.backstores, self.targets = o
            else:
                self.failing = o

    def _write(self, path, o):
        with open(f"{path}.new", "wb") as f:
            pickle.dump(o, f)
        os.rename(f"{path}.new", path)

    def _fail(self, failing):
        self._write(f"{self.path}.failing", failing)

    def __getattribute__(self, name):
        value = super().__getattribute__(name)
        if name.startswith("_") or not callable(value):
            return value

        def verb(*args):
            self._load()
            result = value(*args)
            self._write(self.path, (self.backstores, self.targets))
            return result
        return verb


def run_with_file(path, argv):
    """ebb-lio, as its program would be with the kernel kept at @path."""
    from ebb_lio import main
    main.make_tree = lambda: FileTree(path)
    return main.main(argv)
