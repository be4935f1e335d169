"""The private listener of a real agent: what its OpenAPI document promises holds, and no secret is found anywhere."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, SecretStr

from agent.settings import load
from agent.simulate import SIMULATORS
from tests.servers.agent import Agent, command
from tests.servers.base import wait_until
from tests.servers.raw import exchange, request
from tests.servers.tls import Authority
from tests.stack.hostile_http import broken_http
from tests.stack.live import SETTINGS, Live, live_agent, taken

TOKEN = "private-" + "t" * 32


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    with live_agent(tmp_path_factory.mktemp("api"), listen={"private_token": TOKEN}) as one:
        assert taken(one.post("sg", one.batch(20)))
        assert taken(one.post("sg", one.batch(3, event="bounce", status="5.1.1", reason="550 5.1.1 unknown user")))
        assert exchange(one.port, request("POST", "/webhooks/sg", {}, b"[]")).status == 401
        wait_until(lambda: b'"recent_bounces":[{' in get(one, "/api/v1/status"), 10, "the bounces to be shown")
        yield one


def get(live: Live, path: str) -> bytes:
    asked = urllib.request.Request(live.agent.url + path, headers={"Authorization": f"Bearer {TOKEN}"})
    try:
        with urllib.request.urlopen(asked, timeout=10) as response:
            return bytes(response.read())
    except urllib.error.HTTPError as e:
        return bytes(e.read())


def test_the_api_keeps_what_its_document_promises(live: Live, tmp_path: Path) -> None:
    (tmp_path / "openapi.json").write_bytes(get(live, "/api/v1/openapi.json"))
    done = subprocess.run(
        [
            Path(sys.executable).parent / "schemathesis", "run", tmp_path / "openapi.json", "--url", live.agent.url,
            "--header", f"Authorization: Bearer {TOKEN}", "--max-examples", "15", "--checks", "all",
            "--phases", "examples,coverage,fuzzing", "--exclude-path", "/api/v1/stream", "--seed", "1",
            "--request-timeout", "20", "--max-redirects", "0", "--warnings", "off", "--no-color",
        ],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert "No issues found" in done.stdout
    assert "Traceback" not in live.agent.log.read_text()


def test_what_is_no_request_of_the_api_is_refused_too(live: Live) -> None:
    for case in broken_http():
        answer = exchange(live.agent.private, case.data.replace(b"/webhooks/pmh", b"/api/v1/status"), end=case.end)
        assert answer.status in (0, 400, 401, 404, 405), case.name
        assert b"Traceback" not in answer.body
    assert get(live, "/api/v1/status")
    assert live.agent.get("/readyz")
    assert "Traceback" not in live.agent.log.read_text()


# Secrets.


def _secrets(value: Any) -> Iterator[str]:
    if isinstance(value, SecretStr):
        yield value.get_secret_value()
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from _secrets(getattr(value, name))
    elif isinstance(value, dict):
        for one in value.values():
            yield from _secrets(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _secrets(one)


def _texts(value: Any) -> Iterator[str]:
    """All texts of credentials but those that are no secret."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, one in value.items():
            yield from () if name in ("username", "topic_arns") else _texts(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _texts(one)


def test_no_configured_secret_is_logged_exported_answered_or_stored(tmp_path: Path) -> None:
    pairs = {provider: simulator.new_credentials() for provider, simulator in SIMULATORS.items()}
    sources = [{"name": name, "provider": name, **pair.settings} for name, pair in pairs.items()]
    sources += [one for one in SETTINGS["sources"] if one["name"] in ("sg", "pmh")]
    blocked = [{"name": "spamhaus_zen_dqs", "key": "blocklistkeyblocklistkey00"}]
    alertmanagers = [
        {"url": "http://127.0.0.1:9", "token": "alertmanager-token-0123456789"},
        {"url": "http://127.0.0.1:10", "username": "alerts", "password": "alertmanager-password-0123456789"},
    ]
    store = {"url": f"sqlite:///{tmp_path}/ledger.db", "identity_key": "identity-key-" + "k" * 40}
    bus = {
        "mode": "core", "url": "mqtt://127.0.0.1:9", "username": "mailvitals-core",
        "password": "bus-password-0123456789", "key": "bus-key-" + "b" * 40,
    }  # fmt: skip
    more = {"sources": sources, "blocklists": blocked, "alertmanagers": alertmanagers, "store": store, "bus": bus}
    with live_agent(tmp_path, listen={"private_token": TOKEN}, **more) as live:
        settings = load(live.agent.config, {})
        credentials = [one.credentials for one in settings.sources]
        secrets = {secret for secret in (*_secrets(settings), *_texts(credentials)) if len(secret) > 8}
        assert len(secrets) > len(SIMULATORS)
        assert {TOKEN, store["identity_key"], blocked[0]["key"], bus["key"], bus["password"]} <= secrets

        answers = []
        for source in sources:
            name = source["name"]
            for body in (b"", b"not JSON", b'[{"event":"bounce"}]'):
                for secret in sorted(secrets)[:12]:  # Secrets given where others belong come back from nowhere.
                    headers = {"Authorization": f"Bearer {secret}", "X-Secret": secret}
                    answers.append(
                        exchange(live.port, request("POST", f"/webhooks/{name}?token={secret}", headers, body))
                    )
            answers.append(exchange(live.port, request("PUT", f"/webhooks/{name}", {}, b"")))
        assert taken(live.post("sg", live.batch()))
        assert taken(live.post("pmh", b"not JSON"))
        shown = [str(answer).encode() for answer in answers]
        paths = (
            "/metrics",
            "/api/v1/status",
            "/api/v1/openapi.json",
            "/",
            "/readyz",
            "/healthz",
            "/nowhere",
            "/page/x",
        )
        for path in (*paths, "/api/v1/domains/example.com/sender-rules", "/api/v1/domains/nobody.test/sender-rules"):
            shown.append(get(live, path))
            wrong = ({}, {"Authorization": f"Basic {TOKEN}"}, {"Cookie": f"mailvitals_page={TOKEN}"})
            shown += [str(exchange(live.agent.private, request("GET", path, one))).encode() for one in wrong]
        shown.append(str(exchange(live.agent.private, request("GET", f"/?token={TOKEN}", {}))).encode())
        with urllib.request.urlopen(
            urllib.request.Request(live.agent.url + "/api/v1/stream", headers={"Authorization": f"Bearer {TOKEN}"})
        ) as stream:
            shown.append(b"".join(stream.readline() for _ in range(5)))
        wait_until(lambda: b"alertmanager_notifications_total" in get(live, "/metrics"), 5)
    written = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path != live.agent.config}
    assert {"agent.log", "ledger.db"} <= set(written)
    for secret in secrets:
        assert not [one for one in shown if secret.encode() in one], secret
        assert [name for name, content in written.items() if secret.encode() in content] == [], secret


