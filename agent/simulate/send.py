"""Where simulated traffic goes: to a URL, paced and retried as an ESP does, or into a file."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import BinaryIO

import aiohttp
import msgspec

from agent.providers.base import Credentials
from agent.simulate import SIMULATORS, Request, Scenario, Traffic, Truth
from agent.simulate.base import sealed

ATTEMPTS = 8
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 10.0
_TIMEOUT = aiohttp.ClientTimeout(total=30)


class Sent(msgspec.Struct):
    """What came of the sending. ``delivered`` requests were answered 2xx in the end, ``reports`` were in them;
    ``retries`` counts answers (and failures to get one) that led to another try, ``failed`` requests were given up;
    ``last_error`` is the last answer that was no success, such as ``HTTP 503``."""

    truth: Truth
    delivered: int = 0
    reports: int = 0
    retries: int = 0
    failed: int = 0
    last_error: str = ""


Progress = Callable[[Sent], None]


async def simulate(
    provider: str,
    scenario: Scenario,
    url: str,
    credentials: Credentials,
    *,
    rate: float = 0.0,
    batch: int = 100,
    concurrency: int = 16,
    attempts: int = ATTEMPTS,
    progress: Progress | None = None,
) -> Sent:
    """Post a whole scenario to ``url`` at ``rate`` reports a second (0: as fast as it is taken).

    Every request not answered 2xx is tried again with growing pauses, ``attempts`` times in all. Raises ``KeyError``
    for an unknown provider and ``ValueError`` when the credentials cannot sign.
    """
    simulator = SIMULATORS[provider]
    traffic = Traffic(scenario, simulator.VOICE)
    sent = Sent(traffic.truth)
    simulator.sign(b"", credentials, time.time())  # wrong credentials show here, not in the middle of it
    queue: asyncio.Queue[Request | None] = asyncio.Queue(2 * concurrency)

    connector = aiohttp.TCPConnector(limit=concurrency)
    async with aiohttp.ClientSession(timeout=_TIMEOUT, connector=connector) as session:

        async def post(body: bytes) -> str:
            now = time.time()
            body = sealed(simulator, body, credentials, now)
            return await _post(session, url, body, simulator.sign(body, credentials, now))

        async with asyncio.TaskGroup() as group:
            for _ in range(concurrency):
                group.create_task(_work(queue, post, attempts, sent, progress))
            await _feed(simulator.requests(traffic, batch), queue, rate)
            for _ in range(concurrency):
                await queue.put(None)
    return sent


def write(provider: str, scenario: Scenario, file: BinaryIO, *, batch: int = 100) -> Truth:
    """Write the bodies of a scenario, one per line, as ``mailvitals import`` reads them."""
    simulator = SIMULATORS[provider]
    traffic = Traffic(scenario, simulator.VOICE)
    file.writelines(_lines(simulator.requests(traffic, batch)))
    return traffic.truth


def _lines(requests: Iterable[Request]) -> Iterator[bytes]:
    for request in requests:
        # Line ends stand only between the values of JSON, never within one.
        yield b"".join(request.body.splitlines()) + b"\n"


async def _feed(requests: Iterator[Request], queue: asyncio.Queue[Request | None], rate: float) -> None:
    start = time.monotonic()
    reports = 0
    for request in requests:
        if rate > 0:
            ahead = start + reports / rate - time.monotonic()
            if ahead > 0:
                await asyncio.sleep(ahead)
        await queue.put(request)
        reports += request.reports


async def _work(
    queue: asyncio.Queue[Request | None],
    post: Callable[[bytes], Awaitable[str]],
    attempts: int,
    sent: Sent,
    progress: Progress | None,
) -> None:
    while (request := await queue.get()) is not None:
        pause = _FIRST_PAUSE
        for attempt in range(1, attempts + 1):
            error = await post(request.body)
            if not error:
                sent.delivered += 1
                sent.reports += request.reports
                break
            sent.last_error = error
            if attempt == attempts:
                sent.failed += 1
                break
            sent.retries += 1
            await asyncio.sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)
        if progress:
            progress(sent)


async def _post(session: aiohttp.ClientSession, url: str, body: bytes, headers: dict[str, str]) -> str:
    """Why the request was not taken, ``""`` when it was."""
    try:
        async with session.post(url, data=body, headers=headers, allow_redirects=False) as response:
            await response.read()
            return "" if 200 <= response.status < 300 else f"HTTP {response.status}"
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return type(error).__name__
