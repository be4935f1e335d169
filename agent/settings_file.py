"""From a YAML file, ``MAILVITALS_…`` variables and secret files to a checked model, with every problem named.

What is read is hostile until checked: files have a largest size, aliases cannot multiply what they stand for, and no
message quotes a value, since any value may be a secret in the wrong place.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args

import yaml
from pydantic import BaseModel, SecretStr, ValidationError
from pydantic_settings import BaseSettings
from pydantic_settings.sources import EnvSettingsSource

PREFIX = "MAILVITALS_"
FILE = "_file"  # ends the name of a key that gives the path of a file instead of a value
MAX_BYTES = 8 * 1024 * 1024  # of a settings file
MAX_VALUES = 500_000  # in it, aliases counted as often as they are used
MAX_SECRET_BYTES = 64 * 1024

Place = tuple[str | int, ...]
_M = TypeVar("_M", bound=BaseSettings)


class SettingsError(Exception):
    """The settings cannot be used. ``problems`` has one line for each thing that is wrong; none quotes a secret."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = problems


def load(model: type[_M], path: Path, environ: Mapping[str, str]) -> _M:
    """Read and check the settings. Raises ``SettingsError`` with every problem found, and nothing else."""
    try:
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
        text = raw.decode("utf-8-sig")
    except (OSError, ValueError) as e:
        raise SettingsError([f"{path}: cannot be read: {_why(e)}"]) from None
    if len(raw) > MAX_BYTES:
        raise SettingsError([f"{path}: larger than {MAX_BYTES // 1024**2} MiB"])
    return loads(model, text, environ, str(path))


def loads(model: type[_M], text: str, environ: Mapping[str, str], origin: str = "settings") -> _M:
    """Like ``load``, from text."""
    return _Reading(model, origin).read(text, environ)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``"; did you mean `x`?"`` with the known word that is closest, ``""`` when none is close."""
    close = difflib.get_close_matches(word[:100], list(known), n=1, cutoff=0.6)
    return f"; did you mean `{close[0]}`?" if close else ""


def variable(path: Iterable[str]) -> str:
    """The environment variable of a key."""
    return PREFIX + "__".join(path).upper()


def keys(model: type[BaseModel], at: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The path of every key that has a variable: all but those within lists. Secrets come with their twins."""
    for name, field in model.model_fields.items():
        yield (*at, name)
        if is_secret(field.annotation):
            yield (*at, name + FILE)
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from keys(field.annotation, (*at, name))


def is_secret(annotation: Any) -> bool:
    """Whether a field of this type has a ``…_file`` twin."""
    return annotation is SecretStr or SecretStr in get_args(annotation)


