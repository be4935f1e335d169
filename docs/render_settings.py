"""Write docs/settings.md from the settings model: every key with its type, default, variable and meaning."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from agent.providers import PROVIDERS
from agent.settings import Settings, schema
from agent.settings_file import FILE, MAX_BYTES, keys, variable

PAGE = Path(__file__).parent / "settings.md"

_TOP = """\
# Settings

Made from `agent/settings/` by `make settings`; change it there.

One YAML file, `mailvitals run --config FILE`. Only `listen`, `store` and one of `sources`, `domains` are required.
[minimal.yaml](../examples/minimal.yaml) is the least that is useful, [complete.yaml](../examples/complete.yaml) has
every key:

```yaml
listen:
  public: 0.0.0.0:8080
store:
  url: sqlite:////var/lib/mailvitals/ledger.db
sources:
  - name: sendgrid
    provider: sendgrid
    verification_key_file: /etc/mailvitals-secrets/sendgrid_verification_key
domains:
  - name: example.com
    dkim_selectors: [s1, s2]
```

`mailvitals config check FILE` names everything that is wrong with a file, each with its line, its path and what was
probably meant, and exits 78; the agent says the same when it starts. `mailvitals config schema` prints a JSON Schema
for editors. Unknown keys and variables are errors. A file has at most {max_mib} MiB. Settings are read once, at the
start.

**Environment.** Every key outside of lists has a variable: `MAILVITALS_`, then the path in capitals with `__` between
its parts. Lists and mappings are given as JSON:

```sh
MAILVITALS_LOG__LEVEL=debug
MAILVITALS_DNS__RESOLVERS='["192.0.2.53"]'
MAILVITALS_SOURCES='[{{"name": "pm", "provider": "postmark", "username": "u", "password_file": "/run/secrets/pm"}}]'
```

A variable wins over the file, key by key; a list replaces the whole list of the file.

**Secrets** can be given in place, by a variable, or as the path of a file whose content they are, without the white
space around it: `password_file` instead of `password`. Paths should be absolute; relative ones start at the agent's
working directory. Giving both is an error, but a variable replaces either form in the file.

**Rotation.** Each credential of a source may be a list, and its `{file}` twin a list of paths: a request is authentic
when it fits any of them. Add the new one, restart, change it at the provider, remove the old one.

**Durations** are a number with a unit, `ms`, `s`, `m`, `h`, `d` or `w`, such as `30s` or `1.5h`; a bare number is
seconds.
"""

_CREDENTIALS = """
### Credentials

A source must fill one of its provider's ways completely. Each value is text or a list of texts, `headers` a mapping of
header names to such; `…{file}` twins take paths in the same shapes. [providers/](providers/README.md) says where each
vendor shows them.

