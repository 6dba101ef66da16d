# SPDX-License-Identifier: GPL-2.0-or-later
"""The appliance's control socket (docs/control.md): one JSON object a line, one request at a time."""
import json
import select
import socket

REPORT_MAX = 100  # problems in a report: a request is at most 64 KiB


class Refused(Exception):
    """The appliance understood and said no."""


class Control:
    def __init__(self, path):
        self.sock = socket.socket(socket.AF_UNIX)
        self.buf = b""
        try:
            self.sock.connect(path)
        except OSError as e:
            self.sock.close()
            raise ConnectionError(f"{path}: {e.strerror}") from e

    def close(self):
        self.sock.close()

    def send(self, method, **params):
        self.sock.sendall(json.dumps({"v": 1, "method": method, "params": params}).encode() + b"\n")

    def answer(self):
        while b"\n" not in self.buf:
            got = self.sock.recv(1 << 16)
            if not got:
                raise ConnectionError("the appliance closed the connection")
            self.buf += got
        line, self.buf = self.buf.split(b"\n", 1)
        o = json.loads(line)
        if not o["ok"]:
            raise Refused(o["error"]["message"])
        return o["result"]

    def call(self, method, **params):
        self.send(method, **params)
        return self.answer()

    def answered(self, timeout, wake):
        """Whether an answer begins to come within @timeout seconds (None: ever); false when @wake is readable."""
        ready = select.select([self.sock, wake], [], [], timeout)[0]
        return self.sock in ready

    def report(self, generation, problems):
        self.call("lio.report", generation=generation,
                  problems=[{"name": p.name[:250], "problem": p.text[:290]} for p in problems[:REPORT_MAX]])