class _Reading(Generic[_M]):
    """One attempt to read settings: where each value came from, and what is wrong so far."""

    def __init__(self, model: type[_M], origin: str) -> None:
        self._model = model
        self._origin = origin
        self._problems: list[str] = []
        self._lines: dict[Place, int] = {}
        self._variables: dict[Place, str] = {}
        self._failed: list[Place] = []
        self._values = 0

    def read(self, text: str, environ: Mapping[str, str]) -> _M:
        try:
            data = self._yaml(text)
            for name, given in self._environment(environ):
                _merge(data, given)
                self._variables |= dict.fromkeys(_leaves(given), name)
            data = self._secret_files(data, ())
        except RecursionError:
            raise SettingsError([*self._problems, f"{self._origin}: nested too deeply"]) from None
        for key in [key for key in data if key not in self._model.model_fields]:
            # Of the names that BaseSettings itself takes, none is a setting.
            self._problem((key,), f"unknown key{did_you_mean(key, self._model.model_fields)}")
            del data[key]
        try:
            settings = self._model(**data)
        except ValidationError as e:
            for error in e.errors(include_url=False, include_input=False):
                self._explain(dict(error))
        if self._problems:
            raise SettingsError(self._problems)
        return settings

    def _problem(self, at: Place, message: str) -> None:
        self._problems.append(f"{self._where(at)}: {_dotted(at)}: {message}")

    def _where(self, at: Place) -> str:
        while at:
            for place in (at, (*at[:-1], f"{at[-1]}{FILE}")):
                if place in self._variables:
                    return f"environment: {self._variables[place]}"
                if place in self._lines:
                    return f"{self._origin}:{self._lines[place]}"
            at = at[:-1]
        return self._origin

    # The file.

    def _yaml(self, text: str) -> dict[str, Any]:
        # Not safe_load, which would read it all twice, and build it before anything is known about it.
        try:
            loader = yaml.SafeLoader(text)
            node = loader.get_single_node()
            self._walk(node, ())
            data = loader.construct_document(node) if node else {}
        except RecursionError:
            raise self._no_yaml("", "nested too deeply, or an alias within itself") from None
        except yaml.YAMLError as e:
            mark = getattr(e, "problem_mark", None)
            problem = getattr(e, "problem", None) or getattr(e, "reason", None) or ""
            # An alias or a tag may be a secret that nobody quoted.
            problem = re.sub(r"(alias|tag|handle) .*", r"\1 (quote text that begins with * & or !)", problem)
            raise self._no_yaml(f":{mark.line + 1}" if mark else "", problem) from None
        except (ValueError, OverflowError, TypeError, AttributeError, KeyError):
            # The constructor meets, say, the 31st of February, or a map where a set was declared.
            raise self._no_yaml("", "a value is not what it looks like; put quotes around numbers and dates") from None
        if data is None:
            data = {}
        if not isinstance(data, dict):
            raise SettingsError([
                f"{self._origin}: the file must be a mapping of sections such as `listen:` and `store:`"
            ])  # fmt: skip
        return data

    def _no_yaml(self, where: str, problem: str) -> SettingsError:
        return SettingsError([*self._problems, f"{self._origin}{where}: not valid YAML: {problem[:200]}"])

    def _walk(self, node: yaml.Node | None, at: Place) -> None:
        self._values += 1
        if self._values > MAX_VALUES:
            raise SettingsError([f"{self._origin}: more than {MAX_VALUES:,} values, aliases counted wherever used"])
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                place = (*at, str(key.value) if isinstance(key, yaml.ScalarNode) else "?")
                if place in self._lines:
                    self._problem(place, f"given twice, again in line {key.start_mark.line + 1}")
                self._lines[place] = key.start_mark.line + 1
                self._walk(value, place)
        elif isinstance(node, yaml.SequenceNode):
            for i, value in enumerate(node.value):
                self._lines[(*at, i)] = value.start_mark.line + 1
                self._walk(value, (*at, i))

    # The environment.

    def _environment(self, environ: Mapping[str, str]) -> Iterator[tuple[str, dict[str, Any]]]:
        known = {variable(path) for path in keys(self._model)}
        for name in sorted(environ):
            if not name.upper().startswith(PREFIX):
                continue
            if name.upper() not in known:
                self._problems.append(f"environment: {name}: unknown variable{did_you_mean(name.upper(), known)}")
                continue
            if name + FILE.upper() in environ:
                self._problems.append(f"environment: {name}{FILE.upper()}: given beside {name}; keep one of the two")
            try:
                yield name, _Environment(self._model, {name: environ[name]})()
            except (ValueError, RecursionError):
                self._problems.append(f"environment: {name}: lists and mappings are given as JSON, and this is none")

    # Secret files.

    def _secret_files(self, value: Any, at: Place) -> Any:
        """Replace every ``x_file: path`` by ``x: content``; lists and mappings of paths become such of contents."""
        if isinstance(value, list):
            return [self._secret_files(item, (*at, i)) for i, item in enumerate(value)]
        if not isinstance(value, dict):
            return value
        out: dict[str, Any] = {}
        for key, item in value.items():
            name = str(key)
            if not name.endswith(FILE):
                out[name] = self._secret_files(item, (*at, name))
                continue
            twin = name.removesuffix(FILE)
            if twin in value:
                self._problem((*at, name), f"given beside `{twin}`; keep one of the two")
            out[twin] = self._contents(item, (*at, name))
        return out

    def _contents(self, value: Any, at: Place) -> Any:
        if isinstance(value, list):
            return [self._contents(item, (*at, i)) for i, item in enumerate(value)]
        if isinstance(value, dict):
            return {str(k): self._contents(v, (*at, str(k))) for k, v in value.items()}
        if not isinstance(value, str) or not value:
            why = "must be the path of a file"
        else:
            try:
                with Path(value).open("rb") as file:
                    raw = file.read(MAX_SECRET_BYTES + 1)
                content = raw.decode("utf-8-sig").strip()
                if content and len(raw) <= MAX_SECRET_BYTES:
                    return content
                why = f"the secret file {value} is " + ("empty" if not content else "too large")
            except (OSError, ValueError) as e:
                why = f"the secret file {value} cannot be read: {_why(e)}"
        self._problem(at, why)
        self._failed.append(at)
        return "?" * 64

    # What the model says.

    def _explain(self, error: dict[str, Any]) -> None:
        place, kind, message = tuple(error["loc"]), error["type"], error["msg"]
        if kind == "credential":
            if "key" in error.get("ctx", {}):
                place = (*place, error["ctx"]["key"])
            elif any(place == failed[: len(place)] for failed in self._failed):
                return  # it may only be about what stands in for a file that could not be read
        if kind == "extra_forbidden":
            parent = self._model_at(place[:-1])
            known = [k + end for k, f in parent.model_fields.items() for end in ("", FILE * is_secret(f.annotation))]
            message = f"unknown key{did_you_mean(str(place[-1]), known)}"
        elif kind == "missing":
            message = "required, but not given"
        elif kind in ("model_type", "model_attributes_type", "dict_type"):
            message = "must be a mapping of keys to values"
        elif kind in ("tuple_type", "list_type"):
            message = "must be a list"
        elif message[:1].isupper() and kind != "value_error":
            message = message[:1].lower() + message[1:]
        self._problem(place, message)

    def _model_at(self, place: Place) -> type[BaseModel]:
        model: type[BaseModel] = self._model
        for part in place:
            field = model.model_fields.get(str(part))
            if field is not None:
                kinds = (field.annotation, *get_args(field.annotation))
                model = next((k for k in kinds if isinstance(k, type) and issubclass(k, BaseModel)), model)
        return model


class _Environment(EnvSettingsSource):
    """pydantic-settings' own reading of nested variables, over a given mapping instead of the process's."""

    def __init__(self, model: type[BaseSettings], environ: Mapping[str, str]) -> None:
        self._given = environ
        super().__init__(model)

    def _load_env_vars(self) -> Mapping[str, str | None]:
        return {k.lower(): v for k, v in self._given.items()}


def _merge(under: dict[str, Any], over: Mapping[str, Any]) -> None:
    for key in over:
        # A secret replaces the file that was named for it, and the other way round.
        under.pop(key.removesuffix(FILE) if key.endswith(FILE) else key + FILE, None)
    for key, value in over.items():
        if isinstance(value, dict) and isinstance(under.get(key), dict):
            _merge(under[key], value)
        else:
            under[key] = value


def _leaves(value: Any, at: Place = ()) -> Iterator[Place]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _leaves(item, (*at, key))
    else:
        yield at


def _dotted(place: Place) -> str:
    return "".join(f"[{p}]" if isinstance(p, int) else f".{p[:100]}" for p in place).removeprefix(".") or "settings"


def _why(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return "not UTF-8 text" if isinstance(error, UnicodeError) else str(error)
