# SPDX-License-Identifier: GPL-2.0-or-later
"""docs/json.md tells of every command that has --json, and of every member of what they print."""
import json
import re

from conftest import EBB, ROOT, run

PAGE = (ROOT / "docs/json.md").read_text()
ROWS = dict((name, (kind, text)) for name, kind, text in
            re.findall(r"^\| `([a-z ]+)` \| (object|list) \| (.*) \|$", PAGE, re.M))


def told(name):
    """Members of a command's value, those of lists within it left out."""
    kind, text = ROWS[name]
    if "those of" in text:
        inner = told(re.search(r"those of `([a-z ]+)`", text)[1])
        text = re.sub(r"those of `[a-z ]+`", "", text)
    else:
        inner = set()
    return inner | set(re.findall(r"`(\w+)`", re.sub(r"\(a list of [^)]*\)", "", text)))


def check(name, value):
    kind, _ = ROWS[name]
    assert isinstance(value, list if kind == "list" else dict), name
    for o in value if kind == "list" else [value]:
        assert set(o) <= told(name), f"{name}: docs/json.md lacks {set(o) - told(name)}"
    if kind == "object":
        optional = set(re.findall(r"\[`(\w+)`\]", ROWS[name][1]))
        missing = told(name) - optional - set(value)
        assert not missing or "those of" in ROWS[name][1] or name == "lun show", f"{name}: no {missing}"


def test_every_command_is_described():
    commands = re.findall(r"^  ([a-z]+(?: [a-z]+)?)  +\S", run(EBB, "--help").stdout, re.M)
    with_json = {c for c in commands if "--json" in run(EBB, *c.split(), "--help").stdout}
    assert {"status", "doctor", "top", "explain"} <= with_json
    # What kicks somebody out has nothing to say.
    assert with_json - {"session kick"} == set(ROWS)


def test_members_are_those_that_are_described(ebb, disk, tmp_path):
    e = ebb(disk("8M"))

    def ask(*args):
        return json.loads(e.cli("--json", *args).stdout)

    for name in ("status", "lun list", "session list", "export list", "memory", "plan", "apply", "memory release"):
        check(name, ask(*name.split()))
    check("lun show", ask("lun", "show", "disk0"))
    check("lun create", ask("lun", "create", "new", tmp_path / "new.img", "--size", "1M"))
    check("lun resize", ask("lun", "resize", "new", "2M"))
    check("lun delete", ask("lun", "delete", "new"))
    check("doctor", ask("doctor"))
    check("top", ask("top", "--interval", "0.2"))
    check("explain", ask("explain", "disk0", "--seconds", "0"))
