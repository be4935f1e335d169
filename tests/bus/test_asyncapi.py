"""docs/asyncapi.yaml says what is sent: real messages fit its schemas, and every field has its line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
import yaml
from jsonschema import Draft202012Validator

from agent.bus.outward import FindingMessage, SubjectFinding, VerdictMessage, messages
from agent.bus.wire import EVENTS_A_MESSAGE, PREFIX, Confirmation, Header, Reason, WireEvent, confirm, join, sign
from agent.dns.checks.base import Verdict
from agent.events import BounceClass, Event, Kind
from agent.vitals.types import TargetVerdict
from tests.bus import test_outward, test_wire

DOCUMENT: dict[str, Any] = yaml.safe_load((Path(__file__).parents[2] / "docs/asyncapi.yaml").read_text())
SCHEMAS = DOCUMENT["components"]["schemas"]


def problems(where: dict[str, Any], value: object) -> list[str]:
    schema = {**where, "components": DOCUMENT["components"]}
    return [error.message for error in Draft202012Validator(schema).iter_errors(value)]


def message(name: str) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["components"]["messages"][name]
    return found


def test_every_schema_is_one() -> None:
    for schema in SCHEMAS.values():
        Draft202012Validator.check_schema(schema)
    for operation in DOCUMENT["operations"].values():
        assert operation["channel"]["$ref"].rpartition("/")[2] in DOCUMENT["channels"]
    assert all(c["address"].startswith(PREFIX + "/") for c in DOCUMENT["channels"].values())


@pytest.mark.parametrize(("name", "model"), [
    ("Event", WireEvent), ("Confirmation", Confirmation), ("Verdict", VerdictMessage), ("Finding", FindingMessage),
])  # fmt: skip
def test_every_field_has_its_line(name: str, model: type[msgspec.Struct]) -> None:
    assert list(SCHEMAS[name]["properties"]) == list(model.__struct_fields__)


def test_every_word_of_a_list_has_its_line() -> None:
    event = SCHEMAS["Event"]["properties"]
    assert set(SCHEMAS["Header"]["properties"]) == {"version", "hmac", *Header.__struct_fields__}
    assert set(event["kind"]["enum"]) == set(Kind)
    assert set(event["bounce_class"]["enum"]) == set(BounceClass)
    assert set(SCHEMAS["Verdict"]["properties"]["verdict"]["enum"]) == set(TargetVerdict)
    finding = SCHEMAS["Finding"]["properties"]
    assert set(finding["verdict"]["enum"]) == set(Verdict)
    assert list(finding["subjects"]["items"]["properties"]) == list(SubjectFinding.__struct_fields__)
    assert message("batch")["payload"]["maxItems"] == EVENTS_A_MESSAGE
    assert all(reason in DOCUMENT["channels"]["dead"]["description"] for reason in get_args(Reason))


def test_batches_fit() -> None:
    everything = Event(
        Kind.BOUNCED, 5.5, recipient="a@mail.example", message_id="m", bounce_class=BounceClass.SOFT,
        domain="example.com", smtp_code=450, enhanced_code="4.2.2", reason="full", asynchronous=True,
    )  # fmt: skip
    some = [everything, Event(Kind.DEFERRED, 6.0, recipient="b@x", message_id="m"), Event(Kind.OTHER, 7.0)]
    (payload,) = test_wire.encoded(test_wire.batch(*some, token="t", digest=b"digest"))
    assert problems(message("batch")["payload"], json.loads(payload)) == []
    assert {name for event in json.loads(payload) for name in event} == set(SCHEMAS["Event"]["properties"])
    for header in (test_wire.HEADER, msgspec.structs.replace(test_wire.HEADER, what="quarantine", reason="cut short")):
        assert problems(message("batch")["headers"], sign(header, payload, b"k" * 32)) == []


def test_what_does_not_fit_would_be_seen() -> None:
    one = {"id": "0" * 24, "kind": "opened", "at": 1}
    assert problems(message("batch")["payload"], [one]) == []
    for wrong in ({**one, "recipient": "a@b.example"}, {**one, "kind": "eaten"}, {"id": "0" * 24}, {**one, "id": "x"}):
        assert problems(message("batch")["payload"], [wrong]), wrong


def test_words_back_verdicts_and_findings_fit() -> None:
    properties, payload = confirm(Confirmation("a" * 32, "refused"), b"k" * 32)
    assert problems(message("confirmation")["headers"], properties) == []
    assert problems(message("confirmation")["payload"], json.loads(payload)) == []
    built = messages(
        test_outward.snapshot("example.com", verdict=TargetVerdict.BREACHED),
        [test_outward.watched("s1", Verdict.FAIL), test_outward.watched("s2", Verdict.UNKNOWN)],
    )
    assert len(built) == 3
    for topic, made in built.items():
        name = "verdict" if "/verdicts/" in topic else "finding"
        assert problems(message(name)["payload"], json.loads(made.payload)) == [], topic
    assert join([]) == b"[]"
