"""Settings: every source of them, every way they can be wrong, and that no message gives a secret away."""

from __future__ import annotations

import importlib.util
import json
import re
import time
from base64 import b64encode
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from agent.ledger.base import Server
from agent.providers import PROVIDERS
from agent.settings import Settings, SettingsError, load, load_policy, loads, schema
from agent.settings_file import MAX_BYTES, keys, variable

ROOT = Path(__file__).parents[2]
VERIFICATION_KEY = b64encode(
    generate_private_key(SECP256R1()).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
).decode()
BASE = 'listen: {}\nstore: {url: "sqlite:////var/lib/x/ledger.db"}\n'
DOMAINS = BASE + "domains: [{name: example.com}]\n"
SECRET = "hunter2hunter2hunter2hunter2hunter2hunter2"
SQLITE = '"sqlite:////var/lib/x/ledger.db"'
KEYED = f"identity_key: {'k' * 32}"


def problems(text: str, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        loads(text, environ or {}, "m.yaml")
    assert str(caught.value) == "\n".join(caught.value.problems)
    return caught.value.problems


def postmark(**credentials: Any) -> str:
    return BASE + "sources:\n  - " + json.dumps({"name": "pm", "provider": "postmark", **credentials}) + "\n"


def test_a_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "m.yaml"
    path.write_text("\ufeff" + DOMAINS + "dns: {interval: 2m, resolvers: ['192.0.2.53', '[2001:db8::1]:5353']}\n")
    got = load(path, {})
    assert got.store.path == Path("/var/lib/x/ledger.db")
    assert (got.dns.interval, got.dns.min_interval) == (120.0, 60.0)
    assert got.dns.resolvers == ("192.0.2.53", "[2001:db8::1]:5353")
    assert [d.name for d in got.domains] == ["example.com"]


def test_a_password_in_the_url_of_a_store_is_a_secret() -> None:
    url = "postgresql://me:p%40ss@db1:5432,db2/mail?sslmode=verify-full&target_session_attrs=primary"
    store = loads(DOMAINS.replace(SQLITE, f"'{url}', {KEYED}, max_connections: 7"), {}).store
    assert store.url == url.replace(":p%40ss", "")
    assert "p@ss" not in repr(store)
    assert store.server == Server(store.url, "p@ss", 1, 7)
    assert store.server.place == "db1:5432,db2/mail"
    assert "p@ss" not in repr(store.server)
    other = loads(
        DOMAINS.replace(SQLITE, f"'postgresql://me@db1/mail', {KEYED}"), {"MAILVITALS_STORE__PASSWORD": "p@ss"}
    )
    assert other.store.server == Server("postgresql://me@db1/mail", "p@ss")
    assert loads(DOMAINS, {}).store.server is None


def test_values_take_their_usual_form() -> None:
    got = loads(BASE + "domains: [{name: Bücher.Example., sending_ips: ['2001:DB8:0::25']}]\n", {})
    assert got.domains[0].name == "xn--bcher-kva.example"
    assert got.domains[0].sending_ips == ("2001:db8::25",)
    got = loads(DOMAINS + "alertmanagers: ['http://a:9093/', {url: 'https://b/x', token: t}]\n", {})
    assert [a.url for a in got.alertmanagers] == ["http://a:9093", "https://b/x"]


def test_a_greeting_is_one_for_all_addresses_or_one_for_each() -> None:
    def names(keys: str) -> dict[str, str]:
        return loads(BASE + f"domains: [{{name: a.com, {keys}}}]\n", {}).domains[0].helo_names

    two = "sending_ips: [192.0.2.1, 192.0.2.2]"
    assert names(two) == {}
    assert names(f"{two}, helo: [m.a.com]") == {"192.0.2.1": "m.a.com", "192.0.2.2": "m.a.com"}
    assert names(f"{two}, helo: [m1.a.com, m2.a.com]") == {"192.0.2.1": "m1.a.com", "192.0.2.2": "m2.a.com"}
    (problem,) = problems(BASE + "domains: [{name: b.com, sending_ips: ['::1', '::2', '::3'], helo: [a, b]}]\n")
    assert "one name for all of `sending_ips`, or one for each" in problem


@pytest.mark.parametrize(("text", "seconds"), [
    ("30s", 30), ("1.5h", 5400), ("250ms", 0.25), ("2 d", 172800), ("1w", 604800), ("45", 45), ("7m", 420),
])  # fmt: skip
def test_durations(text: str, seconds: float) -> None:
    assert loads(DOMAINS + f"alerts: {{quiet_period: {text}}}\n", {}).alerts.quiet_period == seconds


@pytest.mark.parametrize("text", ["30 parsecs", "'30'", "-5s", "0s", "401d", ".nan", ".inf", "[1]", "s"])
def test_what_is_no_duration(text: str) -> None:
    (problem,) = problems(DOMAINS + f"alerts: {{quiet_period: {text}}}\n")
    assert problem.startswith("m.yaml:4: alerts.quiet_period: ")


# The environment.


def test_variables_alone_are_enough() -> None:
    got = loads("", {
        "MAILVITALS_LISTEN": "{}", "MAILVITALS_STORE__URL": "sqlite:////x.db",
        "MAILVITALS_DOMAINS": '[{"name": "example.com", "dkim_selectors": ["s1"]}]',
        "MAILVITALS_DNS__RESOLVERS": '["192.0.2.53"]', "MAILVITALS_DNS__TIMEOUT": "500ms",
        "MAILVITALS_PHASES__GROWTH__BOUNCE_MAX": "0.02", "PATH": "/bin",
    })  # fmt: skip
    assert got.domains[0].dkim_selectors == ("s1",)
    assert (got.dns.resolvers, got.dns.timeout) == (("192.0.2.53",), 0.5)
    assert got.phases.in_force()["growth"].bounce_max == 0.02


def test_variables_win_over_the_file_key_by_key() -> None:
    text = DOMAINS + "log: {level: error, format: json}\n"
    got = loads(text, {"MAILVITALS_LOG__LEVEL": "debug"})
    assert (got.log.level, got.log.format) == ("debug", "json")
    # Of two variables the one that says more precisely what it means.
    both = {"MAILVITALS_LOG": '{"level": "warning", "format": "console"}', "MAILVITALS_LOG__LEVEL": "info"}
    got = loads(text, both)
    assert (got.log.level, got.log.format) == ("info", "console")


def test_a_list_replaces_the_list_of_the_file() -> None:
    got = loads(DOMAINS, {"MAILVITALS_DOMAINS": '[{"name": "other.example"}]'})
    assert [d.name for d in got.domains] == ["other.example"]


def test_every_documented_variable_is_known_and_no_other() -> None:
    names = {variable(path) for path in keys(Settings)}
    assert {"MAILVITALS_LISTEN__PRIVATE_TOKEN_FILE", "MAILVITALS_STORE__IDENTITY_KEY", "MAILVITALS_SOURCES"} <= names
    (problem,) = problems(DOMAINS, {"MAILVITALS_LOG__LEVLE": "debug"})
    assert problem == ("environment: MAILVITALS_LOG__LEVLE: unknown variable; did you mean `MAILVITALS_LOG__LEVEL`?")


@pytest.mark.parametrize(("name", "value", "says"), [
    ("MAILVITALS_DNS__RESOLVERS", "192.0.2.53", "lists and mappings are given as JSON"),
    ("MAILVITALS_SOURCES", "[" * 5000, "lists and mappings are given as JSON"),
    ("MAILVITALS_DNS__TIMEOUT", "soon", "a duration is a number with a unit"),
    ("MAILVITALS_LISTEN", "[1]", "must be a mapping"),
    ("MAILVITALS_LISTEN__MAX_BODY_BYTES", "plenty", "valid integer"),
])  # fmt: skip
def test_a_wrong_variable_is_named(name: str, value: str, says: str) -> None:
    (problem,) = problems(DOMAINS + "dns: {interval: 1m}\n", {name: value})
    assert problem.startswith(f"environment: {name}: ")
    assert says in problem
    assert value not in problem


# Secret files.


def test_twins_for_text_lists_and_mappings(tmp_path: Path) -> None:
    for name in ("user", "one", "two", "header", "key", "token"):
        (tmp_path / name).write_text(f"\n  {name}-{'s' * 40}\n")
    text = postmark(
        username_file=f"{tmp_path}/user", password_file=[f"{tmp_path}/one", f"{tmp_path}/two"],
        headers_file={"X-Proof": [f"{tmp_path}/header"]},
    )  # fmt: skip
    got = loads(text, {
        "MAILVITALS_STORE__IDENTITY_KEY_FILE": f"{tmp_path}/key",
        "MAILVITALS_LISTEN__PRIVATE_TOKEN_FILE": f"{tmp_path}/token",
    })  # fmt: skip
    end = "-" + "s" * 40
    assert got.sources[0].credentials == {
        "username": "user" + end, "password": ("one" + end, "two" + end), "headers": {"X-Proof": ["header" + end]},
    }  # fmt: skip
    assert got.store.identity_key is not None
    assert got.store.identity_key.get_secret_value() == "key" + end
    assert got.listen.private_token is not None


def test_a_variable_replaces_either_form_of_a_secret(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-the-file")
    text = DOMAINS.replace("listen: {}", f"listen: {{private_token_file: {tmp_path}/token}}")
    got = loads(text, {"MAILVITALS_LISTEN__PRIVATE_TOKEN": "from-the-variable"})
    assert got.listen.private_token is not None
    assert got.listen.private_token.get_secret_value() == "from-the-variable"
    text = DOMAINS.replace("listen: {}", "listen: {private_token: in-place}")
    got = loads(text, {"MAILVITALS_LISTEN__PRIVATE_TOKEN_FILE": f"{tmp_path}/token"})
    assert got.listen.private_token is not None
    assert got.listen.private_token.get_secret_value() == "from-the-file"


def test_both_forms_at_once_are_refused(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("x")
    text = DOMAINS.replace("listen: {}", f"listen: {{private_token: y, private_token_file: {tmp_path}/token}}")
    assert problems(text) == ["m.yaml:1: listen.private_token_file: given beside `private_token`; keep one of the two"]
    name = "MAILVITALS_LISTEN__PRIVATE_TOKEN"
    (problem,) = problems(DOMAINS, {name: "y", f"{name}_FILE": f"{tmp_path}/token"})
    assert problem == f"environment: {name}_FILE: given beside {name}; keep one of the two"


def test_secret_files_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "empty").write_text(" \n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\xff")
    (tmp_path / "huge").write_bytes(b"x" * 100_000)
    for path, says in (
        (f"{tmp_path}/none", "No such file or directory"), (f"{tmp_path}/empty", "is empty"),
        (f"{tmp_path}/binary", "not UTF-8 text"), (f"{tmp_path}/huge", "is too large"), (str(tmp_path), "directory"),
        ("a\0b", "cannot be read"), ("", "must be the path of a file"), (None, "must be the path of a file"),
        (7, "must be the path of a file"), ("/dev/zero", "is too large"),
    ):  # fmt: skip
        (problem,) = problems(postmark(username="u", password_file=["/etc/hostname", path]))
        assert problem.startswith("m.yaml:4: sources[0].password_file[1]: ")
        assert says in problem


def test_what_stands_in_for_an_unreadable_file_is_not_judged(tmp_path: Path) -> None:
    text = BASE + f"sources: [{{name: sg, provider: sendgrid, verification_key_file: {tmp_path}/none}}]\n"
    (problem,) = problems(text)
    assert "cannot be read" in problem


# What is wrong is named, all of it at once.


def test_everything_wrong_is_said_at_once() -> None:
    found = problems(
        "listen: {public: nonsense, privat: x}\nstore: {url: mysql://x}\nlgo: {}\n"
        "sources:\n- {name: a, provider: sendgird}\n- {name: B!, provider: postmark, username: u, password_file: /no}\n"
        "domains:\n- {name: nodots, phase: growht, dkim_selector: [x]}\nphases: {growth: {bounce_max: 3}}\n",
        {"MAILVITALS_DNS__RESOLVER": "x"},
    )
    text = "\n".join(found)
    for part in (
        "environment: MAILVITALS_DNS__RESOLVER: unknown variable; did you mean `MAILVITALS_DNS__RESOLVERS`?",
        "m.yaml:1: listen.public: an address is HOST:PORT",
        "m.yaml:1: listen.privat: unknown key; did you mean `private`?",
        "m.yaml:2: store.url: a store is sqlite:",
        "m.yaml:3: lgo: unknown key; did you mean `log`?",
        "m.yaml:5: sources[0].provider: unknown provider; did you mean `sendgrid`?; known: ",
        "m.yaml:6: sources[1].password_file: the secret file /no cannot be read",
        "m.yaml:6: sources[1].name: a name has 1 to 64",
        "m.yaml:8: domains[0].name: a domain is a full name",
        "m.yaml:8: domains[0].phase: input should be 'foundation', 'growth' or 'enterprise'",
        "m.yaml:8: domains[0].dkim_selector: unknown key; did you mean `dkim_selectors`?",
        "m.yaml:9: phases.growth.bounce_max: input should be less than 1",
    ):
        assert part in text
    assert len(found) == 12


@pytest.mark.parametrize(("text", "says"), [
    ("", "listen: required, but not given"),
    (BASE, "there is nothing to watch"),
    (DOMAINS + "listen: {}\n", "m.yaml:1: listen: given twice, again in line 4"),
    (BASE + "domains: [{name: a.example, name: b.example}]", "domains[0].name: given twice"),
    (DOMAINS.replace("example.com}", "example.com}, {name: EXAMPLE.com.}"), "domains has `example.com` twice"),
    ("a: [\n", "m.yaml:2: not valid YAML"),
    ("a: 2026-02-31\n", "put quotes around numbers and dates"),
    ("- listen\n", "the file must be a mapping of sections"),
    ("just text", "the file must be a mapping of sections"),
    ("a: 1\n---\nb: 2\n", "not valid YAML: but found another document"),
    (DOMAINS + "log: {}\nlog_level: x\n", "m.yaml:5: log_level: unknown key"),
    (DOMAINS + "_cli_parse_args: true\n", "m.yaml:4: _cli_parse_args: unknown key"),
    (DOMAINS + "self: 1\n", "m.yaml:4: self: unknown key"),
    (DOMAINS + "1: 2\n", "m.yaml:4: 1: unknown key"),
    (DOMAINS + "dns:\n", "m.yaml:4: dns: must be a mapping of keys"),
    (DOMAINS + "dns: {resolvers: 192.0.2.53}\n", "dns.resolvers: must be a list"),
    (DOMAINS + "dns: {resolvers: ['[::1]x']}\n", "a resolver is an IP address"),
    (DOMAINS + "dns: {resolvers: ['192.0.2.53:0']}\n", "a resolver is an IP address"),
    (DOMAINS + "alertmanagers: ['http://u:p@a']\n", "give the user and password as"),
    (DOMAINS + "alertmanagers: ['ftp://a']\n", "http:// or https:// URL"),
    (DOMAINS + "blocklists: [spamkop]\n", "spamcop"),
    (DOMAINS + "blocklists: [spamhaus_zen_dqs]\n", "needs a `key`"),
    (DOMAINS + "blocklists: [{name: psbl, key: abc}]\n", "takes no `key`"),
    (DOMAINS + "blocklists: [{name: spamhaus_zen_dqs, key: a.b}]\n", "letters, digits and hyphens"),
    (DOMAINS + "alertmanagers: ['http://[']\n", "http:// or https:// URL"),
    (DOMAINS + "alertmanagers: [{url: 'http://a', username: u}]\n", "username and password go together"),
    (DOMAINS + "alertmanagers: [{url: 'http://a', username: u, password: p, token: t}]\n", "not both"),
    (DOMAINS + "phases: {growth: {budget_usd: [5, 1]}}\n", "first number must not be above the second"),
    (DOMAINS + "phases: {growth: {complaint_max: 0.01}}\n", "growth: complaint_max must not be above"),
    (DOMAINS + "vitals: {bounce_classes: []}\n", "vitals.bounce_classes: "),
    (DOMAINS.replace("sqlite:////var", "sqlite:///var"), "four slashes and an absolute path"),
    (DOMAINS.replace("sqlite:", "postgresql:"), "a store on PostgreSQL is postgresql://user@host:5432/database"),
    (DOMAINS.replace(SQLITE, "postgresql://u@h/d"), "store: a store that agents share needs `identity_key`"),
    (DOMAINS.replace(SQLITE, f"'postgresql://u:{SECRET}@h/d', password: {SECRET}"), "the password is given twice"),
    (DOMAINS.replace(SQLITE, f"'postgresql://u@h/d?password={SECRET}'"), "goes into `store.password` or its file"),
    (DOMAINS.replace(SQLITE, f"'postgresql://u:{SECRET[:5]}/{SECRET}@h/d'"), "postgresql://user@host:5432/database"),
    (DOMAINS.replace(SQLITE, "'postgresql://u@h/d?sslmode=always'"), "sslmode is one of disable, allow"),
    (DOMAINS.replace(SQLITE, f"'postgresql://u@h/d', {KEYED}, min_connections: 9"), "above `max_connections`"),
    (postmark(), "a postmark source needs `username` and `password` or `headers`, or anyone could post to it"),
    (postmark(username="u"), "a postmark source needs"),
    (postmark(username="u", password=""), "sources[0].password: must be text, not empty"),
    (postmark(username="u", password=1234), "sources[0].password: must be text, not empty (quote numbers)"),
    (postmark(username="u", password={"a": "b"}), "sources[0].password: must be text or a list of texts"),
    (postmark(headers="x"), "sources[0].headers: must be a mapping of header names to secrets"),
    (postmark(username="u:v", password="p"), "contains a colon"),
    (postmark(username="u", password="p", verification_key="x"), "sources[0].verification_key: unknown key"),
    (postmark(username="u", pasword="p"), "sources[0].pasword: unknown key; did you mean `password`?"),
    (postmark(username="u", password="p", name="pm", provider="none"), "unknown provider"),
    (BASE + "sources: [{name: sg, provider: sendgrid, verification_key: abc}]", "not a P-256 public key"),
])  # fmt: skip
def test_what_is_wrong(text: str, says: str) -> None:
    assert any(says in problem for problem in problems(text)), problems(text)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "latin").write_bytes(b"a: \xe9")
    (tmp_path / "huge").write_bytes(b"# " + b"x" * MAX_BYTES)
    for name, says in (
        ("none", "No such file"), ("latin", "not UTF-8"), ("huge", "larger than 8 MiB"), (".", "directory"),
    ):  # fmt: skip
        with pytest.raises(SettingsError, match=says):
            load(tmp_path / name, {})


# Secrets stay secret.


@pytest.mark.parametrize("text", [
    postmark(username="u:v", password=SECRET),
    postmark(username="u", password=[SECRET, 1]),
    postmark(password=SECRET),
    postmark(headers=SECRET),
    postmark(headers={"X y": SECRET}),
    BASE + f"sources: [{{name: sg, provider: sendgrid, verification_key: {SECRET}}}]",
    BASE + f"sources: [{{name: sg, provider: {SECRET}}}]",
    BASE + f"sources: [{{name: pm, provider: postmark, username: u, password: *{SECRET}}}]",
    BASE + f"sources: [{{name: pm, provider: postmark, username: u, password: !{SECRET} x}}]",
    BASE + f"sources: [{{name: pm, provider: postmark, username: u, password: !x!{SECRET} x}}]",
    DOMAINS + f"alertmanagers: ['http://u:{SECRET}@a', {{url: '{SECRET}'}}, {{url: 'http://a', token: [{SECRET}]}}]\n",
    DOMAINS.replace("listen: {}", f"listen: {{private_token: [{SECRET}], public: '{SECRET}'}}"),
    DOMAINS.replace("listen: {}", f"listen: {{max_body_bytes: {SECRET}}}"),
    BASE.replace("sqlite:////var/lib/x/ledger.db", f"postgresql://u:{SECRET}@h/d"),
    DOMAINS.replace("store: {", f"store: {{identity_key: {SECRET[:31]}, "),
    DOMAINS + f"log: {{level: {SECRET}}}\ndns: {{timeout: {SECRET}, resolvers: [{SECRET}]}}\n",
])  # fmt: skip
def test_no_problem_quotes_a_secret(text: str) -> None:
    assert SECRET[:12] not in "\n".join(problems(text))


def test_no_problem_quotes_a_variable() -> None:
    for name in ("SOURCES", "LISTEN", "LISTEN__PRIVATE_TOKEN", "STORE__URL", "STORE__IDENTITY_KEY", "ALERTMANAGERS"):
        for value in (SECRET[:20], f'["{SECRET}"]', f'{{"x": "{SECRET}"}}', f"[{SECRET}"):
            assert SECRET[:12] not in "\n".join(problems(BASE, {f"MAILVITALS_{name}": value}))


def test_no_text_of_the_settings_shows_a_secret() -> None:
    got = loads(
        postmark(username=SECRET, password=[SECRET, SECRET], headers={"X-Proof": SECRET}),
        {
            "MAILVITALS_LISTEN__PRIVATE_TOKEN": SECRET, "MAILVITALS_STORE__IDENTITY_KEY": SECRET,
            "MAILVITALS_ALERTMANAGERS": json.dumps([{"url": "http://a", "token": SECRET}]),
        },
    )  # fmt: skip
    assert got.sources[0].credentials["username"] == SECRET
    for shown in (repr(got), str(got), f"{got}", repr(got.sources), str(got.listen), repr(got.store)):
        assert SECRET not in shown


# Phases, and that nothing changes afterwards.


def test_overridden_numbers_are_in_force_beside_the_built_in_ones() -> None:
    got = loads(DOMAINS + "phases: {growth: {bounce_max: 0.02, capacity: [1000, null], budget_usd: [1, 2]}}\n", {})
    phases = got.phases.in_force()
    assert (phases["growth"].bounce_max, phases["growth"].deliverability_min) == (0.02, 0.95)
    assert phases["growth"].capacity == (1000, None)
    assert phases["growth"].budget_usd == (1, 2)
    assert (phases["foundation"].bounce_max, phases["enterprise"].capacity) == (0.01, (500_000, None))


def test_settings_are_frozen() -> None:
    got = loads(postmark(username="u", password="p"), {})
    for thing, name in ((got, "store"), (got.listen, "public"), (got.sources[0], "password"), (got.phases, "growth")):
        with pytest.raises(ValidationError, match="frozen"):
            setattr(thing, name, "x")


# Hostile text.


@pytest.mark.parametrize("text", [
    "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(f"b{i}: &b{i} [{','.join(['*b' + str(i - 1) if i else '*a'] * 9)}]\n"
                                           for i in range(12)),
    "a: &a {<<: *a}", "a: &a [*a]", "a: &a {b: *a}", "[" * 50_000, "{a: " * 20_000,
    "\n".join(" " * i + "a:" for i in range(2000)), "a: " + "9" * 10_000, "? {a: b}\n: c", "? [a]\n: c",
    "!!python/object/apply:os.system [x]", "a: \0", "a: !!set [b]", "!!omap x", "a: !!binary '~'", "a: !!int x",
    "a: !!timestamp x", "<<: 1", "a: {<<: [1]}", "=: 1", "%YAML 9.9\n---\na: 1",
], ids=range(21))  # fmt: skip
def test_hostile_yaml_is_refused_quickly(text: str) -> None:
    start = time.monotonic()
    for problem in problems(text):
        assert len(problem) < 1000
    assert time.monotonic() - start < 10


