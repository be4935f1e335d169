"""Bodies that begin as a vendor's own and are then broken: fields of the wrong kind, missing, doubled, absurd, and
bytes that are no longer any format. All from one seed."""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlencode

from agent.simulate import SIMULATORS, Scenario, Traffic

NOW = 1_764_000_000.0
_HOUR = 3600
_ADDRESS = "jane.q.public@private-mailbox.example"
_NUMBERS = (0, -1, 1, 2**31, 2**53 + 1, 2**63, 10**40, -(10**400), 0.1, -0.0, 1e308, NOW, NOW * 1000, NOW - 10**8, 5.7)
_TEXTS = (
    "", " ", "\0", "0", "null", "NaN", "\ud800", "\u202e", "é" * 300, "a" * 70_000, "@", "@@", f"<{_ADDRESS}>",
    _ADDRESS, f"550 5.1.1 {_ADDRESS} unknown", "5.1.1", "4.999.999", "2025-13-45T99:99:99Z",
    "2025-11-24T16:00:00+99:99",
    "9999-12-31T23:59:59.999999999Z", "0001-01-01T00:00:00+14:00", "1e999", "-1", "١٢٣", "%00%ff%zz", "delivered",
    "bounce", "hard", "{}", "[]", "[[[", '{"a":', "' OR 1=1 --", "\r\nX: y", "..", ".", "-", "xn--",
    "a" * 64 + ".example",
)  # fmt: skip
_REAL = json.JSONEncoder(ensure_ascii=True, allow_nan=True)


def seeds(form: bool) -> list[tuple[str, bytes]]:
    """Genuine bodies of every vendor that posts forms (or JSON), each with the vendor's provider id."""
    scenario = Scenario(
        start=NOW - 6 * _HOUR, duration=4 * _HOUR, until=NOW, messages=40, hard=0.15, soft=0.1, block=0.1,
        undetermined=0.05, dropped=0.1, deferred=0.3, asynchronous=0.1, opened=0.4, clicked=0.5, complained=0.1,
        unsubscribed=0.1,
    )  # fmt: skip
    found = []
    for provider, simulator in sorted(SIMULATORS.items()):
        for batch in (1, 5):
            bodies = [r.body for r in simulator.requests(Traffic(scenario, simulator.VOICE), batch)]
            found += [(provider, body) for body in bodies[:60] if is_form(body) == form]
    if form:
        # What vendors post as JSON may be posted as fields too; readers of forms must stand it.
        flat = [(p, body) for p, body in seeds(form=False) if p in FORM_READERS]
        for provider, body in flat:
            value = json.loads(body)
            if isinstance(value, dict):
                fields = {k: v if isinstance(v, str) else json.dumps(v) for k, v in value.items()}
                found.append((provider, urlencode(fields).encode()))
    return found


# Providers whose posts may be forms, whatever their simulator prefers.
FORM_READERS = frozenset({"elastic_email", "mailgun", "mandrill", "smtp2go"})


def is_form(body: bytes) -> bool:
    return body.lstrip()[:1] not in (b"{", b"[")


def broken(rng: random.Random, body: bytes) -> bytes:
    """The body after one to six changes: of its values where it can still be read, of its bytes now and then."""
    changes = rng.randint(1, 6)
    if rng.random() < 0.75:
        body = _broken_form(rng, body, changes) if is_form(body) else _broken_json(rng, body, changes)
    if rng.random() < 0.35:
        for _ in range(rng.randint(1, 4)):
            body = _broken_bytes(rng, body)
    return body


def _broken_json(rng: random.Random, body: bytes, changes: int) -> bytes:
    try:
        value: Any = json.loads(body)
    except ValueError:
        # JSON Lines: one of the lines.
        lines = body.splitlines() or [b""]
        index = rng.randrange(len(lines))
        lines[index] = _broken_bytes(rng, lines[index])
        return b"\n".join(lines)
    for _ in range(changes):
        value = _changed(rng, value)
    try:
        text = _REAL.encode(value)
    except RecursionError:
        return b"[" * 5000 + body
    if rng.random() < 0.1:
        text = text.replace("\\ud800", "\\u0000")
    return text.encode("utf-8", "surrogatepass")


