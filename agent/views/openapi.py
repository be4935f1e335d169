"""The private listener in the words of OpenAPI 3.1: its routes here, its values from the types they are made of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from agent import __version__
from agent.alerts.mutes import LABELS, Wanted
from agent.ledger.base import Cell
from agent.sender_rules import Assessment
from agent.views.state import State

_REF = "#/components/schemas/"
_WORDS = ("ok", "attention", "failing", "unknown")


def openapi(assets: Iterable[str]) -> dict[str, Any]:
    """The document. ``assets`` are the files of the status page."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "mailvitals, private listener",
            "version": __version__,
            "description": "Fields are only ever added under /api/v1. Times are Unix seconds (0 = never), ratios 0..1.",
        },
        "security": [{"token": []}],
        "paths": _paths(assets),
        "components": {
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer", "description": "listen.private_token, where it is set"}
            },
            "schemas": _schemas(),
        },
    }


def _paths(assets: Iterable[str]) -> dict[str, Any]:
    findings = {"type": "array", "items": {"$ref": _REF + "Watched"}}
    assessments = {"type": "array", "items": {"$ref": _REF + "Assessment"}}
    domain = _parameter("path", "domain", {"type": "string", "minLength": 1}, "A configured domain.")
    names = _parameter("query", "name[]", {"type": "array", "items": {"type": "string"}}, "Only these metrics.")
    once = _parameter("query", "token", {"type": "string"}, "The private token, changed for a cookie at once.")
    # A header that a foreign page cannot send without being asked about it first.
    deliberate = _parameter("header", "X-Mailvitals", {"type": "string", "minLength": 1}, "Any value.", required=True)
    one = _parameter("query", "domain", {"type": "string"}, "A configured domain; all of them without it.")
    asset = _parameter("path", "name", {"enum": sorted(assets)}, "A file of the page.")
    mute_id = _parameter("path", "id", {"type": "string", "minLength": 1}, "What the mute was answered with.")
    busy, slow = _error("A check is running."), _error("The check took too long.")
    return {
        "/healthz": {"get": _probe("Whether the process is alive.", "Health")},
        "/readyz": {"get": _probe("Whether webhooks are taken and evaluated.", "Ready")},
        "/metrics": {"get": _route("Metrics for Prometheus.", {
            "200": _answer("Prometheus text, or OpenMetrics where it is accepted.", **{
                "text/plain": {"type": "string"}, "application/openmetrics-text": {"type": "string"},
            }),
        }, names)},
        "/": {"get": _route("The status page.", {
            "200": _answer("The page.", **{"text/html": {"type": "string"}}),
            "303": {"description": "The token was right; a cookie stands for it from now on."},
        }, once)},
        "/page/{name}": {"get": _route("A file of the status page.", {
            "200": {"description": "The file.", "content": {"*/*": {}}}, "404": _error("No such file."),
        }, asset)},
        "/api/v1/openapi.json": {"get": _route("This document.", {"200": _json("It.", {"type": "object"})})},
        "/api/v1/status": {"get": _route("All that is known.", {"200": _json("It.", {"$ref": _REF + "Status"})})},
        "/api/v1/phase": {"get": _route("Whether domains are ready for their next phase.", {
            "200": _json("Their gates, and the phases.", {"$ref": _REF + "Gates"}), "404": _error("No such domain."),
        }, one)},
        "/api/v1/stream": {"get": _route("The same whenever it changes, as server-sent events named status.", {
            "200": _answer("Events without end.", **{"text/event-stream": {"type": "string"}}),
            "503": _error("Too many listen already."),
        })},
        "/api/v1/domains/{domain}/check": {"post": _route("Check the DNS of a domain now.", {
            "200": _json("All findings.", findings), "403": _error("The header is missing."),
            "404": _error("No such domain."), "409": _error("Another agent leads."), "429": busy, "504": slow,
        }, domain, deliberate)},
        "/api/v1/mutes": {"post": {**_route("Keep incidents with these labels from being told for some hours.", {
            "201": _json("The mute.", {"$ref": _REF + "Mute"}), "403": _error("The header is missing."),
            "409": _error("There are too many."), "422": _error("It cannot be, and why."),
            "503": _error("The store does not answer."),
        }, deliberate), "requestBody": {"required": True, **_json("What is asked for.", {"$ref": _REF + "Wanted"})}}},
        "/api/v1/mutes/{id}": {"delete": _route("End a mute before its time.", {
            "204": {"description": "It is over."}, "403": _error("The header is missing."),
            "404": _error("No such mute."), "503": _error("The store does not answer."),
        }, mute_id, deliberate)},
        "/api/v1/domains/{domain}/sender-rules": {"get": _route("What large mailbox providers ask, and what is met.", {
            "200": _json("By provider.", assessments), "404": _error("No such domain."),
        }, domain)},
    }  # fmt: skip