WORDS = st.sampled_from(
    ["listen", "store", "sources", "domains", "name", "provider", "sendgrid", "postmark", "password", "_file", "a.b",
     "headers", "phases", "growth", "capacity", "url", "sqlite:////x", "{", "}", "[", "]", ": ", ", ", "\n", "\n  ",
     "- ", "&a", " *a", "!!", "'", '"', "null", "1", "-1", ".inf", "2026-01-01", "<<", "?", "|", "#", "---\n"]
)  # fmt: skip


def anything(text: str) -> None:
    try:
        got: object = loads(text, {})
    except SettingsError as e:
        got = all(e.problems)
    assert got


@given(st.one_of(st.text(max_size=200), st.lists(WORDS, max_size=40).map("".join)))
def test_any_text_is_settings_or_a_settings_error(text: str) -> None:
    anything(text)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(set(keys(Settings)))), PLAIN)
def test_any_value_anywhere_is_settings_or_a_settings_error(path: tuple[str, ...], value: Any) -> None:
    data: dict[str, Any] = yaml.safe_load(DOMAINS)
    inner = data
    for part in path[:-1]:
        inner = inner.setdefault(part, {})
    inner[path[-1]] = value
    anything(json.dumps(data))


# The schema, the examples and the document say the same.


def conforms(value: Any, spec: dict[str, Any], defs: dict[str, Any], at: str = "") -> list[str]:
    """Where a value breaks a JSON Schema, for the keywords that pydantic uses here."""
    if "$ref" in spec:
        return conforms(value, defs[spec["$ref"].rpartition("/")[2]], defs, at)
    wrong: list[str] = []
    if "type" not in spec and "anyOf" in spec:
        options = [conforms(value, option, defs, at) for option in spec["anyOf"]]
        return min(options, key=len) if all(options) else []
    kinds = {
        "object": dict,
        "array": list,
        "string": str,
        "integer": int,
        "boolean": bool,
        "number": (int, float),
        "null": type(None),
    }
    if not isinstance(value, kinds[spec["type"]]):
        return [f"{at}: not {spec['type']}"]
    if value not in spec.get("enum", [value]) or not re.search(spec.get("pattern", ""), str(value)):
        wrong.append(f"{at}: {value} is none of those")
    if isinstance(value, dict):
        inner = spec.get("properties", {})
        rest = spec.get("additionalProperties", True)
        wrong += [f"{at}.{name}: missing" for name in spec.get("required", []) if name not in value]
        for name, item in value.items():
            if name in inner or isinstance(rest, dict):
                wrong += conforms(item, inner.get(name, rest), defs, f"{at}.{name}")
            elif not rest:
                wrong.append(f"{at}.{name}: unknown")
    if isinstance(value, list):
        specs = spec.get("prefixItems") or [spec["items"]] * len(value)
        for i, (item, one) in enumerate(zip(value, specs, strict=True)):
            wrong += conforms(item, one, defs, f"{at}[{i}]")
    return wrong


