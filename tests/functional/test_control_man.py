# SPDX-License-Identifier: GPL-2.0-or-later
"""The man pages tell of every option, command and key that there is, and of no other option."""
import re

from conftest import EBB, EBBD, ROOT, run


def options_of_man(path):
    text = path.read_text().replace("\\-", "-")
    return {"--" + o for o in re.findall(r"\bFl -([a-z][a-z-]*)", text)}


def options_of_help(*cmd):
    return set(re.findall(r"(?<![\w-])--[a-z][a-z-]*", run(*cmd, "--help").stdout))


def test_ebb():
    helped = options_of_help(EBB) | options_of_help(EBB, "serve")
    commands = re.findall(r"^  ([a-z]+(?: [a-z]+)?)  +\S", run(EBB, "--help").stdout, re.M)
    assert "lun list" in commands and "doctor" in commands
    commands.remove("serve")
    page = (ROOT / "docs/man/ebb.1").read_text()
    for c in commands:
        helped |= options_of_help(EBB, *c.split()) if c != "mount" else set()  # it has a page of its own
        assert f".It Cm {c}" in page, f"ebb.1 lacks {c}"
    assert options_of_man(ROOT / "docs/man/ebb.1") | {"--help", "--version"} == helped | {"--help", "--version"}


def test_ebbd():
    assert options_of_man(ROOT / "docs/man/ebbd.8") == options_of_help(EBBD)


def test_ebb_mount():
    assert options_of_man(ROOT / "docs/man/ebb-mount.8") == options_of_help(EBB, "mount")


def test_ebb_lio():
    program = ROOT / "appliance/lio/ebb-lio"
    helped = options_of_help(program)
    for command in ("plan", "apply", "watch", "remove"):
        helped |= options_of_help(program, command)
        assert f".It Cm {command}" in (ROOT / "docs/man/ebb-lio.8").read_text()
    assert options_of_man(ROOT / "docs/man/ebb-lio.8") == helped


def test_every_key_of_the_schema():
    source = (ROOT / "appliance/control/config.c").read_text()
    keys = set(re.findall(r'(?:STRING|UINT|BOOL|LIST|SUB|_PTR|_ENUM|_MAPPING)\("([a-z_]+)"', source))
    assert {"luns", "iqn", "secret_file", "tls", "queue_depth"} <= keys
    page = (ROOT / "docs/man/ebb.yaml.5").read_text()
    missing = [k for k in sorted(keys) if not re.search(rf"(?<![a-z_]){k}(?![a-z_])", page)]
    assert not missing
