"""Headless Chromium by its debugging pipe: no ports, no driver, nothing to install but Chromium."""

from __future__ import annotations

import base64
import fcntl
import json
import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--hide-scrollbars",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
)


def chromium() -> str | None:
    """Path of a Chromium, None where there is none."""
    names = (
        os.environ.get("NAVSYNTH_CHROMIUM", ""),
        "chromium",
        "chromium-browser",
        "google-chrome",
    )
    return next((found for name in names if name and (found := shutil.which(name))), None)


class Browser:
    """One tab. `problems` collects errors of the console and of the page's scripts."""

    def __init__(self, requests: int, answers: int):
        self._requests, self._answers = requests, os.fdopen(answers, "rb", buffering=0)
        self._buffer = b""
        self._number = 0
        self._session: str | None = None
        self.problems: list[str] = []
        self.requested: list[str] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        attached = self.call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """Send a command and wait for its answer; events on the way are noted."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._requests, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._read()
            if answer.get("id") == self._number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]
            self._note(answer)

    def open(self, path: Path, *, width: int, height: int = 900, dark: bool = False) -> None:
        """Load a local page in a window of a size and a colour scheme."""
        size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **size)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Page.navigate", url=path.resolve().as_uri())
        ready = "document.readyState == 'complete'"
        self.run(f"new Promise(done => {ready} ? done() : addEventListener('load', done))")

    def run(self, script: str) -> Any:
        """The value of a JavaScript expression, promises awaited."""
        options = {"expression": script, "awaitPromise": True, "returnByValue": True}
        result = self.call("Runtime.evaluate", **options)
        if "exceptionDetails" in result:
            raise RuntimeError(str(result["exceptionDetails"]))
        return result["result"].get("value")

    def screenshot(self, path: Path, *, whole: bool = True) -> Path:
        """PNG of the window, or of the whole page."""
        shot = self.call("Page.captureScreenshot", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(shot["data"]))
        return path

    def point(self, selector: str, *, at: float = 0.5) -> None:
        """Move the pointer over an element: `at` of its width, the middle of its height."""
        where = f"document.querySelector({json.dumps(selector)})"
        self.run(f"{where}.scrollIntoView({{block: 'center'}})")
        box = self.run(f"(b => [b.x, b.y, b.width, b.height])({where}.getBoundingClientRect())")
        x, y = box[0] + at * box[2], box[1] + box[3] / 2
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            part = self._answers.read(1 << 16)
            if not part:
                raise RuntimeError("Chromium has gone")
            self._buffer += part
        message, self._buffer = self._buffer.split(b"\0", 1)
        return json.loads(message)

    def _note(self, event: dict[str, Any]) -> None:
        details = event.get("params", {})
        if event.get("method") == "Runtime.exceptionThrown":
            self.problems.append(str(details["exceptionDetails"]))
        elif event.get("method") == "Runtime.consoleAPICalled" and details["type"] == "error":
            self.problems.append(str(details["args"]))
        elif event.get("method") == "Log.entryAdded" and details["entry"]["level"] == "error":
            self.problems.append(str(details["entry"]))
        elif event.get("method") == "Network.requestWillBeSent":
            self.requested.append(details["request"]["url"])


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    """A Chromium with an empty profile; ended, with its children, when the block is left."""
    binary = chromium()
    assert binary, "look for one before"
    ours, theirs = os.pipe(), os.pipe()
    requests_read, answers_write = (
        fcntl.fcntl(fd, fcntl.F_DUPFD, 20) for fd in (ours[0], theirs[1])
    )
    null = os.open(os.devnull, os.O_RDWR)
    actions = [
        (os.POSIX_SPAWN_DUP2, requests_read, 3),
        (os.POSIX_SPAWN_DUP2, answers_write, 4),
        (os.POSIX_SPAWN_DUP2, null, 1),
        (os.POSIX_SPAWN_DUP2, null, 2),
    ]
    command = [binary, *FLAGS, f"--user-data-dir={profile}"]
    pid = os.posix_spawn(binary, command, os.environ, file_actions=actions, setpgroup=0)
    for fd in (requests_read, answers_write, ours[0], theirs[1], null):
        os.close(fd)
    try:
        yield Browser(ours[1], theirs[0])
    finally:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(ours[1])