@pytest.mark.parametrize("name", ["minimal", "complete"])
def test_the_examples_conform_to_the_schema(name: str) -> None:
    document = schema()
    value = yaml.safe_load((ROOT / f"examples/{name}.yaml").read_text())
    assert conforms(value, document, document["$defs"]) == []


def test_the_schema_refuses_what_the_agent_refuses() -> None:
    document = schema()
    value = yaml.safe_load((ROOT / "examples/complete.yaml").read_text())
    value["sources"][0]["provider"] = "sendgird"
    value["dns"]["intervall"] = value["dns"]["interval"] = "5 parsecs"
    value["domains"][0].pop("name")
    assert len(conforms(value, document, document["$defs"])) == 4


def properties(spec: dict[str, Any], document: dict[str, Any], at: str = "") -> set[str]:
    if "$ref" in spec:
        return properties(document["$defs"][spec["$ref"].rpartition("/")[2]], document, at)
    found: set[str] = set()
    for inner in [*spec.get("anyOf", []), *([spec["items"]] if "items" in spec else [])]:
        found |= properties(inner, document, at)
    for name, inner in spec.get("properties", {}).items():
        found |= {f"{at}.{name}"} | properties(inner, document, f"{at}.{name}")
    return found


def given_keys(value: Any, at: str = "") -> set[str]:
    if isinstance(value, list):
        return set().union(*(given_keys(item, at) for item in value))
    if not isinstance(value, dict):
        return set()
    return {f"{at}.{k}" for k in value}.union(*(given_keys(v, f"{at}.{k}") for k, v in value.items()))