def _route(summary: str, responses: dict[str, Any], *parameters: dict[str, Any]) -> dict[str, Any]:
    refused = _error("The token is missing or wrong.")
    return {"summary": summary, "parameters": list(parameters), "responses": {**responses, "401": refused}}


def _probe(summary: str, schema: str) -> dict[str, Any]:
    ref = {"$ref": _REF + schema}
    return {"summary": summary, "security": [], "responses": {"200": _json("Yes.", ref), "503": _json("No.", ref)}}


def _parameter(
    place: str, name: str, schema: dict[str, Any], description: str, *, required: bool = False
) -> dict[str, Any]:
    needed = required or place == "path"
    return {"in": place, "name": name, "required": needed, "schema": schema, "description": description}


def _answer(description: str, **content: dict[str, Any]) -> dict[str, Any]:
    return {"description": description, "content": {kind: {"schema": schema} for kind, schema in content.items()}}


def _json(description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return _answer(description, **{"application/json": schema})


def _error(description: str) -> dict[str, Any]:
    return _json(description, {"$ref": _REF + "Error"})


def _schemas() -> dict[str, Any]:
    _, found = msgspec.json.schema_components((State, Assessment, Wanted), ref_template=_REF + "{name}")
    schemas: dict[str, Any] = {name: _whole(schema) for name, schema in found.items()}
    state, snapshot = schemas.pop("State")["properties"], schemas.pop("Snapshot")["properties"]
    del state["snapshot"]
    bounce, incident = schemas["RecentBounce"]["properties"], schemas["Incident"]["properties"]
    del bounce["cell"]
    schemas.pop("Cell", None)
    text = {"type": "string"}
    bounce |= dict.fromkeys((*Cell._fields, "rule", "says"), text)
    bounce["points_to"] = {"type": "array", "items": text}
    incident |= {"state": {"enum": ["open", "closing", "resolved"]}, "muted_until": {"type": "number"}}
    overall = _object(state={"enum": list(_WORDS)}, reasons={"type": "array", "items": text})
    schemas["Status"] = _object(api={"const": 1}, overall=overall, **state, **snapshot)
    gates = {"type": "object", "additionalProperties": {"$ref": _REF + "PhaseGate"}}
    schemas["Gates"] = _object(api={"const": 1}, now={"type": "number"}, phases=state["phases"], domains=gates)
    schemas["Health"] = _object(healthy={"type": "boolean"}, reason=text)
    conditions = {"type": "array", "items": {"$ref": _REF + "Readiness"}}
    schemas["Ready"] = _object(ready={"type": "boolean"}, conditions=conditions)
    schemas["Error"] = _object(error=text)
    found["Wanted"]["properties"]["matchers"]["propertyNames"] = {"enum": list(LABELS)}
    schemas["Wanted"] = found["Wanted"]  # asked and not answered: what has a default may be left out
    for name in ("RecentBounce", "Incident"):
        schemas[name] = _whole(schemas[name])
    return schemas


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties)}


def _whole(schema: dict[str, Any]) -> dict[str, Any]:
    """What is answered has every field, those with a default too."""
    return {**schema, "required": list(schema["properties"])} if "properties" in schema else schema
