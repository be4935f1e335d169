"""The OpenAPI document names the routes that there are, and the values that they answer."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import msgspec
import pytest
from jsonschema.exceptions import ValidationError

from agent.alerts.mutes import Mute
from agent.views import http
from agent.views.metrics import Metrics
from agent.views.openapi import openapi
from agent.views.status import document, encode, sender_rules
from tests.unit.views import states

DOCUMENT = openapi(["index.html"])


def check(value: object, schema: str) -> None:
    """Validate, with every field named: what the document does not know must not be answered either."""
    schemas = json.loads(json.dumps(DOCUMENT["components"]["schemas"]))
    for one in schemas.values():
        if "properties" in one:
            one["additionalProperties"] = False
    jsonschema.validate(value, {"$ref": f"#/components/schemas/{schema}", "components": {"schemas": schemas}})


def test_every_route_is_named_and_none_that_is_not() -> None:
    async def check_now(domain: str) -> None:
        raise KeyError

    class Mutes:
        async def mute(self, body: bytes) -> Mute:
            raise NotImplementedError

        async def unmute(self, mute_id: str) -> None:
            raise NotImplementedError

    app = http.create_app(
        Metrics(states.state, version="1"), states.state, private_token=None, healthy=lambda: (True, ""),
        check_now=check_now, mutes=Mutes(),
    )  # fmt: skip
    routes = {(r.resource.canonical, r.method) for r in app.router.routes() if r.resource and r.method != "HEAD"}
    named = {(path, method.upper()) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert routes == named


@pytest.mark.parametrize("make", [states.state])
def test_the_status_document_is_as_it_says(make: Any) -> None:
    plain = json.loads(encode(make()))
    assert plain["recent_bounces"], "an example of each"
    assert plain["incidents"]
    assert plain["findings"]
    check(plain, "Status")
    with pytest.raises(ValidationError):
        check({**plain, "more": 1}, "Status")
    with pytest.raises(ValidationError):
        check({name: value for name, value in plain.items() if name != "leader"}, "Status")


def test_an_empty_status_document_is_too() -> None:
    empty = msgspec.structs.replace(states.state(), snapshot=None, findings=(), incidents=(), recent_bounces=())
    check(json.loads(msgspec.json.encode(document(empty))), "Status")


def test_sender_rules_are_as_it_says() -> None:
    state = states.state()
    for assessment in sender_rules(state, next(iter(state.domain_phases))):
        check(json.loads(msgspec.json.encode(assessment)), "Assessment")


def test_all_but_the_probes_ask_for_the_token() -> None:
    for path, methods in DOCUMENT["paths"].items():
        for route in methods.values():
            assert ("401" in route["responses"]) == (path not in ("/healthz", "/readyz"))
            assert ("security" in route) == (path in ("/healthz", "/readyz"))
