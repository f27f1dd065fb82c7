"""conf/*.toml and docs/configuration.md are what the sections say, and every key is explained."""

from __future__ import annotations

from pathlib import Path

import pytest

from lakefactor.config import Config, load
from lakefactor.config.fields import keys, sections
from lakefactor.config.toml import PROD, files, toml

CHECKOUT = Path(__file__).parents[3]


@pytest.mark.parametrize("path", sorted(files()))
def test_the_committed_file_is_the_generated_one(path: str) -> None:
    committed = (CHECKOUT / path).read_text(encoding="utf-8")
    assert committed == files()[path], "run `python -m lakefactor.config.toml`"


def test_local_toml_is_the_defaults_and_prod_toml_adds_its_overrides() -> None:
    assert load(CHECKOUT / "conf" / "local.toml", []) == Config()
    prod = load(CHECKOUT / "conf" / "prod.toml", [])
    assert prod == load(None, PROD)
    assert (prod.tables.root, prod.tables.catalog) == ("", "spark_catalog.lakefactor")


def test_toml_round_trips_awkward_values(tmp_path: Path) -> None:
    config = load(
        None,
        [
            r'ingest.event_weights={"a.b \"é\"" = 1e-9, interaction = 2e22}',
            r'recommend.users=["", "\t\\", "\u0001", "日本", "#", "]"]',
            "model.alpha=1e-300",
        ],
    )
    path = tmp_path / "awkward.toml"
    path.write_text(toml(config, "Awkward."), encoding="utf-8")
    assert load(path, []) == config


@pytest.mark.parametrize("key", sorted(keys()))
def test_every_key_is_explained(key: str) -> None:
    assert keys()[key].get("description", "").strip().endswith(".")


def test_every_section_is_explained_and_every_value_of_it_is_frozen() -> None:
    for name, section in sections().items():
        assert section.__doc__, name
        assert section.model_config.get("frozen"), name
        assert section.model_config.get("extra") == "forbid", name
