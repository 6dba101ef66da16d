# SPDX-License-Identifier: GPL-2.0-or-later
"""Which of LIO's targets and backstores are ours.

configfs has no place for a mark, and a target's name says nothing: somebody may have made it by hand. So the names of
what we make are kept in a file. A name is written there before the thing is made and taken out after it is gone, so
whatever happens in between, nothing of ours is left without a name. The file outlives a reboot, configfs does not:
what `targetctl restore` brings back of ours from a saveconfig.json is known as ours.
"""
import json
import os


class Record:
    def __init__(self, path, keep=False):
        """@keep: never write the file."""
        self.path, self.keep = path, keep
        self.names = set()
        try:
            with open(path, encoding="utf-8") as f:
                self.names = set(json.load(f)["names"])
        except FileNotFoundError:
            pass
        except (ValueError, KeyError, TypeError) as e:
            raise RuntimeError(f"{path}: not a record of ebb-lio: {e}") from e

    def add(self, names):
        if not self.names.issuperset(names):
            self.names.update(names)
            self._write()

    def discard(self, names):
        if not self.names.isdisjoint(names):
            self.names.difference_update(names)
            self._write()

    def _write(self):
        """Replaces the file whole: it is the old one or the new one, whatever happens."""
        if self.keep:
            return
        folder = os.path.dirname(self.path)
        os.makedirs(folder, mode=0o700, exist_ok=True)
        fresh = f"{self.path}.new"
        with open(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as f:
            json.dump({"names": sorted(self.names)}, f)
            f.flush()
            os.fsync(f.fileno())
        os.rename(fresh, self.path)
        d = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(d)
        finally:
            os.close(d)
