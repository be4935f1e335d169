"""A Mailgun signature used again, against a real agent."""

from __future__ import annotations

import json
import time
from pathlib import Path

from agent.simulate import SIMULATORS, Scenario, Traffic
from agent.simulate.base import sealed
from tests.servers.agent import agent
from tests.servers.raw import exchange, request


def test_a_retry_is_taken_and_another_body_under_its_signature_is_not(tmp_path: Path) -> None:
    mailgun, now = SIMULATORS["mailgun"], time.time()
    keys = mailgun.new_credentials()
    scenario = Scenario(
        start=now - 600, duration=500, until=now, messages=3, deferred=0, opened=0, late=0, duplicates=0
    )
    posts = list(mailgun.requests(Traffic(scenario, mailgun.VOICE), 1))
    one, other = (json.loads(sealed(mailgun, sent.body, keys.signing, now)) for sent in posts[:2])
    other["signature"] = one["signature"]  # overheard
    first, forged = json.dumps(one).encode(), json.dumps(other).encode()
    # A retry that is signed anew: the same token and event, another time and signature.
    later = json.loads(sealed(mailgun, posts[0].body, keys.signing, now + 2))
    assert later["signature"]["token"] == one["signature"]["token"]
    assert later["signature"] != one["signature"]
    anew = json.dumps(later).encode()
    with agent(tmp_path, {"sources": [{"name": "mg", "provider": "mailgun", **keys.settings}]}) as live:

        def post(body: bytes) -> int:
            headers = {"Content-Type": "application/json"}
            return exchange(live.public, request("POST", "/webhooks/mg", headers, body), timeout=30).status

        assert [post(body) for body in (first, first, forged, anew)] == [200, 200, 401, 200]
        assert live.counters("webhook_requests_total", "outcome") == {"accepted": 3, "replayed": 1}
        assert sum(live.counters("events_total", "kind").values()) == 1
        assert sum(live.counters("duplicate_events_total", "reason").values()) == 2