def _places(value: Any) -> list[tuple[Any, Any]]:
    """Every container with each of its keys or indexes."""
    found: list[tuple[Any, Any]] = []
    waiting = [value]
    while waiting:
        one = waiting.pop()
        items = list(one.items()) if isinstance(one, dict) else list(enumerate(one)) if isinstance(one, list) else []
        found += [(one, key) for key, _ in items]
        waiting += [item for _, item in items if isinstance(item, dict | list)]
    return found


def _hostile(rng: random.Random) -> Any:
    pick = rng.randrange(6)
    if pick == 0:
        return rng.choice(_NUMBERS)
    if pick == 1:
        return rng.choice((None, True, False, [], {}, [None], {"": ""}, [[]], float("nan"), float("inf")))
    if pick == 2:
        deep: Any = rng.choice(_TEXTS)
        for _ in range(rng.choice((1, 3, 40, 100))):
            deep = [deep] if rng.random() < 0.5 else {"event": deep}
        return deep
    if pick == 3:
        return [rng.choice(_TEXTS) for _ in range(rng.choice((0, 1, 2, 300)))]
    return rng.choice(_TEXTS)


def _changed(rng: random.Random, value: Any) -> Any:
    places = _places(value)
    if not places or rng.random() < 0.03:
        return rng.choice((_hostile(rng), [value], [value, value], {"events": value}))
    box, key = rng.choice(places)
    action = rng.randrange(8)
    if action < 4:
        box[key] = _hostile(rng)
    elif action == 4:
        del box[key]
    elif action == 5 and isinstance(box, list):
        box.append(box[key])
    elif action == 5:
        box[rng.choice((str(key).upper(), f"{key} ", rng.choice(_TEXTS)[:200]))] = box.pop(key)
    elif action == 6:
        other, there = rng.choice(places)
        # A copy: a value put into itself could never be written.
        box[key] = copy.deepcopy(other[there]) if there in _keys(other) else None
    elif isinstance(box[key], str):
        box[key] = _text(rng, box[key])
    return value


def _keys(box: Any) -> Any:
    return box if isinstance(box, dict) else range(len(box))


def _text(rng: random.Random, text: str) -> str:
    at = rng.randint(0, len(text))
    return text[:at] + rng.choice(_TEXTS)[:500] + text[at + rng.randint(0, 3) :]


def _broken_form(rng: random.Random, body: bytes, changes: int) -> bytes:
    fields = parse_qsl(body.decode("utf-8", "replace"), keep_blank_values=True)
    for _ in range(changes):
        if not fields:
            break
        index = rng.randrange(len(fields))
        name, text = fields[index]
        action = rng.randrange(6)
        if action == 0:
            del fields[index]
        elif action == 1:
            fields.insert(rng.randint(0, len(fields)), (name, _text(rng, text)))
        elif action == 2:
            fields[index] = (_text(rng, name), text)
        elif action == 3 and text[:1] in ("{", "["):
            fields[index] = (
                name,
                _broken_json(rng, text.encode("utf-8", "replace"), changes).decode("utf-8", "replace"),
            )
        else:
            fields[index] = (name, _text(rng, text) if action == 4 else str(_hostile(rng)))
    return urlencode([(n.encode("utf-8", "replace"), t.encode("utf-8", "replace")) for n, t in fields]).encode()


def _broken_bytes(rng: random.Random, body: bytes) -> bytes:
    at = rng.randint(0, len(body))
    ways: tuple[Callable[[], bytes], ...] = (
        lambda: body[:at],
        lambda: body[at:],
        lambda: body[:at] + rng.randbytes(rng.randint(1, 8)) + body[at:],
        lambda: body[:at] + rng.randbytes(1) + body[at + 1 :],
        lambda: body[:at] + body[max(0, at - 200) : at] * rng.randint(1, 20) + body[at:],
        lambda: body + rng.choice((b"\r\n", b"\0", b"]", b"}", b"&a=b", b"\xef\xbb\xbf", b"\n{}")),
        lambda: rng.choice((b"\xef\xbb\xbf", b"[", b" ", b"\n", b"\xff\xfe", b"&&&=")) + body,
    )
    return rng.choice(ways)()