def test_the_complete_example_has_every_property_of_the_schema_and_none_beside() -> None:
    def plain(paths: set[str]) -> set[str]:
        # A secret counts in either form; any phase shows a number for all.
        return {re.sub(r"\.(foundation|growth|enterprise)\.", ".any.", p.removesuffix("_file")) for p in paths}

    shown = plain(given_keys(yaml.safe_load((ROOT / "examples/complete.yaml").read_text())))
    shown = {path for path in shown if not path.startswith(".domains.ip_shares.")}  # its keys are addresses
    # Of the credentials, it shows those of some vendors; the providers' pages show the others.
    others = {f".sources.{name}" for p in PROVIDERS.values() for way in p.CREDENTIALS for name in way} - shown
    assert shown == plain(properties(schema(), schema())) - others


def page() -> str:
    spec = importlib.util.spec_from_file_location("render_settings", ROOT / "docs/render_settings.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return str(module.page())


def test_the_document_is_what_make_settings_writes() -> None:
    assert (ROOT / "docs/settings.md").read_text() == page(), "run `make settings`"


def test_the_document_names_every_variable_and_every_key_has_a_meaning() -> None:
    text = page()
    for path in keys(Settings):
        # Sections are written key by key.
        if path[0] in ("sources", "domains", "alertmanagers", "blocklists") or path[-1] not in (
            "foundation",
            "growth",
            "enterprise",
        ):
            assert len(path) == 1 or variable(path).removesuffix("_FILE") in text
    for row in re.findall(r"^\| `.*\|$", text, re.MULTILINE):
        assert len(row.split("|")[-2].strip()) > 10, row


def test_the_example_of_the_document_is_accepted(tmp_path: Path) -> None:
    text = re.search(r"```yaml\n(.*?)```", page(), re.DOTALL)
    assert text
    (tmp_path / "sendgrid_verification_key").write_text(VERIFICATION_KEY)
    got = loads(text[1].replace("/etc/mailvitals-secrets", str(tmp_path)), {})
    assert got.domains[0].dkim_selectors == ("s1", "s2")


def test_test_recipients_are_addresses_or_domains_in_their_usual_form() -> None:
    got = loads(DOMAINS + "test_traffic: {recipients: [Seed@Example.NET, Seeds.Example., a+b@bücher.example]}\n", {})
    assert got.test_traffic.recipients == ("seed@example.net", "seeds.example", "a+b@xn--bcher-kva.example")
    assert not got.test_traffic.own_domains


@pytest.mark.parametrize("recipient", ["seed", "@example.com", "seed@", "a b@example.com", "seed@localhost", ""])
def test_what_is_no_test_recipient(recipient: str) -> None:
    (problem,) = problems(DOMAINS + f"test_traffic: {{recipients: ['{recipient}']}}\n")
    assert problem.startswith("m.yaml:4: test_traffic.recipients[0]: ")


def test_no_word_of_the_settings_gives_a_test_recipient_away() -> None:
    got = loads(DOMAINS + "test_traffic: {recipients: [seed@example.net]}\n", {})
    assert "seed@" not in repr(got) + str(got)


def test_mail_streams_say_how_mail_is_sent() -> None:
    stream = "{name: bulk, provider: postmark, return_path: Bounce.Example.com, dkim_domain: esp.net, selectors: [a]}"
    (domain,) = loads(BASE + f"domains: [{{name: example.com, mail_streams: [{stream}, {{name: own}}]}}]\n", {}).domains
    bulk, own = domain.mail_streams
    assert (bulk.return_path, bulk.dkim_domain, bulk.selectors) == ("bounce.example.com", "esp.net", ("a",))
    assert (own.provider, own.return_path, own.ips) == ("", None, ())


@pytest.mark.parametrize(
    ("streams", "problem"),
    [
        ("[{name: a}, {name: a}]", "mail_streams has `a` twice"),
        ("[{name: a, dkim_domain: esp.net}]", "name its `selectors`"),
        ("[{name: a, provider: sendgird}]", "sendgrid"),
        ("[{name: a, return_path: x}]", "a domain is a full name"),
        ("[{name: a, returnpath: a.b}]", "return_path"),
        ("[{}]", "name"),
    ],
)
def test_what_is_wrong_with_a_mail_stream(streams: str, problem: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(problem)):
        loads(BASE + f"domains: [{{name: example.com, mail_streams: {streams}}}]\n", {})


def test_a_policy_takes_the_place_of_what_it_names(tmp_path: Path) -> None:
    settings = loads(
        "listen: {}\nstore: {url: sqlite:////tmp/x.db}\ndomains: [{name: a.example}, {name: b.example}]\n"
        "phases: {foundation: {bounce_max: 0.02, deliverability_min: 0.9}}\nvitals: {stale_after: 2h, interval: 3s}\n",
        {},
    )
    file = tmp_path / "policy.yaml"
    file.write_text(
        "phases: {foundation: {bounce_max: 0.005}}\nvitals: {bounce_classes: [hard]}\nalerts: {quiet_period: 5m}\n"
        "domain_phases: {b.example: growth}\n"
    )
    new = load_policy(file, settings)
    foundation = new.phases.in_force()["foundation"]
    assert (foundation.bounce_max, foundation.deliverability_min) == (0.005, 0.9)
    assert (new.vitals.stale_after, new.vitals.interval, new.vitals.bounce_classes) == (7200.0, 3.0, ("hard",))
    assert new.alerts.quiet_period == 300.0
    assert [d.phase for d in new.domains] == ["foundation", "growth"]
    assert new.store == settings.store


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("domain_phases: {a.exmaple: growth}", "no domain `a.exmaple` is configured; did you mean `a.example`?"),
        ("domain_phases: {a.example: grwth}", "domain_phases.a.example: "),
        ("vitals: {interval: 3s}", "`vitals.interval` decides nothing that is replayed"),
        ("alerts: {resend: 3s}", "`alerts.resend` decides nothing that is replayed"),
        ("listen: {}", "listen: unknown key"),
        ("phases: {growht: {}}", "phases.growht: unknown key; did you mean `growth`?"),
        ("phases: {foundation: {complaint_max: 0.5}}", "complaint_max must not be above complaint_breach"),
        ("phases: {foundation: {complaint_max: 0.0029}}", "phases, with those in force"),
    ],
)
def test_a_wrong_policy_is_explained(tmp_path: Path, text: str, says: str) -> None:
    settings = loads(
        "listen: {}\nstore: {url: sqlite:////tmp/x.db}\ndomains: [{name: a.example}]\n"
        "phases: {foundation: {complaint_max: 0.0001, complaint_breach: 0.0002}}\n",
        {},
    )
    file = tmp_path / "policy.yaml"
    file.write_text(text)
    with pytest.raises(SettingsError) as e:
        load_policy(file, settings)
    (problem,) = e.value.problems
    assert says in problem
    assert problem.startswith(str(file))


