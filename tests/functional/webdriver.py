# SPDX-License-Identifier: GPL-2.0-or-later
"""A browser without a head, by the WebDriver protocol: as much of it as the tests of the page need."""
import base64
import json
import os
import subprocess
import tempfile
import urllib.request

from conftest import SLOW, free_port, need
from controllib import wait_for

ENTER, TAB = "\ue007", "\ue004"


class Browser:
    def __init__(self, width=1280, height=900, dark=False):
        self.folder = tempfile.TemporaryDirectory()
        port = free_port()
        self.root = f"http://127.0.0.1:{port}"
        self.driver = subprocess.Popen([need("chromedriver"), f"--port={port}"], stdout=subprocess.DEVNULL,
                                       stderr=subprocess.DEVNULL, start_new_session=True)
        wait_for("chromedriver", self.ready, timeout=60)
        args = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server",
                f"--window-size={width},{height}", f"--user-data-dir={self.folder.name}", "--hide-scrollbars",
                *(["--force-dark-mode"] if dark else [])]
        answer = self.ask("POST", "/session", {"capabilities": {"alwaysMatch": {
            "browserName": "chrome", "goog:loggingPrefs": {"browser": "ALL"},
            "goog:chromeOptions": {"args": args, "binary": need("chromium")}}}})
        self.session = "/session/" + answer["sessionId"]

    def ask(self, method, path, body=None, timeout=120):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.root + path, data=data, method=method, headers={"Content-Type": "application/json"})
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=timeout * SLOW) as r:
            return json.load(r)["value"]

    def ready(self):
        try:
            return self.ask("GET", "/status")["ready"]
        except OSError:
            return False

    def open(self, url):
        self.ask("POST", self.session + "/url", {"url": url})

    def run(self, script, *args):
        """The value that the body of a function returns."""
        return self.ask("POST", self.session + "/execute/sync", {"script": script, "args": list(args)})

    def keys(self, text):
        """Presses keys one by one, wherever the focus is."""
        actions = [{"type": kind, "value": c} for c in text for kind in ("keyDown", "keyUp")]
        self.ask("POST", self.session + "/actions", {"actions": [{"type": "key", "id": "keys", "actions": actions}]})

    def log(self):
        """What the page complained of."""
        return [e for e in self.ask("POST", self.session + "/se/log", {"type": "browser"}) if e["level"] in ("SEVERE", "WARNING")]

    def resize(self, width, height):
        """The page's own width and height, as far as it scrolls."""
        rect = self.ask("GET", self.session + "/window/rect")
        frame = rect["width"] - self.run("return innerWidth"), rect["height"] - self.run("return innerHeight")
        self.ask("POST", self.session + "/window/rect", {"width": width + frame[0], "height": height + frame[1]})

    def screenshot(self, path):
        with open(path, "wb") as f:
            f.write(base64.b64decode(self.ask("GET", self.session + "/screenshot")))

    def close(self):
        try:
            self.ask("DELETE", self.session)
        finally:
            self.driver.terminate()
            self.driver.wait(30)
            self.folder.cleanup()
