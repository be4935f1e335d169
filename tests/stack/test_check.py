"""`mailvitals check`, and `status` of an agent that watches the same: real processes against a real name server."""

from __future__ import annotations

import json
import re
import socket
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from agent.cli_check import check
from agent.dns.checks import CHECKS
from tests.servers.agent import agent, command
from tests.servers.base import free_port, wait_until
from tests.servers.dns import DnsServer, dns_server
from tests.servers.terminal import terminal
from tests.servers.unbound import unbound


def _zone(spf: str, dmarc: str, dkim: bool = True) -> str:
    der = generate_private_key(65537, 2048).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    text = f"v=DKIM1; k=rsa; p={b64encode(der).decode()}"
    strings = " ".join(f'"{text[i : i + 250]}"' for i in range(0, len(text), 250))
    return (
        f'@ TXT "{spf}"\n@ MX 10 mx\nmx A 192.0.2.25\n@ A 192.0.2.80\nout A 192.0.2.1\n_dmarc TXT "{dmarc}"\n'
        + (f"s1._domainkey TXT {strings}\n" if dkim else "")
    )  # fmt: skip


def settings(folder: Path, resolver: str, domain: dict[str, object]) -> Path:
    path = folder / "mailvitals.yaml"
    path.write_text(
        json.dumps(
            {
                "listen": {}, "store": {"url": f"sqlite:///{folder / 'ledger.db'}"}, "domains": [domain],
                "dns": {"resolvers": [resolver], "timeout": "1s"},
            }
        )
    )  # fmt: skip
    return path


# The others speak only of what settings name.
CHECKED = CHECKS.keys() - {"alignment", "delegation", "expiry"}


@pytest.fixture(scope="module")
def dns(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DnsServer]:
    good = "v=DMARC1; p=reject; rua=mailto:reports@{}"
    zones = {
        "good.example": _zone("v=spf1 ip4:192.0.2.1 ~all", good.format("good.example")),
        "warned.example": _zone("v=spf1 ip4:192.0.2.1 ~all", "v=DMARC1; p=none"),
        "failed.example": _zone("v=spf1 ip4:192.0.2.1 ~all", good.format("failed.example"), dkim=False),
        "hostile.example": _zone("v=spf1 \\027[31m\\027]0;x\\007 ip4:192.0.2.1 ~all", good.format("hostile.example")),
        "2.0.192.in-addr.arpa": "1 PTR out.good.example.",
        "bl.spamcop.net": "2.0.0.127 A 127.0.0.2\n1.2.0.192 A 127.0.0.2\n2.0.0.127 TXT test\n",
    }
    with dns_server(tmp_path_factory.mktemp("dns"), zones) as server:
        yield server


@pytest.mark.parametrize(("domain", "code"), [("good", 0), ("warned", 1), ("failed", 2), ("unserved", 3)])
def test_check_exits_by_the_worst_verdict(dns: DnsServer, domain: str, code: int) -> None:
    arguments = ("check", f"{domain}.example", "--selector", "s1", "--ip", "192.0.2.1", "--nameserver", dns.address)
    done = command(*arguments)
    assert done.returncode == code, done.stdout + done.stderr
    verdict = ("ok", "warn", "fail", "unknown")[code]
    assert done.stdout.rstrip().endswith(f"Result: {verdict}")
    assert "\x1b" not in done.stdout + done.stderr
    told = command(*arguments, "--json")
    assert (told.returncode, told.stderr) == (code, "")
    document = json.loads(told.stdout)
    assert document["verdict"] == verdict
    assert document["domain"] == f"{domain}.example"
    rules = {r["provider"]: r for r in document["sender_rules"]}
    assert set(rules) == {"gmail", "yahoo", "microsoft", "apple"}
    assert (rules["gmail"]["verdict"] == "fail") == (domain == "failed")
    assert "Postmaster Tools" in next(i["proof"] for i in rules["gmail"]["items"] if i["topic"] == "complaint")
    assert "Complaint rates and refusals need a running agent" in done.stdout
    assert {f["check"] for f in document["findings"]} == CHECKED
    for finding in document["findings"]:
        assert set(finding) >= {"check", "subject", "verdict", "reason", "detail", "advice", "rfc", "records"}
        # The table names every one of them.
        assert re.search(rf"^{finding['verdict']} +{finding['check']} ", done.stdout, re.MULTILINE)


def test_check_finds_the_usual_selectors_by_itself(dns: DnsServer) -> None:
    done = command("check", "good.example", "--ip", "192.0.2.1", "--nameserver", dns.address)
    assert re.search("^ok +dkim +s1 ", done.stdout, re.MULTILINE), done.stdout
    beside = command("check", "good.example", "--selector", "own", "--probe", "--nameserver", dns.address, "--json")
    found = {f["subject"]: f["verdict"] for f in json.loads(beside.stdout)["findings"] if f["check"] == "dkim"}
    assert found == {"own": "fail", "s1": "ok"}
    alone = command("check", "good.example", "--selector", "own", "--nameserver", dns.address, "--json")
    assert [f["subject"] for f in json.loads(alone.stdout)["findings"] if f["check"] == "dkim"] == ["own"]


