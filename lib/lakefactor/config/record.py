"""A configuration as recorded text: canonical JSON, without what is secret, and its digest."""

from __future__ import annotations

import hashlib
import json

from lakefactor.config.fields import secrets
from lakefactor.config.section import Section
from lakefactor.config.sections import Config

HIDDEN = "(hidden)"
"""What is shown and recorded in place of a secret value."""


def without_secrets(config: Config) -> Config:
    """Return `config` as it may be shown and recorded.

    >>> from lakefactor.config import Stream
    >>> without_secrets(Config(stream=Stream(kafka_options={"kafka.ssl.key.password": "x"}))).stream.kafka_options
    {'kafka.ssl.key.password': '(hidden)'}
    """
    for key in secrets():
        name, _, table = key.partition(".")
        section = getattr(config, name)
        hidden = section.model_copy(update={table: dict.fromkeys(getattr(section, table), HIDDEN)})
        config = config.model_copy(update={name: hidden})
    return config


def canonical_json(config: Section) -> str:
    """Return the one JSON text of equal configurations: every key, sorted, without blanks.

    >>> from lakefactor.config import Interactions
    >>> canonical_json(Interactions())
    '{"half_life_days":0.0,"log_scale":0.0}'
    """
    return json.dumps(config.model_dump(mode="json"), sort_keys=True, separators=(",", ":"), allow_nan=False)


def recorded(text: str) -> Config:
    """Return a configuration from its recorded text.

    It may be of another version of lakefactor: keys that are no more are passed over, new ones have their defaults.

    >>> recorded('{"model":{"rank":7,"gone":1},"old":{}}').model.rank
    7
    """
    found = json.loads(text)
    known = {
        section: {key: found[section][key] for key in type(default).model_fields if key in found[section]}
        for section, default in Config()
        if section in found
    }
    return Config.model_validate_json(json.dumps(known))


def digest(*texts: str) -> str:
    """Return the SHA-256 of texts, 64 hexadecimal digits: what is decided by all of them is known by it."""
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()
