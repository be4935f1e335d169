"""The one typed model of all settings: a YAML file, ``MAILVITALS_…`` variables over it, secrets from ``…_file`` twins.

There is a file for each section or two. Every model refuses unknown keys and is frozen. ``load`` turns whatever is
wrong into one ``SettingsError`` that lists every problem with its path, its line where the file has one, and a
suggestion where one is close. ``docs/settings.md`` is made from the descriptions by ``make settings``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from agent import settings_file
from agent.providers import PROVIDERS
from agent.settings.alerts import Alertmanager, Alerts
from agent.settings.bus import Bus
from agent.settings.dns import Blocklist, Dns
from agent.settings.domains import Domain
from agent.settings.judging import Phases, Vitals
from agent.settings.kinds import File, domain_name, ip_address
from agent.settings.listen import Listen, Log
from agent.settings.policy import load_policy
from agent.settings.sources import Source, TestTraffic
from agent.settings.store import Store
from agent.settings_file import FILE, SettingsError

__all__ = [
    "Bus", "Dns", "Domain", "Listen", "Settings", "SettingsError", "Store", "domain_name", "ip_address", "load",
    "load_policy", "loads", "schema",
]  # fmt: skip


class Settings(File):
    """mailvitals settings."""

    listen: Listen = Field(description="Where the two listeners are.")
    store: Store = Field(description="Where events are counted; in an edge, where they wait for a core.")
    dns: Dns = Field(Dns(), description="How DNS is watched.")
    blocklists: tuple[Blocklist, ...] = Field(
        (),
        max_length=50,
        description="Blocklists to ask about domains, `sending_ips` and `shared_ips`, each on its own terms of use "
        "(`docs/blocklists.md`). A name will do.",
    )
    alertmanagers: tuple[Alertmanager, ...] = Field(
        (),
        max_length=100,
        description="Where alerts go: every member of a cluster, never a load balancer before them. A URL will do.",
    )
    alerts: Alerts = Field(Alerts(), description="When an incident ends and how it is sent.")
    vitals: Vitals = Field(Vitals(), description="How often and by what the rates are judged.")
    test_traffic: TestTraffic = Field(TestTraffic(), description="Mail that is sent for a test, and enters no rate.")
    bus: Bus = Field(Bus(), description="An MQTT 5 broker between agents (`docs/mqtt.md`).")
    log: Log = Field(Log(), description="What is logged and how.")
    sources: tuple[Source, ...] = Field((), max_length=1000, description="The webhooks, one for each URL.")
    domains: tuple[Domain, ...] = Field((), max_length=10_000, description="The domains that are sent from.")
    phases: Phases = Field(Phases(), description="Numbers of the built-in phases that are different here.")

    @model_validator(mode="after")
    def _consistent(self) -> Settings:
        if not self.sources and not self.domains:
            raise PydanticCustomError("empty", "there is nothing to watch: configure `sources`, `domains` or both")
        for what, names in (("sources", [s.name for s in self.sources]), ("domains", [d.name for d in self.domains])):
            twice = [name for name, n in Counter(names).items() if n > 1]
            if twice:
                raise PydanticCustomError("twice", "{what} has `{name}` twice", {"what": what, "name": twice[0]})
        self._check_bus()
        return self

    def _check_bus(self) -> None:
        mode = self.bus.mode
        if mode != "none" and not self.store.identity_key:
            what = "bus.mode {mode} needs `store.identity_key`, on which edges and cores must agree"
            raise PydanticCustomError("bus", what, {"mode": mode})
        if mode == "edge" and not self.sources:
            raise PydanticCustomError("bus", "an edge without `sources` has nothing to relay")
        if mode == "edge" and self.store.server:
            raise PydanticCustomError("bus", "what waits in an edge lies on its own disk: its `store.url` is sqlite:")
        relayed = [s.name for s in self.sources if s.relayed]
        if relayed and mode != "core":
            raise PydanticCustomError("bus", "the source `{name}` is `relayed`, which only a core's can be", {
                "name": relayed[0],
            })  # fmt: skip


def load(path: Path, environ: Mapping[str, str]) -> Settings:
    """Read and check the settings. Raises ``SettingsError`` with every problem found, and nothing else."""
    return settings_file.load(Settings, path, environ)


def loads(text: str, environ: Mapping[str, str], origin: str = "settings") -> Settings:
    """Like ``load``, from text."""
    return settings_file.loads(Settings, text, environ, origin)


def schema() -> dict[str, Any]:
    """The JSON Schema of a settings file, with each provider's credentials and every ``…_file`` twin."""
    document = Settings.model_json_schema()
    text = {"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}
    source = document["$defs"]["Source"]
    source["properties"]["provider"]["enum"] = sorted(PROVIDERS)
    for name in sorted({n for p in PROVIDERS.values() for way in p.CREDENTIALS for n in way}):
        kind: dict[str, Any] = {"type": "object", "additionalProperties": text} if name == "headers" else text
        users = ", ".join(sorted(i for i, p in PROVIDERS.items() if any(name in way for way in p.CREDENTIALS)))
        source["properties"][name] = {**kind, "description": f"Credential ({users})."}
        source["properties"][name + FILE] = {**kind, "description": f"File(s) holding `{name}`."}
    source["additionalProperties"] = False
    for definition in document["$defs"].values():
        properties = definition.get("properties", {})
        for name, spec in list(properties.items()):
            if "'format': 'password'" in str(spec):
                kind = text if "'array'" in str(spec) else {"type": "string"}
                properties[name + FILE] = {**kind, "description": f"File holding `{name}`."}
    # One of the two must be there, and a plain URL or name is as good as a mapping.
    document["anyOf"] = [{"required": ["sources"]}, {"required": ["domains"]}]
    for name in ("alertmanagers", "blocklists"):
        items = document["properties"][name]["items"]
        document["properties"][name]["items"] = {"anyOf": [{"type": "string"}, items]}
    return document