@pytest.mark.parametrize("written", ["2026-05-04", '"2026-05-04"'])
def test_a_day_is_written_with_or_without_quotes(written: str) -> None:
    text = f"""
listen: {{}}
store: {{url: "sqlite:////x/y.db"}}
domains:
  - {{name: example.com, phase_since: {written}, monthly_limit: 120000}}
phases: {{growth: {{sustained_days: 21}}}}
"""
    made = loads(text, {})
    assert str(made.domains[0].phase_since) == "2026-05-04"
    assert made.phases.in_force()["growth"].sustained_days == 21
    for wrong in ("phase_since: yesterday", "monthly_limit: 0"):
        with pytest.raises(SettingsError, match="domains"):
            loads(text.replace("monthly_limit: 120000", wrong), {})


BUS = 'bus: {mode: %s, url: "mqtt://broker.example", key: "' + "k" * 32 + '"}\n'
SHARED = 'listen: {}\nstore: {url: "sqlite:////var/lib/x/x.db", identity_key: "' + "i" * 32 + '"}\n'
RELAYED = "sources: [{name: sg, provider: sendgrid, relayed: true}]\n"


def test_a_core_lists_what_edges_relay_without_credentials() -> None:
    settings = loads(SHARED + BUS % "core" + RELAYED, {"MAILVITALS_BUS__NAME": "core-7"})
    assert settings.sources[0].relayed
    assert settings.bus.name == "core-7"
    assert settings.bus.keys == (b"k" * 32,)