def test_wrong_settings_are_told_without_their_secrets(tmp_path: Path) -> None:
    file = tmp_path / "mailvitals.yaml"
    file.write_text(
        "listen: {private_token: [private-token-in-a-list]}\n"
        f"store: {{url: 'sqlite:///{tmp_path}/ledger.db', identity_key: short-identity-key}}\n"
        "sources: [{name: sg, provider: sendgrid, verification_key: not-a-verification-key, pasword: misspelt-secret}]"
    )
    done = command("config", "check", str(file))
    assert done.returncode == 78
    for secret in ("private-token-in-a-list", "short-identity-key", "not-a-verification-key", "misspelt-secret"):
        assert secret not in done.stdout + done.stderr


# TLS.


def test_tls_with_client_certificates_and_a_new_certificate_while_it_runs(tmp_path: Path) -> None:
    ours, theirs = Authority(tmp_path), Authority(_folder(tmp_path / "theirs"))
    ours.server("127.0.0.1")
    ours.server("client")
    theirs.server("client")
    served = tmp_path / "served.pem"
    shutil.copy(tmp_path / "127.0.0.1.pem", served)
    agent = Agent(tmp_path / "agent", SETTINGS)
    tls = {"certificate": str(served), "key": str(served), "client_ca": str(ours.file)}
    text = agent.config.read_text().replace(
        "listen:", f"listen:\n  private_tls: {json.dumps(tls)}\n  private_token: {TOKEN}"
    )
    agent.config.write_text(text)
    url = agent.url.replace("http:", "https:")

    def ask(path: str, client: Path | None = None, token: str = TOKEN) -> int:
        context = ours.client()
        if client:
            context.load_cert_chain(client)
        asked = urllib.request.Request(url + path, headers={"Authorization": f"Bearer {token}"})
        try:
            with urllib.request.urlopen(asked, timeout=5, context=context) as response:
                return int(response.status)
        except urllib.error.HTTPError as e:
            return e.code

    mine = tmp_path / "client.pem"
    try:
        agent.start(wait=False)
        wait_until(lambda: ask("/readyz") == 200, 30, "the agent to be ready")
        assert ask("/healthz", token="") == 200, "a probe has no certificate"
        for path in ("/metrics", "/api/v1/status", "/", "/nowhere"):
            assert ask(path) == 401, "the token alone"
            assert ask(path, mine, "wrong") == 401, "the certificate alone"
        assert ask("/metrics", mine) == 200
        with pytest.raises((OSError, urllib.error.URLError)):
            ask("/healthz", tmp_path / "theirs" / "client.pem")
        assert exchange(agent.private, request("GET", "/healthz", {})).status in (0, 400), "nothing without TLS"
        old = ours.client()
        with warnings.catch_warnings(action="ignore"):
            old.maximum_version = ssl.TLSVersion.TLSv1_1
        # Python 3.11.2 hangs up before the alert is out.
        with pytest.raises(urllib.error.URLError, match=r"(?i)alert|protocol|EOF"):
            urllib.request.urlopen(url, context=old)
        shown = command(
            "status", "--url", url, "--token", TOKEN, "--certificate", str(mine), env={"SSL_CERT_FILE": str(ours.file)}
        )
        assert "example.com" in shown.stdout, shown.stderr

        served.write_text("half a file")
        wait_until(lambda: "tls.not_renewed" in agent.log.read_text(), 15, "the trouble to be noticed")
        assert ask("/metrics", mine) == 200
        before = ssl.get_server_certificate(("127.0.0.1", agent.private))
        ours.server("127.0.0.1")
        os.replace(tmp_path / "127.0.0.1.pem", served)
        wait_until(lambda: "tls.renewed" in agent.log.read_text(), 15, "the new certificate to be taken up")
        assert ask("/metrics", mine) == 200
        assert ssl.get_server_certificate(("127.0.0.1", agent.private)) != before
        assert "Traceback" not in agent.log.read_text()
    finally:
        assert agent.stop() == 0


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


def test_a_certificate_that_cannot_be_used_is_named_at_the_start(tmp_path: Path) -> None:
    agent = Agent(tmp_path, SETTINGS)
    tls = json.dumps({"certificate": str(tmp_path / "none.crt"), "key": str(tmp_path / "none.key")})
    agent.config.write_text(agent.config.read_text().replace("listen:", f"listen:\n  private_tls: {tls}"))
    agent.start(wait=False)
    assert agent.process
    assert agent.process.wait(30) == 1
    text = agent.log.read_text()
    assert f"listen.private_tls: {tmp_path}/none.crt: No such file" in text
    assert "Traceback" not in text
