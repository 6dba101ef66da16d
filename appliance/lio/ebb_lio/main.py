# SPDX-License-Identifier: GPL-2.0-or-later
"""The command line of ebb-lio(8), and its life as a service."""
import argparse
import fcntl
import os
import select
import signal
import socket
import sys

from .control import Control, Refused
from .plan import Problem
from .record import Record
from .service import Service
from .state import State, from_desired

PAUSE = (1, 2, 5)  # seconds between attempts to reach an appliance that does not run; the last one is repeated
RETRY = (5, 10, 30, 60)  # seconds until what failed is tried again; likewise


def parse(argv):
    p = argparse.ArgumentParser(prog="ebb-lio", description="Brings the kernel's target (LIO) to what `lio:` of "
                                                            "ebb.yaml(5) declares.", allow_abbrev=False)
    p.add_argument("--socket", default="/run/ebb/control.sock", metavar="PATH", help="of the appliance")
    p.add_argument("--state", default="/var/lib/ebb-lio", metavar="DIR", help="where it is kept what is ours")
    sub = p.add_subparsers(dest="command", required=True, metavar="COMMAND")
    sub.add_parser("plan", help="print what apply would do")
    apply = sub.add_parser("apply", help="do it")
    apply.add_argument("--adopt", action="store_true", help="take over what is there under a declared name")
    watch = sub.add_parser("watch", help="do it, and again whenever the appliance says that something changed")
    remove = sub.add_parser("remove", help="take down all that is ours")
    for s in (apply, watch, remove):
        s.add_argument("--force", action="store_true", help="end the sessions of targets that go")
    return p.parse_args(argv)


def tell(name, text, mark=""):
    print(f"{mark}{name}: {text}", flush=True)


def make_tree():
    try:
        from .configfs import Tree  # needs rtslib, root and a kernel with LIO: not to print a help text
        return Tree()
    except Exception as e:  # rtslib's are of no common class
        raise RuntimeError(f"the kernel's target cannot be used: {e}") from e


def lock_state(folder):
    """One ebb-lio at a time changes anything. The lock lives as long as the file that is returned."""
    os.makedirs(folder, mode=0o700, exist_ok=True)
    f = open(os.path.join(folder, "lock"), "w", encoding="ascii")
    try:
        fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise RuntimeError(f"{folder}: another ebb-lio is at work; one that watches applies by itself, and reads "
                           "all again on SIGHUP (systemctl reload ebb-lio)") from None
    return f


def record_path(args):
    return os.path.join(args.state, "owned.json")


# --- once ---


def ask(args):
    c = Control(args.socket)
    try:
        return c.call("lio.desired")
    finally:
        c.close()


def do_plan(args):
    service = Service(make_tree(), Record(record_path(args), keep=True))
    desired = from_desired(ask(args))
    service.read(desired)
    todo = service.plan(desired)
    for s in todo.steps:
        tell(s.name, s.text, "+ ")
    for p in todo.problems:
        tell(p.name, p.text, "! ")
    if not todo.steps and not todo.problems:
        print("nothing to do")
    return 0


def bring_to(args, desired, adopt=False):
    with lock_state(args.state):
        service = Service(make_tree(), Record(record_path(args)), args.force)
        service.read(desired, adopt)
        problems = service.apply(desired, lambda step: tell(step.name, step.text))
    for p in problems:
        tell(p.name, p.text, "! ")
    return problems


def do_apply(args):
    answer = ask(args)
    problems = bring_to(args, from_desired(answer), args.adopt)
    c = Control(args.socket)
    c.report(answer["generation"], problems)
    c.close()
    return 1 if problems else 0


def do_remove(args):
    return 1 if bring_to(args, State()) else 0


# --- as a service ---


def notify(text):
    """sd_notify(3)."""
    path = os.environ.get("NOTIFY_SOCKET")
    if path:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            s.sendto(text.encode(), "\0" + path[1:] if path[0] == "@" else path)


class Signals:
    """SIGTERM and SIGINT end, SIGHUP reads again; `wake` is readable once one has come."""

    def __init__(self):
        self.wake, mine = socket.socketpair()
        self.wake.setblocking(False)
        mine.setblocking(False)
        self.mine = mine
        self.end = self.again = False
        signal.set_wakeup_fd(mine.fileno(), warn_on_full_buffer=False)
        for s in (signal.SIGTERM, signal.SIGINT):
            signal.signal(s, self._end)
        signal.signal(signal.SIGHUP, self._again)

    def _end(self, *_):
        self.end = True

    def _again(self, *_):
        self.again = True

    def drain(self):
        try:
            self.wake.recv(4096)
        except BlockingIOError:
            pass

    def pause(self, seconds):
        select.select([self.wake], [], [], seconds)
        self.drain()


class Watch:
    def __init__(self, args, signals):
        self.args, self.signals = args, signals
        self.service = Service(make_tree(), Record(record_path(args)), args.force)
        self.told = []  # problems, so that each is told once

    def _apply(self, desired):
        try:
            if self.service.model is None:
                self.service.read(desired)
            return self.service.apply(desired, lambda step: tell(step.name, step.text))
        except Exception as e:  # configfs cannot be read, the record not written: nothing is known for sure
            self.service.model = None
            return [Problem("lio", f"{type(e).__name__}: {e}")]

    def _turn(self, caller):
        """Brings all to what is declared now. Returns the generation and the problems."""
        answer = caller.call("lio.desired")
        if self.signals.again:
            self.signals.again = False
            self.service.model = None
        problems = self._apply(from_desired(answer))
        for p in problems:
            if p not in self.told:
                tell(p.name, p.text, "! ")
        self.told = problems
        caller.report(answer["generation"], problems)
        notify(f"READY=1\nSTATUS={len(problems)} problems" if problems else "READY=1\nSTATUS=all is exported")
        return answer["generation"], problems

    def follow(self):
        """Until we shall end; ConnectionError: until the appliance did."""
        caller, waiter = Control(self.args.socket), Control(self.args.socket)
        self.reached, self.service.model = True, None
        waiting, failures = False, 0
        try:
            while not self.signals.end:
                generation, problems = self._turn(caller)
                failures = failures + 1 if problems else 0
                timeout = RETRY[min(failures, len(RETRY)) - 1] if problems else None
                if not waiting:
                    waiter.send("lio.wait", generation=generation)
                    waiting = True
                if waiter.answered(timeout, self.signals.wake):
                    waiter.answer()
                    waiting, failures = False, 0
                self.signals.drain()
        finally:
            caller.close()
            waiter.close()


def do_watch(args):
    signals = Signals()
    with lock_state(args.state):
        watch = Watch(args, signals)
        away = 0  # attempts in vain
        while not signals.end:
            watch.reached = False
            try:
                watch.follow()
            except ConnectionError as e:
                away = 0 if watch.reached else away
                if not away:
                    tell("lio", f"waits for the appliance: {e}")
                    notify("READY=1\nSTATUS=waits for the appliance")
                away += 1
                signals.pause(PAUSE[min(away, len(PAUSE)) - 1])
    return 0  # what is exported stays: the sessions outlive us


def main(argv=None):
    args = parse(argv)
    try:
        return {"plan": do_plan, "apply": do_apply, "watch": do_watch, "remove": do_remove}[args.command](args)
    except (OSError, Refused, RuntimeError) as e:
        print(f"ebb-lio: {e}", file=sys.stderr)
        return 1