def test_two_bus_keys_are_a_rotation(tmp_path: Path) -> None:
    for name in ("old", "new"):
        (tmp_path / name).write_text(name * 12)
    files = [str(tmp_path / "new"), str(tmp_path / "old")]
    bus = f'bus: {{mode: core, url: "mqtts://b:8883", key_file: {json.dumps(files)}}}\n'
    assert loads(SHARED + bus + DOMAINS.removeprefix(BASE), {}).bus.keys == (b"new" * 12, b"old" * 12)


@pytest.mark.parametrize(("text", "problem"), [
    (SHARED + BUS % "edge" + "domains: [{name: example.com}]\n", "an edge without `sources` has nothing to relay"),
    (BASE + BUS % "core" + RELAYED, "bus.mode core needs `store.identity_key`"),
    (SHARED + RELAYED, "the source `sg` is `relayed`, which only a core's can be"),
    (SHARED + BUS % "edge" + RELAYED, "the source `sg` is `relayed`, which only a core's can be"),
    (SHARED + "bus: {mode: core}\n" + RELAYED, "`core` needs `url`"),
    (SHARED + 'bus: {mode: core, url: "mqtt://b"}\n' + RELAYED, "`core` needs `key`"),
    (SHARED + 'bus: {mode: core, url: "mqtt://b", key: short}\n' + RELAYED, "at least 32 characters"),
    (SHARED + 'bus: {url: "http://b"}\n' + RELAYED, "a broker is mqtt://HOST:PORT"),
    (SHARED + 'bus: {url: "mqtt://b/topic"}\n' + RELAYED, "a broker is mqtt://HOST:PORT"),
    (SHARED + 'bus: {url: "mqtt://u:p@b"}\n' + RELAYED, "not in the URL"),
    (SHARED + (BUS % "core").replace("}", ", tls_ca: /x.pem}") + RELAYED, "`tls_…` needs a broker at mqtts://"),
    (SHARED + (BUS % "core").replace("}", ", password: secret}") + RELAYED, "a password goes with a `username`"),
    (SHARED + (BUS % "core").replace("}", ", name: a/b}") + RELAYED, "bus.name"),
])  # fmt: skip
def test_a_bus_that_cannot_work_is_said(text: str, problem: str) -> None:
    assert any(problem in line for line in problems(text)), problems(text)
