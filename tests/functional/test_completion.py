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


# Who types does not wait long for names; a test does.
ENV = dict(os.environ, PATH=f"{EBB.parent}:{os.environ['PATH']}", EBB_COMPLETION_WAIT=str(60 * SLOW))


def complete(*words):
    """What is offered for the last word."""
    p = subprocess.run(["bash", "--norc", "-c", ASK, "bash", str(ROOT / "config/completion/ebb.bash"), "ebb", *map(str, words)],
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENV, timeout=60 * SLOW, check=True)
    assert not p.stderr
    return set(p.stdout.split())


def test_commands_and_their_words():
    first = {c.split()[0] for c in re.findall(r"^  ([a-z]+(?: [a-z]+)?)  +\S", run(EBB, "--help").stdout, re.M)}
    assert complete("") == first and complete("st") == {"status"}
    assert complete("lun", "") == {"list", "show", "create", "resize", "delete", "copy", "sanitize"}


def test_options_are_those_of_the_command():
    assert {"--interval", "--sort", "--json"} <= complete("top", "--") and complete("top", "--so") == {"--sort", "--socket"}
    assert complete("lun", "create", "--cache-") == {"--cache-weight", "--cache-floor"}
    assert complete("top", "--sort", "la") == {"latency"}


def test_names_of_luns(ebb, disk):
    e = ebb(disk(), disk())
    assert complete("--socket", e.socket, "explain", "") == {"disk0", "disk1"}
    assert complete("--socket", e.socket, "lun", "show", "disk1") == {"disk1"}


def test_what_a_stranger_calls_a_lun_is_not_run(tmp_path):
    """A program that answers for the appliance may say anything."""
    fake = tmp_path / "ebb"
    fake.write_text("#!/bin/sh\n[ \"$*\" != --help ] && printf 'NAME\\ndisk0\\n$(touch${IFS}ran)\\n' || echo '  explain  a LUN'\n")
    fake.chmod(0o755)
    p = subprocess.run(["bash", "--norc", "-c", ASK, "bash", str(ROOT / "config/completion/ebb.bash"), "ebb", "explain", ""],
                       stdout=subprocess.PIPE, text=True, cwd=tmp_path, timeout=60 * SLOW, check=True,
                       env=dict(ENV, PATH=f"{tmp_path}:{os.environ['PATH']}"))
    assert p.stdout.split() == ["disk0"] and not (tmp_path / "ran").exists()


# --- zsh: a shell on a terminal of its own, in which TAB is pressed ---

INSIDE = """
fpath=("$EBB_COMPLETION" $fpath)
autoload -Uz compinit
compinit -D -u
compadd() {
	local -a found
	local option
	for option in "$@"; do # who asks for an array offers nothing yet
		case $option in
		-|--) break ;;
		-[a-zA-Z]#[OAD]) builtin compadd "$@"; return ;;
		esac
	done
	builtin compadd -O found "$@"
	print -rl -- $found >>"$EBB_OFFERS"
	builtin compadd "$@"
}
tell_end() {
	print -r -- '=' >>"$EBB_OFFERS"
	print -r -- '=end='
	comppostfuncs=(tell_end) # it is for one completion
}
comppostfuncs=(tell_end)
print -r -- '=ready='
"""
OUTSIDE = """
zmodload zsh/zpty
zpty shell zsh -f -i
await() {
	local text= more
	until [[ $text == *$1* ]]; do
		zpty -r shell more || exit 1
		text+=$more
	done
}
zpty -w shell ". $1"
await '=ready='
shift
for line in "$@"; do
	zpty -w -n shell $'\\C-u'"$line"$'\\t'
	await '=end='
done
"""


def complete_zsh(folder, lines):
    """What is offered at the end of each line."""
    inside, offers = folder / "inside.zsh", folder / "offers"
    inside.write_text(INSIDE)
    env = dict(ENV, TERM="dumb", EBB_OFFERS=str(offers), EBB_COMPLETION=str(ROOT / "config/completion"))
    subprocess.run([need("zsh"), "-f", "-c", OUTSIDE, "zsh", str(inside), *lines], env=env, timeout=120 * SLOW, check=True)
    return [sorted(filter(None, part.split("\n"))) for part in offers.read_text().split("=\n")[:-1]]


def test_zsh_offers_what_bash_does(tmp_path, ebb, disk):
    e = ebb(disk(), disk())
    asked = [[""], ["st"], ["lun", ""], ["top", "--so"], ["lun", "create", "--cache-"], ["top", "--sort", "la"],
             ["--socket", e.socket, "lun", ""], ["--socket", e.socket, "lun", "copy", "disk0", ""],
             ["--socket", e.socket, "explain", ""]]
    offered = complete_zsh(tmp_path, [" ".join(["ebb", *map(str, words)]) for words in asked])
    assert offered == [sorted(complete(*words)) for words in asked] and all(offered)
