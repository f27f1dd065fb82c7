"""Read a configuration: file, then ``--set`` overrides, then one validation that reports every problem at once."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import date, time
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from lakefactor.config.fields import allowed, keys, secrets, sections
from lakefactor.config.record import HIDDEN
from lakefactor.config.sections import Config
from lakefactor.errors import ConfigError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def load(path: Path | None, overrides: Sequence[str] = ()) -> Config:
    """Return the configuration of a TOML file with overrides on top; what neither names has its default.

    Parameters
    ----------
    path : Path or None
        The TOML file; None for defaults and overrides alone.
    overrides : sequence of str
        ``section.key=value``, later ones win. The value is TOML; what is not TOML is taken as plain text, and so is
        everything for a key that holds text. ``ingest.event_weights.view=2`` changes one entry of a table.

    Raises
    ------
    ConfigError
        The file cannot be read or is not TOML, or keys are unknown, of another type, out of range or in conflict. One
        line for each problem.

    Examples
    --------
    >>> load(None, ["model.rank=8", "evaluate.ks=[5, 10]"]).evaluate.ks
    (5, 10)
    >>> load(None, ["model.rnak=8", "train.ranks=0"])
    Traceback (most recent call last):
    lakefactor.errors.ConfigError: configuration: 2 problems
      model.rnak (from --set): unknown key; did you mean model.rank?
      train.ranks (from --set): found 0; allowed: integer, 1 to 65536
    """
    data = _read(path) if path is not None else {}
    problems: list[str] = []
    changed: set[str] = set()
    for text in overrides:
        try:
            changed.add(_override(data, text))
        except ValueError as error:
            problems.append(f"--set {_shown(text)}: {error}")
    try:
        config = Config.model_validate_json(json.dumps(data, default=_not_json))
    except ValidationError as error:
        problems += [line for detail in error.errors() for line in _lines(detail, data, changed)]
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise ConfigError("\n  ".join([f"{path or 'configuration'}: {count}", *problems]))
    return config


def changed(config: Config, values: Mapping[str, Any]) -> Config:
    """Return a configuration with other values, checked as a whole.

    Parameters
    ----------
    config : Config
    values : mapping
        By dotted key, as ``{"model.rank": 8}``.

    Raises
    ------
    ConfigError
        A value is not allowed, or the values contradict each other.

    Examples
    --------
    >>> changed(Config(), {"model.rank": 8}).model.rank
    8
    """
    data = config.model_dump(mode="json")
    for key, value in values.items():
        section, _, name = key.partition(".")
        data[section][name] = value
    try:
        return Config.model_validate_json(json.dumps(data))
    except ValidationError as error:
        problems = [line for detail in error.errors() for line in _lines(detail, data, set())]
        raise ConfigError("; ".join(problems)) from None


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the configuration file ({error.strerror}); give a TOML file") from None
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8 text") from None
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


def _override(data: dict[str, Any], text: str) -> str:
    """Put one ``section.key=value`` into `data`; return its ``section.key``."""
    name, equals, raw = text.partition("=")
    path = _path(name.strip())
    if not equals or len(path) < 2:
        raise ValueError("write it as section.key=value")
    node: Any = data
    default: Any = Config().model_dump(mode="json")
    for depth, part in enumerate(path[:-1]):
        default = default.get(part) if isinstance(default, dict) else None
        node = node.setdefault(part, dict(default) if depth and isinstance(default, dict) else {})
        if not isinstance(node, dict):  # the file holds something else here: its own line in the report says so
            return ".".join(path[:2])
    node[path[-1]] = _value(raw.strip(), text_key=keys().get(".".join(path), {}).get("type") == "string")
    return ".".join(path[:2])


def _path(name: str) -> list[str]:
    """Split a TOML key, quoted parts included, at its dots."""
    try:
        node: Any = tomllib.loads(f"{name} = 0")
    except tomllib.TOMLDecodeError:
        raise ValueError("write it as section.key=value") from None
    path = []
    while isinstance(node, dict):
        if len(node) != 1:
            raise ValueError("write it as section.key=value, one key at a time")
        path.append(next(iter(node)))
        node = node[path[-1]]
    return path


def _value(raw: str, text_key: bool) -> Any:
    try:
        parsed = tomllib.loads(f"value = {raw}")
    except (tomllib.TOMLDecodeError, RecursionError):
        return raw
    value = parsed["value"]
    return raw if len(parsed) > 1 or (text_key and not isinstance(value, str)) else value


def _not_json(value: object) -> object:
    """TOML dates are the only values that JSON lacks; no key holds one, so hand over what no key accepts."""
    if isinstance(value, date | time):
        return {"date or time": str(value)}
    raise TypeError(f"not a TOML value: {value!r}")


def _lines(detail: ErrorDetails, data: dict[str, Any], changed: set[str]) -> list[str]:
    """Tell what pydantic found: key, what was found, what is allowed. Our own checks name their keys themselves."""
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"]).splitlines()
    loc = [str(part) for part in detail["loc"]]
    key, name = ".".join(loc[:2]), ".".join(loc)
    start = f"{name} (from --set): " if key in changed else f"{name}: "
    if detail["type"] == "extra_forbidden":
        return [f"{start}unknown {'section' if len(loc) == 1 else 'key'}" + _suggest(name)]
    if len(loc) == 1:
        return [f"{start}found {_found(data, detail)}; allowed: a section of keys, written [{name}]"]
    schema = keys()[key]
    for _ in loc[2:]:  # an element of a list, a value of a table
        schema = schema.get("items") or schema.get("additionalProperties") or schema
    return [f"{start}found {_found(data, detail)}; allowed: {allowed(schema)}"]


def _shown(text: str) -> str:
    """Return an override as an error text may show it."""
    name = text.partition("=")[0]
    return f"{name}={HIDDEN}" if name.strip().startswith(secrets()) else text


def _found(data: Any, detail: ErrorDetails) -> str:
    if ".".join(map(str, detail["loc"][:2])) in secrets():
        return HIDDEN
    try:
        for part in detail["loc"]:
            data = data[part]
    except (KeyError, IndexError, TypeError):
        data = detail["input"]
    is_plain = isinstance(data, date | time | float)  # JSON would write NaN and Infinity, TOML says nan and inf
    text = str(data) if is_plain else json.dumps(data, default=str, ensure_ascii=False)
    return text if len(text) <= 80 else text[:77] + "..."


def _suggest(name: str) -> str:
    """Guess what was meant: a similar name, or the same key in another section."""
    section, _, last = name.rpartition(".")
    lasts = {key: key.partition(".")[2] for key in keys()}
    near = difflib.get_close_matches(name, [*keys(), *sections()], n=1, cutoff=0.75)
    same = [key for key in keys() if lasts[key] == last]
    alike = [key for key in keys() if lasts[key] in difflib.get_close_matches(last, lasts.values(), n=1, cutoff=0.75)]
    found = list(dict.fromkeys([*near, *same])) or alike
    if found:
        return f"; did you mean {' or '.join(found)}?"
    known = [key for key in keys() if section and key.startswith(section + ".")] or sections()
    return f"; known are {', '.join(known)}"