def test_a_slow_look_says_what_it_waits_for() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as silent:
        silent.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        code, shown = terminal("check", "good.example", "--nameserver", address)
    assert code == 3
    assert "Asking about good.example: spf, dkim, dmarc" in shown


def test_check_without_any_server_is_unknown_never_fail() -> None:
    start = time.monotonic()
    done = command("check", "good.example", "--nameserver", f"127.0.0.1:{free_port(socket.SOCK_DGRAM)}", "--json")
    assert done.returncode == 3, done.stdout + done.stderr
    assert {f["verdict"] for f in json.loads(done.stdout)["findings"]} <= {"unknown", "warn"}
    assert time.monotonic() - start < 30


def test_a_failure_that_nobody_confirms_is_unknown_unless_just_this_server_is_asked(
    dns: DnsServer, tmp_path: Path
) -> None:
    with unbound(tmp_path, {"failed.example": dns.address}) as resolver:
        config = settings(tmp_path, resolver, {"name": "failed.example", "dkim_selectors": ["s1"]})
        done = command("check", "failed.example", "--config", str(config))
        assert done.returncode == 3, done.stdout + done.stderr
        assert "dkim s1: unconfirmed" in done.stdout
        assert f"Asked: {resolver}; of failures the zones' own servers too." in done.stdout
        alone = command("check", "failed.example", "--config", str(config), "--nameserver", resolver)
        assert alone.returncode == 2
        assert "dkim s1: key_missing" in alone.stdout
        assert f"Asked: {resolver}; nobody else." in alone.stdout


def test_everything_that_mail_depends_on_can_be_named(dns: DnsServer, tmp_path: Path) -> None:
    options = (
        "--selector", "s1", "--ip", "192.0.2.1", "--return-path", "failed.example",
        "--link-domain", "gone.good.example", "--blocklist", "spamcop",
    )  # fmt: skip
    config = settings(tmp_path, dns.address, {"name": "good.example", "link_domains": ["mx.good.example"]})
    for given, helo, ptr in (
        (("--nameserver", dns.address), "out.good.example", "ok"),
        (("--config", str(config)), "localhost", "helo_bad"),
    ):
        done = command("check", "good.example", *options, "--helo", helo, *given, "--json")
        assert done.returncode == 2, done.stdout + done.stderr
        told = json.loads(done.stdout)
        assert told["asked"] == [dns.address]
        found = {(f["check"], f["subject"]): f["reason"] for f in told["findings"]}
        assert found["delegation", "gone.good.example"] == "delegation_missing"
        assert ("delegation", "mx.good.example") in found or "--config" not in given
        assert found["mx", "failed.example"] == "ok"
        assert found["ptr", "192.0.2.1"] == ptr
        assert found["blocklist", "192.0.2.1 spamcop"] == "listed"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--helo", "mx.good.example"), "goes with the --ip"),
        (("--ip", "192.0.2.1", "--helo", "a.example", "--helo", "b.example"), "one for each --ip"),
        (("--blocklist", "spamkop"), "did you mean `spamcop`?"),
        (("--blocklist", "abusix"), "needs a key"),
        (("--return-path", "nowhere"), "a full name such as"),
        (("--config", "FILE"), "not among the domains"),
        (("--config", "FILE", "--blocklist", "abusix"), "not among the domains"),
    ],
)
def test_wrong_options_are_wrong_usage(arguments: tuple[str, ...], says: str, tmp_path: Path) -> None:
    config = settings(tmp_path, "127.0.0.1:53", {"name": "other.example"})
    given = ["good.example", *(str(config) if a == "FILE" else a for a in arguments)]
    with pytest.raises(click.UsageError, match=re.escape(says)):  # which exits 64
        check.main(given, standalone_mode=False)


def test_what_a_record_says_cannot_control_the_terminal(dns: DnsServer) -> None:
    code, shown = terminal("check", "hostile.example", "--nameserver", dns.address, env={"NO_COLOR": "1"})
    assert code == 2
    assert "\\x1b[31m" in shown.replace("\r\n", "")
    assert "\x1b[31m" not in shown
    assert "\x1b]0;" not in shown


def test_status_exits_1_while_an_incident_is_open(tmp_path: Path, dns: DnsServer) -> None:
    settings = {
        "domains": [{"name": "failed.example", "dkim_selectors": ["s1"]}, {"name": "good.example"}],
        "dns": {"resolvers": [dns.address], "interval": "2s", "min_interval": "1s"},
        "vitals": {"interval": "1s"},
    }
    with agent(tmp_path / "agent", settings) as one:

        def failing() -> bool:
            done = command("status", "--url", one.url)
            assert re.search(r"^MailDnsCheckFailing +open +critical +", done.stdout, re.MULTILINE)
            assert re.search(r"^failed\.example +dkim s1 +fail +", done.stdout, re.MULTILINE)
            return done.returncode == 1

        wait_until(failing, 30, "an incident")
        assert "Overall: failing" in command("status", "--url", one.url).stdout
