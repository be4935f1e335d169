"""What reading costs, by provider: the proof and the words of one event, beside decoding the same bytes alone."""

from __future__ import annotations

import time
from collections.abc import Callable
from urllib.parse import parse_qsl

import msgspec

from agent.providers import PROVIDERS, Credentials, WebhookRequest
from agent.simulate import SIMULATORS, Scenario, Traffic
from agent.simulate.base import sealed

_BATCH = 100  # reports a request, where the vendor sends many at once
_decode = msgspec.json.decode


def parsing(reports: int) -> None:
    """Print one line a provider. Costs grow with the number of events and, for signatures, with the bytes."""
    print("\nReading, on one core: microseconds an event")
    print(f"  {'provider':<14} {'a request':>9} {'proof':>8} {'parse':>8} {'decode':>8} {'parse/decode':>13}")
    for provider in sorted(SIMULATORS):
        requests, credentials, events = _requests(provider, reports)
        module = PROVIDERS[provider]

        def prove(request: WebhookRequest, module=module, credentials=credentials) -> None:
            module.authenticate(request, credentials)

        proof = _micros(prove, requests, events)
        parse = _micros(module.parse, requests, events)
        decode = _micros(_decoded, requests, events)
        print(
            f"  {provider:<14} {events / len(requests):>9.0f} {proof:>8.2f} {parse:>8.2f} {decode:>8.2f} "
            f"{parse / decode:>13.1f}"
        )


def _requests(provider: str, reports: int) -> tuple[list[WebhookRequest], Credentials, int]:
    """Signed requests with about so many reports, what proves them, and how many events are in them."""
    now = time.time()
    scenario = Scenario(start=now - 7200, duration=3600, until=now, messages=reports, duplicates=0, late=0)
    simulator = SIMULATORS[provider]
    pair = simulator.new_credentials()
    requests = []
    for sent in simulator.requests(Traffic(scenario, simulator.VOICE), _BATCH):
        body = sealed(simulator, sent.body, pair.signing, now)
        headers = {k.lower(): v for k, v in simulator.sign(body, pair.signing, now).items()}
        requests.append(WebhookRequest("POST", f"/webhooks/{provider}", "", headers, body, now))
    return requests, pair.settings, sum(len(PROVIDERS[provider].parse(r)) for r in requests)


def _decoded(request: WebhookRequest) -> object:
    """The body as values, whatever they mean: JSON, JSON Lines, or a form's fields."""
    body = request.body
    if body[:1] in (b"{", b"["):
        try:
            return _decode(body)
        except msgspec.DecodeError:
            return [_decode(line) for line in body.splitlines()]
    return parse_qsl(body.decode())


def _micros(do: Callable[[WebhookRequest], object], requests: list[WebhookRequest], events: int) -> float:
    """Microseconds an event, the best of three runs."""
    best = float("inf")
    for _ in range(3):
        start = time.perf_counter()
        for request in requests:
            do(request)
        best = min(best, time.perf_counter() - start)
    return 1e6 * best / events
