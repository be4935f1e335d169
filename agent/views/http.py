"""The private listener: metrics, probes, the status page and its API."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
from aiohttp import web

from agent.views.metrics import Metrics
from agent.views.mutes import MuteRoutes, Mutes
from agent.views.openapi import openapi
from agent.views.state import State
from agent.views.status import document, encode, encode_phase, sender_rules

COOKIE = "mailvitals_page"
STREAM_CLIENTS = 32
STREAM_INTERVAL = 1.0
HEARTBEAT = 15.0
# A check asks many questions with time-outs of their own; this only ends one that hangs.
CHECK_TIMEOUT = 60.0

_PROBES = ("/healthz", "/readyz")
_PAGE = {
    "index.html": "text/html",
    "app.js": "text/javascript",
    "draw.js": "text/javascript",
    "changes.js": "text/javascript",
    "phase.js": "text/javascript",
    "style.css": "text/css",
    "icon.svg": "image/svg+xml",
}
_SECURITY = {
    "Server": "mailvitals",
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}


def create_app(
    metrics: Metrics,
    state: Callable[[], State],
    *,
    private_token: str | None,
    healthy: Callable[[], tuple[bool, str]],
    check_now: Callable[[str], Awaitable[None]] | None = None,
    client_certificates: bool = False,
    mutes: Mutes | None = None,
) -> web.Application:
    """The application of the private listener.

    ``healthy`` tells whether the process is alive, and why not. ``private_token`` protects everything but the probes:
    as ``Authorization: Bearer``, or as a cookie that ``/?token=`` sets; with ``client_certificates`` it also takes a
    certificate that the TLS of the listener has found good. ``check_now`` runs the DNS checks of a domain
    at once; it raises ``KeyError`` for one that is not configured. ``mutes`` keeps incidents from being told. ``state``
    is called on the event loop.
    """
    views = _Views(metrics, state, healthy, check_now)
    app = web.Application(middlewares=[_errors, _guard(private_token, client_certificates)])
    app.on_response_prepare.append(_secure)
    app.on_shutdown.append(views.stop)
    app.router.add_get("/healthz", views.healthz)
    app.router.add_get("/readyz", views.readyz)
    app.router.add_get("/metrics", views.metrics)
    app.router.add_get("/", views.page)
    app.router.add_get("/page/{name}", views.page)
    app.router.add_get("/api/v1/openapi.json", views.openapi)
    app.router.add_get("/api/v1/status", views.status)
    app.router.add_get("/api/v1/phase", views.phase)
    app.router.add_get("/api/v1/stream", views.stream, allow_head=False)
    app.router.add_post("/api/v1/domains/{domain}/check", views.check)
    app.router.add_get("/api/v1/domains/{domain}/sender-rules", views.sender_rules)
    if mutes:
        MuteRoutes(mutes).add_to(app)
    return app


def _json(value: object, status: int = 200, headers: dict[str, str] | None = None) -> web.Response:
    body = msgspec.json.encode(value)
    return web.Response(body=body, status=status, content_type="application/json", headers=headers)


async def _secure(request: web.Request, response: web.StreamResponse) -> None:
    response.headers.update(_SECURITY)


@web.middleware
async def _errors(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as e:
        if e.status < 400:
            raise
        allow = {"Allow": e.headers["Allow"]} if "Allow" in e.headers else None
        return _json({"error": e.reason.lower()}, e.status, allow)


def _guard(token: str | None, certificates: bool) -> Callable[..., Awaitable[web.StreamResponse]]:
    key = (token or "").encode()
    # The cookie proves knowledge of the token without being it.
    ticket = hmac.digest(key, b"mailvitals status page", hashlib.sha256).hex() if token else ""

    def same(given: str, expected: bytes) -> bool:
        return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected)

    @web.middleware
    async def guard(
        request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
    ) -> web.StreamResponse:
        if request.path in _PROBES:
            return await handler(request)
        if certificates and not request.get_extra_info("peercert"):
            return _json({"error": "a client certificate is needed"}, 401)
        if not token:
            return await handler(request)
        if request.path == "/" and "token" in request.query and same(request.query["token"], key):
            # Away from the address bar, the history and the logs of proxies at once. The empty relative reference
            # keeps a path prefix that a reverse proxy may have added.
            response = web.Response(status=303, headers={"Location": "."})
            response.set_cookie(COOKIE, ticket, httponly=True, samesite="Lax", secure=request.secure)
            return response
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() == "bearer" and same(given.strip(), key):
            return await handler(request)
        if same(request.cookies.get(COOKIE, ""), ticket.encode()):
            return await handler(request)
        return _json({"error": "unauthorized"}, 401, {"WWW-Authenticate": "Bearer"})

    return guard


class NotLeading(Exception):
    """Another agent does this; the message names it."""


class _Views:
    def __init__(
        self,
        metrics: Metrics,
        state: Callable[[], State],
        healthy: Callable[[], tuple[bool, str]],
        check_now: Callable[[str], Awaitable[None]] | None,
    ) -> None:
        self._metrics = metrics
        self._state = state
        self._healthy = healthy
        self._check_now = check_now
        self._checking = asyncio.Lock()
        self._stopping = asyncio.Event()
        self._clients = 0
        self._latest: tuple[float, str, bytes] = (float("-inf"), "", b"")
        page = Path(__file__).with_name("page")
        self._assets = {name: (page / name).read_bytes() for name in _PAGE}
        self._openapi = msgspec.json.encode(openapi(_PAGE))

    async def stop(self, app: web.Application) -> None:
        self._stopping.set()

    async def healthz(self, request: web.Request) -> web.Response:
        ok, reason = self._healthy()
        return _json({"healthy": ok, "reason": reason}, 200 if ok else 503)

    async def readyz(self, request: web.Request) -> web.Response:
        conditions = self._state().readiness
        ready = all(condition.ok for condition in conditions)
        return _json({"ready": ready, "conditions": conditions}, 200 if ready else 503)

    async def metrics(self, request: web.Request) -> web.Response:
        accept = ",".join(request.headers.getall("Accept", []))
        compress = "gzip" in request.headers.get("Accept-Encoding", "")
        names = request.query.getall("name[]", [])
        # Thousands of series take tens of milliseconds: not on the loop.
        body, content_type = await asyncio.to_thread(self._metrics.render, self._state(), accept, names, compress)
        headers = {"Content-Type": content_type, "Vary": "Accept, Accept-Encoding"}
        if compress:
            headers["Content-Encoding"] = "gzip"
        return web.Response(body=body, headers=headers)

    async def page(self, request: web.Request) -> web.Response:
        name = request.match_info.get("name", "index.html")
        if name not in self._assets:
            raise web.HTTPNotFound
        return web.Response(body=self._assets[name], content_type=_PAGE[name], charset="utf-8")

    async def openapi(self, request: web.Request) -> web.Response:
        return web.Response(body=self._openapi, content_type="application/json")

    async def status(self, request: web.Request) -> web.Response:
        return web.Response(body=encode(self._state()), content_type="application/json")

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events (WHATWG HTML 9.2): the status document whenever anything but the clock changed."""
        if self._clients >= STREAM_CLIENTS or self._stopping.is_set():
            return _json({"error": "too many streams"}, 503, {"Retry-After": "5"})
        self._clients += 1
        try:
            response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Accel-Buffering": "no"})
            await response.prepare(request)
            await response.write(b"retry: 3000\n\n")
            loop = asyncio.get_running_loop()
            seen, quiet_since = "", loop.time()
            while not self._stopping.is_set():
                digest, body = self._current()
                if digest != seen:
                    await response.write(b"event: status\ndata: " + body + b"\n\n")
                    seen, quiet_since = digest, loop.time()
                elif loop.time() - quiet_since >= HEARTBEAT:
                    await response.write(b": alive\n\n")
                    quiet_since = loop.time()
                try:
                    async with asyncio.timeout(STREAM_INTERVAL):
                        await self._stopping.wait()
                except TimeoutError:
                    pass
        except ConnectionResetError:
            pass
        finally:
            self._clients -= 1
        return response

    def _current(self) -> tuple[str, bytes]:
        """The document and a digest of all of it but the clock; encoded once per interval for all streams together."""
        now = asyncio.get_running_loop().time()
        at, digest, body = self._latest
        if now - at >= STREAM_INTERVAL * 0.9:
            state = self._state()
            digest = hashlib.sha256(encode(msgspec.structs.replace(state, now=0.0))).hexdigest()
            body = encode(state)
            self._latest = (now, digest, body)
        return digest, body

    async def phase(self, request: web.Request) -> web.Response:
        """Whether the domains, or the one that is asked for, are ready for their next phase."""
        try:
            body = encode_phase(self._state(), request.query.get("domain"))
        except KeyError:
            raise web.HTTPNotFound from None
        return web.Response(body=body, content_type="application/json")

    async def sender_rules(self, request: web.Request) -> web.Response:
        """What the large mailbox providers ask of a domain, worked out when somebody looks."""
        try:
            return _json(sender_rules(self._state(), request.match_info["domain"]))
        except KeyError:
            raise web.HTTPNotFound from None

    async def check(self, request: web.Request) -> web.Response:
        """Check a domain now. The header is one that a foreign page cannot send without being asked about it first."""
        if self._check_now is None:
            raise web.HTTPNotFound
        if not request.headers.get("X-Mailvitals"):
            raise web.HTTPForbidden
        if self._checking.locked():
            return _json({"error": "a check is running"}, 429, {"Retry-After": "5"})
        async with self._checking:
            try:
                async with asyncio.timeout(CHECK_TIMEOUT):
                    await self._check_now(request.match_info["domain"])
            except KeyError:
                raise web.HTTPNotFound from None
            except NotLeading as e:
                return _json({"error": f"only the leading agent checks: {e or 'nobody leads yet'}"}, 409)
            except TimeoutError:
                return _json({"error": "the check took too long"}, 504)
        return _json(document(self._state())["findings"])
