"""Where simulated traffic goes: to a URL, paced and retried as an ESP does, or into a file."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from typing import BinaryIO

import aiohttp
import msgspec

from agent.providers.base import Credentials
from agent.simulate import SIMULATORS, Request, Scenario, Traffic, Truth
from agent.simulate.base import sealed
from agent.simulate.retry import Schedule

# How much faster than the vendor's the clock of the retries runs by default: an hour of its patience is a second.
HASTE = 3600.0
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 10.0
# Requests that may wait for their retry at once; then no new ones are sent until some are through.
_WAITING = 10_000
_TIMEOUT = aiohttp.ClientTimeout(total=30)


class Sent(msgspec.Struct):
    """What came of the sending. ``delivered`` requests were answered as the vendor wants it in the end, ``reports``
    were in them; ``retries`` counts answers (and failures to get one) that led to another try, ``retried`` the same by
    answer; ``failed`` requests were given up and ``lost`` reports with them, ``given_up`` says by which rule;
    ``last_error`` is the last answer that was no success, such as ``HTTP 503``."""

    truth: Truth
    delivered: int = 0
    reports: int = 0
    retries: int = 0
    failed: int = 0
    lost: int = 0
    retried: dict[str, int] = msgspec.field(default_factory=dict)
    given_up: dict[str, int] = msgspec.field(default_factory=dict)
    last_error: str = ""


Progress = Callable[[Sent], None]
# The answer's status, 0 for none, and how to call it.
Answer = tuple[int, str]


async def simulate(
    provider: str,
    scenario: Scenario,
    url: str,
    credentials: Credentials,
    *,
    rate: float = 0.0,
    batch: int = 100,
    concurrency: int = 16,
    attempts: int | None = None,
    time_scale: float | None = None,
    progress: Progress | None = None,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Sent:
    """Post a whole scenario to ``url`` at ``rate`` reports a second (0: as fast as it is taken).

    A request that is not taken is retried as the vendor does, ``time_scale`` times as fast; with a ``time_scale`` and
    no ``rate`` the traffic too comes as it came, so many times as fast. Without one only the retries are hurried,
    ``HASTE`` times. An answer 401 ends it: the credentials at hand do not get better. With ``attempts`` the vendor's
    rules do not hold: whatever is not answered 2xx is tried again so often, after growing pauses. Raises ``KeyError``
    for an unknown provider and ``ValueError`` when the credentials cannot sign.
    """
    simulator = SIMULATORS[provider]
    traffic = Traffic(scenario, simulator.VOICE)
    sent = Sent(traffic.truth)
    simulator.sign(b"", credentials, time.time())  # wrong credentials show here, not in the middle of it
    schedule = simulator.RETRY if attempts is None else _patient(attempts)
    haste = (time_scale or HASTE) if attempts is None else 1.0
    posting, waiting = asyncio.Semaphore(concurrency), asyncio.Semaphore(_WAITING)

    connector = aiohttp.TCPConnector(limit=concurrency)
    async with aiohttp.ClientSession(timeout=_TIMEOUT, connector=connector) as session:

        async def post(body: bytes) -> Answer:
            now = time.time()
            body = sealed(simulator, body, credentials, now)
            return await _post(session, url, body, simulator.sign(body, credentials, now))

        async def see_through(request: Request) -> None:
            """From the first attempt, for which a place is held already, to the end."""
            attempt = 1
            while True:
                try:
                    status, answer = await post(request.body)
                finally:
                    posting.release()
                if status in schedule.taken:
                    sent.delivered += 1
                    sent.reports += request.reports
                    break
                sent.last_error = answer
                unauthorized = status == 401 and attempts is None
                then = _UNAUTHORIZED if unauthorized else schedule.next(request.body, status, attempt)
                if isinstance(then, str):
                    sent.failed += 1
                    sent.lost += request.reports
                    sent.given_up[then] = sent.given_up.get(then, 0) + 1
                    break
                sent.retries += 1
                sent.retried[answer] = sent.retried.get(answer, 0) + 1
                await sleep(then / haste)
                attempt += 1
                await posting.acquire()
            waiting.release()
            if progress:
                progress(sent)

        async with asyncio.TaskGroup() as group:
            async for request in _paced(simulator.requests(traffic, batch), rate, time_scale, sleep):
                await waiting.acquire()
                await posting.acquire()
                group.create_task(see_through(request))
    return sent


_UNAUTHORIZED = "HTTP 401: the credentials do not fit"


def _patient(attempts: int) -> Schedule:
    pauses = (min(_FIRST_PAUSE * 2.0 ** min(n, 30), _LONGEST_PAUSE) for n in range(attempts - 1))
    return Schedule(delays=tuple(pauses))


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


async def _paced(
    requests: Iterable[Request], rate: float, time_scale: float | None, sleep: Callable[[float], Awaitable[None]]
) -> AsyncIterator[Request]:
    start = time.monotonic()
    first: float | None = None
    reports = 0
    for request in requests:
        first = request.emitted_at if first is None else first
        due = reports / rate if rate > 0 else (request.emitted_at - first) / time_scale if time_scale else 0.0
        ahead = start + due - time.monotonic()
        if ahead > 0:
            await sleep(ahead)
        yield request
        reports += request.reports


async def _post(session: aiohttp.ClientSession, url: str, body: bytes, headers: dict[str, str]) -> Answer:
    try:
        async with session.post(url, data=body, headers=headers, allow_redirects=False) as response:
            await response.read()
            return response.status, f"HTTP {response.status}"
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return 0, type(error).__name__
