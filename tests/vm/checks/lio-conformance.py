#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""libiscsi's suite through LIO's iSCSI target, with user backstores behind it.

Stock tcmu-runner serves them on the in-tree module and on ours: no test may end worse with ours. Then ebbd does: LIO
answers reservations and some more by itself, and refuses a part by its own rules, so what counts is that not fewer pass
than with LIO's own backstores (117 of 230 with fileio). What did not pass is printed, with its reason.

check: kernels=6.1,6.12 seconds=3000 soak alone
"""
import json
import os
import pathlib
import re
import sys
import uuid

import lio

SIZE = 128 << 20
PARTS = 2  # LUNs that are tested side by side
FOLDER = pathlib.Path("/tmp/conformance")
KEEP = pathlib.Path("/mnt/keep")
RANKS = ("HANG", "FAIL", "wrong", "skip", "pass")
WITH_FILEIO = 117
ONLY = os.environ.get("ONLY", "")


class ByRunner:
    def __init__(self):
        self.server = lio.Runner()

    @staticmethod
    def backstore(name):
        image = FOLDER / f"{name}.img"
        with open(image, "wb") as f:
            f.truncate(SIZE)
        return lio.Backstore(name, SIZE, config=f"qcow/{image}")


class ByEbbd:
    def __init__(self):
        self.server = lio.Ebb(FOLDER / "ebb", *(f"{FOLDER}/ebb{n}.img,name=lun{n},size={SIZE}" for n in range(PARTS)))

    @staticmethod
    def backstore(name):
        return lio.Backstore(name, SIZE, config=f"ebb/{name}")


def run_suite(url, part, only):
    """{test: result}, and what the tests said that did not pass."""
    results = FOLDER / f"{part}.json"
    results.unlink(missing_ok=True)
    try:
        said = lio.run(lio.REPO / "scripts/conformance", "--limit", 100, "--skip-ok", "--only", only, "--part", f"{part + 1}/{PARTS}",
                       "--json", results, f"lio={url}")
    except AssertionError as e:  # some failed
        said = str(e)
    return {test: row["lio"] for test, row in json.loads(results.read_text()).items()} if results.exists() else {}, said


def suite(userspace, only=ONLY):
    """The same for a userspace with the module that is loaded, over several LUNs."""
    by = userspace()
    made = []
    for n in range(PARTS):
        b = by.backstore(f"lun{n}")
        lio.write(b.path / "wwn/vpd_unit_serial", uuid.UUID(int=n + 1))
        made.append((lio.IscsiTarget(b.name, b, 3260 + n), b))
    running = [lio.background(run_suite, t.url, n, only) for n, (t, _) in enumerate(made)]
    results, said = {}, ""
    for r in running:
        part, text = r.result()
        results |= part
        said += text
    for target, b in made:
        target.remove()
        b.remove()
    assert by.server.process.poll() is None, "it ended"
    by.server.stop()
    return results, said


def report(name, results, said):
    counts = {r: list(results.values()).count(r) for r in RANKS[::-1]}
    print(f"{name}: {len(results)} tests: {counts}", flush=True)
    outputs = dict(re.findall(r"^(?:FAIL|HANG) (\S+) on (.*?)(?=^(?:FAIL|HANG) |\Z)", said, re.M | re.S))
    for test, result in sorted(results.items()):
        if result in ("FAIL", "HANG"):
            why = re.findall(r"\[FAILED\] *(.*)|^ +1\. (.*)", outputs.get(test, ""), re.M)
            print(f"  {result} {test}: {''.join(why[0]) if why else ''}")
    if KEEP.exists():
        (KEEP / f"conformance-{name}.json").write_text(json.dumps(results, indent=1))
        (KEEP / f"conformance-{name}.txt").write_text(said)
    return counts["pass"]


def worse(theirs, ours):
    return [t for t in theirs if RANKS.index(ours.get(t, "HANG")) < RANKS.index(theirs[t])]


FOLDER.mkdir(exist_ok=True)
lio.make_target_folders()
by_module = {}
for module in lio.MODULES:
    with lio.tcmu(module):
        by_module[module], told = suite(ByRunner)
    report(f"runner-{module}", by_module[module], told)
lost = worse(*by_module.values())
with lio.tcmu("ours"):
    if lost:  # some depend on time, and this is slow: another try
        again, told = suite(ByRunner, f"^({'|'.join(map(re.escape, lost))})$")
        report("runner-again", again, told)
        lost = worse({t: by_module["in-tree"][t] for t in lost}, again)
    by_ebbd, told = suite(ByEbbd)
passed = report("ebbd", by_ebbd, told)
print("worse with our module:", lost)
print(f"ebbd: {passed} passed, LIO's fileio: {WITH_FILEIO}")
sys.exit(bool(lost) or (not ONLY and passed < WITH_FILEIO))