| Provider | Keys | From files |
|---|---|---|
"""


def page() -> str:
    """The whole document."""
    document = schema()
    variables = {path: variable(path) for path in keys(Settings)}
    parts = [_TOP.format(max_mib=MAX_BYTES // 1024**2, file=FILE)]
    for name, spec in document["properties"].items():
        listed = spec.get("type") == "array"
        model = _model(document, spec)
        says = spec.get("description", model["description"])
        need = "required" if name in document["required"] else "optional"
        parts.append(f"\n## {name}\n\n{says} {'A list' if listed else 'A section'}, {need}")
        parts.append(f"; variable `{variables[(name,)]}` (JSON).\n" if listed else ".\n")
        parts.append("\n" + _table(document, model, (name,), variables, listed))
        if name == "sources":
            parts.append(_CREDENTIALS.format(file=FILE) + "".join(_credentials()))
    return "".join(parts)


def _model(document: Mapping[str, Any], spec: Mapping[str, Any]) -> dict[str, Any]:
    """The definition that a property refers to, directly or as the items of a list."""
    found: list[str] = []

    def look(value: Any) -> None:
        if isinstance(value, dict):
            found.extend([value["$ref"]] if "$ref" in value else [])
            for key in ("items", "anyOf"):
                look(value.get(key))
        elif isinstance(value, list):
            for item in value:
                look(item)

    look(spec)
    model: dict[str, Any] = document["$defs"][found[0].rpartition("/")[2]]
    return model


def _table(
    document: Mapping[str, Any], model: Mapping[str, Any], at: tuple[str, ...],
    variables: Mapping[tuple[str, ...], str], listed: bool,
) -> str:  # fmt: skip
    rows = ["| Key | Type | Default | Meaning |\n|---|---|---|---|\n"] if listed else [
        "| Key | Type | Default | Variable | Meaning |\n|---|---|---|---|---|\n"
    ]  # fmt: skip
    credentials = {name for p in PROVIDERS.values() for way in p.CREDENTIALS for name in way}
    for path, required, spec in _leaves(document, model, at):
        name = path[-1].removesuffix(FILE)
        if (at == ("sources",) and name in credentials) or (path[-1].endswith(FILE) and name in model["properties"]):
            continue
        twin = path[-1] + FILE in model["properties"]
        key = f"`{'.'.join(path[1:])}`" + (f", `{path[-1]}{FILE}`" if twin else "")
        default = "**required**" if required else _default(spec)
        cells = [key, _type(spec), default]
        if not listed:
            cells.append(f"`{variables[path]}`" + (f", `…{FILE.upper()}`" if twin else ""))
        rows.append("| " + " | ".join([*cells, spec["description"]]) + " |\n")
    return "".join(rows)


def _leaves(
    document: Mapping[str, Any], model: Mapping[str, Any], at: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], bool, dict[str, Any]]]:
    for name, spec in model["properties"].items():
        if "$ref" in spec:
            yield from _leaves(document, _model(document, spec), (*at, name))
            continue
        yield (*at, name), name in model.get("required", ()), spec
        if "$ref" in spec.get("items", {}):
            yield from _leaves(document, _model(document, spec), (*at, f"{name}[]"))


def _credentials() -> Iterator[str]:
    for name, provider in sorted(PROVIDERS.items()):
        ways = [
            ", or ".join(" and ".join(f"`{key}{end}`" for key in way) for way in provider.CREDENTIALS)
            for end in ("", FILE)
        ]
        yield f"| `{name}` | {ways[0]} | {ways[1]} |\n"


def _type(spec: Mapping[str, Any]) -> str:
    options = [option for option in spec.get("anyOf", [spec]) if option.get("type") != "null"]
    one = options[0]
    if len(options) == 2 and "pattern" in options[1]:
        return "duration"
    if "$ref" in one:
        return "sections"
    if one.get("format") == "password":
        return "secret text"
    if "enum" in one:
        return " or ".join(f"`{word}`" for word in one["enum"])
    if "prefixItems" in one:
        return f"two of: {_type(one['prefixItems'][0])}"
    if one.get("type") == "array":
        return f"list of: {_type(one['items'])}"
    if one.get("type") == "object":
        return f"mapping to: {_type(one['additionalProperties'])}"
    kinds = {"integer": "whole number", "number": "number", "string": "text", "boolean": "`true` or `false`"}
    kind = kinds[one["type"]]
    if "exclusiveMaximum" in one:
        return f"{kind} between {one['exclusiveMinimum']:g} and {one['exclusiveMaximum']:g}"
    examples = one.get("examples") or (spec.get("examples") if one is spec else None)
    return f"{kind}, such as `{examples[0]}`" if examples else kind


def _default(spec: Mapping[str, Any]) -> str:
    value = spec.get("default")
    if value is None or value in ("", [], {}):
        return "–"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, list):
        return f"`[{', '.join(value)}]`"
    return f"`{_in_words(value)}`" if "duration" in _type(spec) else f"`{value}`"


def _in_words(seconds: float) -> str:
    """A duration as people write it."""
    return next((f"{seconds / n:g}{unit}" for n, unit in ((3600, "h"), (60, "m")) if seconds % n == 0), f"{seconds:g}s")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
