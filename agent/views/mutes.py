"""Mutes over the private API: made, and ended before their time."""

from __future__ import annotations

from typing import Protocol

import msgspec
from aiohttp import web

from agent.alerts.mutes import MOST, Mute, MuteError, TooManyMutes
from agent.ledger.base import StoreUnavailable


class Mutes(Protocol):
    """Who keeps the mutes."""

    async def mute(self, body: bytes) -> Mute:
        """Raises ``MuteError``, ``TooManyMutes`` and ``StoreUnavailable``."""

    async def unmute(self, mute_id: str) -> None:
        """Raises ``KeyError`` and ``StoreUnavailable``."""


class MuteRoutes:
    """The routes. Both want a header that a foreign page cannot send without being asked about it first."""

    def __init__(self, mutes: Mutes) -> None:
        self._mutes = mutes

    def add_to(self, app: web.Application) -> None:
        app.router.add_post("/api/v1/mutes", self.mute)
        app.router.add_delete("/api/v1/mutes/{id}", self.unmute)

    async def mute(self, request: web.Request) -> web.Response:
        _deliberate(request)
        try:
            return _json(await self._mutes.mute(await request.read()), 201)
        except MuteError as e:
            return _json({"error": str(e)}, 422)
        except TooManyMutes:
            return _json({"error": f"there are {MOST} mutes already"}, 409)
        except StoreUnavailable:
            return _json({"error": "the store does not answer"}, 503)

    async def unmute(self, request: web.Request) -> web.Response:
        _deliberate(request)
        try:
            await self._mutes.unmute(request.match_info["id"])
        except KeyError:
            raise web.HTTPNotFound from None
        except StoreUnavailable:
            return _json({"error": "the store does not answer"}, 503)
        return web.Response(status=204)


def _deliberate(request: web.Request) -> None:
    if not request.headers.get("X-Mailvitals"):
        raise web.HTTPForbidden


def _json(value: object, status: int) -> web.Response:
    return web.Response(body=msgspec.json.encode(value), status=status, content_type="application/json")
