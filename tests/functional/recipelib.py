#!/usr/bin/python3
# SPDX-License-Identifier: GPL-2.0-or-later
"""Recipes (docs/recipes) are run as they are printed: page and test are one text.

What stands behind the language of a fenced block says what it is:

    ```yaml ebb.yaml     a file of that name
    ```sh                a step: all steps of a page are one bash script, which ends at the first that fails
    ```sh later          a named step: only for the reader, or run by a test that asks for it
    ```console           what somebody sees; not run

A page is written for a network that the reader can tell from his own (192.0.2.0/24, 198.51.100.0/24). Where a test cannot
have these addresses or folders, it says what stands for them; each must occur, so that none is forgotten when a page changes.

    recipelib.py PAGE FOLDER files       writes a page's files into FOLDER (/: all)
    recipelib.py PAGE FOLDER run         runs its steps in FOLDER
    recipelib.py PAGE FOLDER run later   ... those of that name
"""
import dataclasses
import pathlib
import re
import subprocess
import sys

FENCE = re.compile(r"^```(\w*) *(\S*)\n(.*?)^```$", re.M | re.S)


@dataclasses.dataclass(frozen=True)
class Block:
    language: str
    name: str  # "": none
    text: str
    line: int  # in the page, of its first line of text


class Page:
    def __init__(self, path):
        self.path = pathlib.Path(path)
        self.text = self.path.read_text()

    def replace(self, old_and_new):
        for old, new in old_and_new.items():
            assert old in self.text, f"{self.path}: nothing says {old} any more"
            self.text = self.text.replace(old, str(new))
        return self

    @property
    def blocks(self):
        return [Block(m[1], m[2], m[3], self.text.count("\n", 0, m.start(3)) + 1) for m in FENCE.finditer(self.text)]

    def files(self, language):
        return {b.name: b.text for b in self.blocks if b.name and b.language == language}

    def write_files(self, folder):
        """The page's files, but for those whose place is elsewhere than below @folder."""
        for b in self.blocks:
            path = pathlib.Path(folder, b.name)
            if b.name and b.language != "sh" and path.is_relative_to(folder):
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(b.text)
                path.chmod(0o600 if path.suffix == ".secret" else 0o644)

    def script(self, step=""):
        """The page with only its steps left, at their lines: bash names the line of the page that failed."""
        lines = [""] * (self.text.count("\n") + 1)
        for b in self.blocks:
            if b.language == "sh" and b.name == step:
                text = b.text.split("\n")
                lines[b.line - 1 : b.line - 1 + len(text)] = text
        return "\n".join(lines)

    def command(self, folder, step=""):
        """The command that runs the steps in @folder, where page and files are written."""
        script = pathlib.Path(folder, self.path.name)
        script.write_text(self.script(step))
        script.chmod(0o644)
        return ["bash", "-euo", "pipefail", "-x", str(script)]


if __name__ == "__main__":
    page, folder, what, *step = Page(sys.argv[1]), *sys.argv[2:]
    if what == "files":
        page.write_files(folder)
    else:
        sys.exit(subprocess.run(page.command(folder, *step), cwd=folder, check=False).returncode)
