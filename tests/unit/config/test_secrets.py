"""Secrets of a configuration are shown nowhere: printed, recorded, or in the text of an error."""

from __future__ import annotations

import json

import pytest

from lakefactor.config import HIDDEN, Config, Serve, Stream, canonical_json, load, recorded, without_secrets
from lakefactor.config.toml import toml
from lakefactor.errors import ConfigError

CANARY = "canary-5d1e"
SECRET = Config(
    stream=Stream(kafka_options={"kafka.sasl.jaas.config": CANARY, "startingOffsets": "latest"}),
    serve=Serve(api_keys={"shop": CANARY, "blog": CANARY + "2"}),
)


def test_only_the_values_of_secret_keys_are_hidden() -> None:
    expected = SECRET.model_dump()
    expected["stream"]["kafka_options"] = {"kafka.sasl.jaas.config": HIDDEN, "startingOffsets": HIDDEN}
    expected["serve"]["api_keys"] = {"shop": HIDDEN, "blog": HIDDEN}
    assert without_secrets(SECRET).model_dump() == expected
    assert without_secrets(Config()) == Config()


def test_what_is_printed_or_recorded_can_be_read_back_without_the_secret() -> None:
    shown = without_secrets(SECRET)
    assert CANARY not in toml(shown, "") + canonical_json(shown)
    assert recorded(canonical_json(shown)) == shown


@pytest.mark.parametrize(
    "override",
    [
        f"stream.kafka_options={CANARY}",
        f"stream.kafka_options={{sasl={{password='{CANARY}'}}}}",
        f"stream.kafka_options.kafka.sasl.password={CANARY}",
        f"stream.kafka_options.a b={CANARY}",
        f"stream.kafka_options='{CANARY}' = 1",
        f"serve.api_keys={CANARY}",
        f"serve.api_keys={{shop=['{CANARY}']}}",
    ],
)
def test_a_mistake_in_a_secret_key_is_told_without_the_value(override: str) -> None:
    with pytest.raises(ConfigError, match=r"stream\.kafka_options|serve\.api_keys") as refused:
        load(None, [override])
    assert CANARY not in json.dumps(str(refused.value))
