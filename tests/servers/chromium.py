"""A real browser for tests: headless Chromium, driven over its DevTools protocol."""

from __future__ import annotations

import base64
import contextlib
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

from tests.servers.base import free_port, http_ok, program, running

FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions",
    "--no-default-browser-check", "--remote-allow-origins=*",
)  # fmt: skip


class Tab:
    """One page. What its scripts and policies complained about is kept in ``complaints``."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self.complaints: list[str] = []

    async def call(self, method: str, **params: Any) -> dict[str, Any]:
        """One command of the DevTools protocol and its result."""
        wanted = next(self._ids)
        await self._socket.send_json({"id": wanted, "method": method, "params": params})
        while True:
            message = await self._socket.receive_json(timeout=30)
            if message.get("id") == wanted:
                if "error" in message:
                    raise AssertionError(f"{method}: {message['error']}")
                result: dict[str, Any] = message["result"]
                return result
            if message.get("method") == "Log.entryAdded":
                self.complaints.append(message["params"]["entry"]["text"])
            elif message.get("method") == "Runtime.exceptionThrown":
                self.complaints.append(str(message["params"]["exceptionDetails"]))

    async def run(self, expression: str) -> Any:
        """The value of a JavaScript expression in the page; promises are awaited."""
        result = await self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            raise AssertionError(str(result["exceptionDetails"]))
        return result["result"].get("value")

    async def wait(self, expression: str, seconds: float = 15) -> None:
        """Until the expression is true in the page, looked at 20 times a second."""
        poll = (
            f"new Promise((done) => {{ const end = Date.now() + {seconds * 1000}; const look = () => {{ let ok = false;"
            f" try {{ ok = {expression}; }} catch {{}} if (ok || Date.now() > end) done(!!ok);"
            " else setTimeout(look, 50); }; look(); })"
        )
        assert await self.run(poll), f"not within {seconds:g} s in the page: {expression}"

    async def open(self, url: str, width: int = 1280, height: int = 900, dark: bool = False) -> None:
        """Go to the URL with a viewport of that size and that colour scheme."""
        for domain in ("Page", "Runtime", "Log"):
            await self.call(f"{domain}.enable")
        await self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        await self.call("Emulation.setEmulatedMedia", features=[scheme])
        await self.call("Page.navigate", url=url)
        await self.wait(f"document.readyState === 'complete' && location.href.startsWith({url.partition('?')[0]!r})")

    async def text(self) -> str:
        """What a reader sees."""
        seen: str = await self.run("document.body.innerText")
        return seen

    async def screenshot(self, path: Path) -> None:
        """The whole page as PNG, beyond the fold too."""
        image = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(image["data"]))


@contextlib.asynccontextmanager
async def chromium(tmp_path: Path) -> AsyncIterator[Tab]:
    """A fresh browser with one empty tab."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [program("chromium", "chromium"), *FLAGS, f"--remote-debugging-port={port}",
               f"--user-data-dir={tmp_path / 'profile'}", "about:blank"]  # fmt: skip
    with running(command, tmp_path / "chromium.log", lambda: http_ok(f"{url}/json/version")):
        async with aiohttp.ClientSession() as session:
            async with session.get(f"{url}/json/list") as response:
                page = next(target for target in await response.json() if target["type"] == "page")
            async with session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0) as socket:
                yield Tab(socket)
