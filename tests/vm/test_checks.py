"""Runs the checks (tests/vm/checks) in virtual machines: one boot for each kernel, one test for each check in it.

A check is a program that fails or does not. A line near its top, `# check: WORDS`, says where it runs:
    kernels=6.1,6.12    on which kernels (6.1 if it does not say)
    seconds=N           after which it counts as hung (120)
    soak                only in soaks (EBB_SOAK=1), where all checks run in the debug kernel too
    not-debug           not there: it is about other parts of the kernel than ours
    alone               in a boot of its own
    memory=N            alone, with so many MiB
A check fails, too, if the kernel complains meanwhile (tests/vm/complaints); the debug kernel's leaks are counted at the end.
"""
import os
import pathlib
import re
import subprocess
from dataclasses import dataclass

import pytest

HERE = pathlib.Path(__file__).resolve().parent
REPO = HERE.parents[1]
SOAK = os.environ.get("EBB_SOAK") == "1"
SLOWER = {"debug": 8}  # the debug kernel takes that many times as long
COMPLAINTS = re.compile("|".join(f"(?:{line})" for line in (HERE / "complaints").read_text().splitlines()), re.M)


@dataclass(frozen=True)
class Check:
    path: pathlib.Path
    kernels: tuple
    seconds: int
    soak: bool
    alone: bool
    memory: str

    @classmethod
    def read(cls, path):
        line = re.search(r"^(?:# )?check:(.*)$", path.read_text(), re.M)
        words = line[1].split() if line else []
        values = dict(w.split("=") for w in words if "=" in w)
        kernels = values.get("kernels", "6.1").split(",") + (["debug"] if SOAK and "not-debug" not in words else [])
        return cls(path, tuple(kernels), int(values.get("seconds", 120)), "soak" in words, "alone" in words or "memory" in values,
                   values.get("memory"))

    @property
    def name(self):
        return self.path.name


CHECKS = [c for c in map(Check.read, sorted((HERE / "checks").iterdir())) if SOAK or not c.soak]
PLACES = [(k, c) for k in ("6.1", "6.12", "debug") for c in CHECKS if k in c.kernels]


class Boot:
    """One run of scripts/vm with some checks, and what came out."""

    def __init__(self, kernel, checks, keep):
        self.keep = keep
        subprocess.run([REPO / "scripts/kmod", "--kernel", kernel], check=True)
        seconds = max(c.seconds for c in checks) * SLOWER.get(kernel, 1)
        memory = ["--memory", checks[0].memory] if checks[0].memory else []
        command = [REPO / "scripts/vm", "--kernel", kernel, *memory, "--keep", keep, "--log", keep / "kernel.log",
                   "--timeout", str(180 + sum(c.seconds for c in checks) * SLOWER.get(kernel, 1)), "--", "env",
                   f"EBB_BUILD={os.environ.get('EBB_BUILD', 'build-test')}", f"EBB_SOAK={'1' if SOAK else ''}", f"PYTHONPATH={HERE}",
                   HERE / "run-checks", str(seconds), *(c.path for c in checks)]
        done = subprocess.run(command, cwd=REPO, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        self.status, self.output = done.returncode, done.stdout
        log = keep / "kernel.log"
        parts = re.split(r"ebb: begin (\S+)\n", log.read_text(errors="replace") if log.exists() else "")
        self.kernel_log = dict(zip(parts[1::2], parts[2::2]))

    def judge(self, name):
        """Fails with all there is to read, unless check NAME and the kernel were content."""
        status = self.keep / f"{name}.status"
        if not status.exists():
            pytest.fail(f"{name} did not end in the guest (scripts/vm: {self.status})\n{self.output}", pytrace=False)
        log = (self.keep / f"{name}.log").read_text(errors="replace")
        print(log)
        code, _ = status.read_text().split()
        kernel_log = self.kernel_log.get(name, "")
        if code != "0":
            pytest.fail(f"{name}: exit status {code}\n{log}\n--- kernel log\n{kernel_log}", pytrace=False)
        if COMPLAINTS.search(kernel_log):
            pytest.fail(f"the kernel complained during {name}\n{kernel_log}", pytrace=False)


@pytest.fixture(scope="session")
def boots(request, tmp_path_factory):
    """Boot by (kernel, check): begun when the first of its tests asks, with all that were selected for it."""
    begun = {}

    def boot(kernel, check):
        key = (kernel, check.name if check.alone else None)
        if key not in begun:
            selected = [i.callspec.params["place"] for i in request.session.items if "place" in i.fixturenames]
            mates = [c for k, c in selected if k == kernel and not c.alone] if key[1] is None else [check]
            begun[key] = Boot(kernel, mates, tmp_path_factory.mktemp(f"boot-{kernel}"))
        return begun[key]

    boot.begun = begun
    return boot


@pytest.mark.parametrize("place", PLACES, ids=lambda p: f"{p[0]}-{p[1].name}")
def test_check(boots, place):
    kernel, check = place
    boots(kernel, check).judge(check.name)


def test_kernels_were_content(boots):
    """Nothing was said between the checks either, and no boot failed after them; comes last."""
    assert boots.begun or not PLACES
    for (kernel, _), boot in boots.begun.items():
        assert boot.status == 0, f"{kernel}: scripts/vm: {boot.status}\n{boot.output}"
