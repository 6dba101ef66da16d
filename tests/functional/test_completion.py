# SPDX-License-Identifier: GPL-2.0-or-later
"""Completion in bash offers what there is: commands, options, names of LUNs."""
import os
import re
import subprocess

from conftest import EBB, ROOT, SLOW, need, run

ASK = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
_ebb
printf '%s\\n' "${COMPREPLY[@]}"
"""


def complete(*words):
    """What is offered for the last word."""
    env = dict(os.environ, PATH=f"{EBB.parent}:{os.environ['PATH']}")
    p = subprocess.run(["bash", "--norc", "-c", ASK, "bash", str(ROOT / "config/completion/ebb.bash"), "ebb", *map(str, words)],
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, timeout=60 * SLOW, check=True)
    assert not p.stderr
    return set(p.stdout.split())


def test_commands_and_their_words():
    first = {c.split()[0] for c in re.findall(r"^  ([a-z]+(?: [a-z]+)?)  +\S", run(EBB, "--help").stdout, re.M)}
    assert complete("") == first and complete("st") == {"status"}
    assert complete("lun", "") == {"list", "show", "create", "resize", "delete"}


def test_options_are_those_of_the_command():
    assert {"--interval", "--sort", "--json"} <= complete("top", "--") and complete("top", "--so") == {"--sort", "--socket"}
    assert complete("lun", "create", "--cache-") == {"--cache-weight", "--cache-floor"}
    assert complete("top", "--sort", "la") == {"latency"}


def test_names_of_luns(ebb, disk):
    e = ebb(disk(), disk())
    assert complete("--socket", e.socket, "explain", "") == {"disk0", "disk1"}
    assert complete("--socket", e.socket, "lun", "show", "disk1") == {"disk1"}


def test_zsh_can_read_its_file():
    run(need("zsh"), "-n", ROOT / "config/completion/_ebb")
