"""Reading a configuration: what is accepted, and that every problem is told in one error, by key."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest
from pydantic import ValidationError

from lakefactor.config import Config, canonical_json, load
from lakefactor.errors import ConfigError


def problems(*overrides: str, path: Path | None = None) -> list[str]:
    """Return the lines of the error that `overrides` give, without its first one."""
    with pytest.raises(ConfigError) as caught:
        load(path, overrides)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


def write(folder: Path, text: str) -> Path:
    path = folder / "config.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_no_file_and_no_overrides_give_the_defaults() -> None:
    assert load(None, []) == Config()


@pytest.mark.parametrize(
    ("override", "section", "key", "value"),
    [
        ("model.rank=8", "model", "rank", 8),
        ("model.algorithm=ials", "model", "algorithm", "ials"),
        ('model.algorithm="ials"', "model", "algorithm", "ials"),
        (" model.rank = 8 ", "model", "rank", 8),
        ("model.alpha=40", "model", "alpha", 40.0),
        ("model.alpha=1e-3", "model", "alpha", 0.001),
        ("evaluate.ks=[5,10]", "evaluate", "ks", (5, 10)),
        ("evaluate.ks=[10]", "evaluate", "ks", (10,)),
        ("ingest.header=false", "ingest", "header", False),
        ("ingest.delimiter=;", "ingest", "delimiter", ";"),
        ("ingest.delimiter==", "ingest", "delimiter", "="),
        (r'ingest.delimiter="\t"', "ingest", "delimiter", "\t"),
        ("ingest.user_column=7", "ingest", "user_column", "7"),
        ("tables.root=2024-01-01", "tables", "root", "2024-01-01"),
        ("tables.root=/données/été #1", "tables", "root", "/données/été #1"),
        ('recommend.users=["a b", "é"]', "recommend", "users", ("a b", "é")),
    ],
)
def test_an_override_is_toml_or_plain_text(override: str, section: str, key: str, value: object) -> None:
    found = getattr(getattr(load(None, [override]), section), key)
    assert (found, type(found)) == (value, type(value))


def test_an_override_of_a_table_entry_keeps_the_other_entries() -> None:
    weights = load(None, ["ingest.event_weights.view=2", 'ingest.event_weights."add to.cart"=4']).ingest.event_weights
    assert weights == {**Config().ingest.event_weights, "view": 2.0, "add to.cart": 4.0}


def test_later_overrides_win_over_earlier_ones_and_over_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "[model]\nrank = 3\nseed = 5\n")
    config = load(path, ["model.rank=4", "model.rank=6"])
    assert (config.model.rank, config.model.seed, config.train) == (6, 5, Config().train)


def test_a_byte_order_mark_is_no_problem(tmp_path: Path) -> None:
    assert load(write(tmp_path, "\ufeff[model]\nrank = 3\n"), []).model.rank == 3


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("model.rnak=8", "model.rnak (from --set): unknown key; did you mean model.rank?"),
        ("modle.rank=8", "modle: unknown section; did you mean model?"),
        ("train.seed=8", "train.seed (from --set): unknown key; did you mean "),
        ("spark.zzz=8", "spark.zzz (from --set): unknown key; known are spark.master, "),
        ("model.rank=0", "model.rank (from --set): found 0; allowed: integer, 1 to 2048"),
        ("model.rank=2049", "model.rank (from --set): found 2049; allowed: integer, 1 to 2048"),
        ("model.rank=8.0", "model.rank (from --set): found 8.0; allowed: integer, 1 to 2048"),
        ("model.rank=true", "model.rank (from --set): found true; allowed: integer, 1 to 2048"),
        ('model.rank="8"', 'model.rank (from --set): found "8"; allowed: integer, 1 to 2048'),
        ("model.rank=2024-01-01", "model.rank (from --set): found 2024-01-01; allowed: integer, 1 to 2048"),
        ("model.rank=", 'model.rank (from --set): found ""; allowed: integer, 1 to 2048'),
        (
            "model.seed=9223372036854775808",
            "model.seed (from --set): found 9223372036854775808; allowed: integer, 0 to ",
        ),
        ("model.user_reg=nan", "model.user_reg (from --set): found nan; allowed: finite number, >= 0"),
        ("model.item_reg=inf", "model.item_reg (from --set): found inf; allowed: finite number, >= 0"),
        ("model.bias_reg=-1", "model.bias_reg (from --set): found -1; allowed: finite number, >= 0"),
        ("model.alpha=0", "model.alpha (from --set): found 0; allowed: finite number, > 0"),
        ("ingest.min_value=-inf", "ingest.min_value (from --set): found -inf; allowed: finite number"),
        ("ingest.header=1", "ingest.header (from --set): found 1; allowed: true | false"),
        (
            "model.algorithm=als",
            'model.algorithm (from --set): found "als"; allowed: implicit_als | ials | explicit_als',
        ),
        ("evaluate.ks=5", "evaluate.ks (from --set): found 5; allowed: list (at least 1) of: integer, 1 to 1000"),
        ("evaluate.ks=[]", "evaluate.ks (from --set): found []; allowed: list (at least 1) of: integer, 1 to 1000"),
        ("evaluate.ks=[5, 0]", "evaluate.ks.1 (from --set): found 0; allowed: integer, 1 to 1000"),
        ("evaluate.ks=[5, 5]", "evaluate.ks names a cut-off twice: [5, 5]"),
        (
            "ingest.event_weights.view=-2",
            "ingest.event_weights.view (from --set): found -2; allowed: finite number, >= 0",
        ),
        ("spark.driver_memory=0g", 'spark.driver_memory (from --set): found "0g"; allowed: text like '),
        ("tables.catalog=lake", 'set exactly one of tables.root and tables.catalog, the other to "": both are set'),
        ("tables.root=", 'set exactly one of tables.root and tables.catalog, the other to "": both are empty'),
        ("tables.metastore=thrift://one:9083", "tables.metastore says where the tables of tables.catalog are"),
        ("tables.metastore=thrift://one:65536", "tables.metastore must be `thrift://host:port`"),
        ("tables.metastore=one:9083", "tables.metastore must be `thrift://host:port`, or several with commas between"),
        ("rank=8", "--set rank=8: write it as section.key=value"),
        ("model=8", "--set model=8: write it as section.key=value"),
        ("model.rank", "--set model.rank: write it as section.key=value"),
        ("", "--set : write it as section.key=value"),
        ("=", "--set =: write it as section.key=value"),
        ("a b.c=1", "--set a b.c=1: write it as section.key=value"),
        ("model.rank=[[", 'model.rank (from --set): found "[["; allowed: integer, 1 to 2048'),
    ],
)
def test_a_bad_override_is_told_by_key(override: str, line: str) -> None:
    found = problems(override)
    assert len(found) == 1
    assert found[0].startswith(line)


@pytest.mark.parametrize("override", ["model.seed=3\nmodel.rank=4", "model.seed=1\n[model]\nrank=2"])
def test_one_override_cannot_carry_a_second_one(override: str) -> None:
    with pytest.raises(ConfigError):
        load(None, [override])


def test_every_problem_is_in_the_one_error(tmp_path: Path) -> None:
    path = write(tmp_path, "[model]\nrank = 'many'\nbeta = 1\n[tables]\nroot = 'a/../b'\n[train]\nranks = 2\n")
    with pytest.raises(ConfigError) as caught:
        load(path, ["train.ranks=0", "oops"])
    text = str(caught.value)
    assert text.startswith(f"{path}: 5 problems\n")
    for part in (
        "model.rank: found",
        "model.beta: unknown key",
        "tables.root must not have `..`",
        "train.ranks (from --set)",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["interactions.log_scale=1"], "interactions.log_scale is for implicit feedback only"),
        (["interactions.half_life_days=30"], "interactions.half_life_days is for implicit feedback only"),
        (["model.strength=binary"], "model.strength is for implicit feedback only"),
    ],
)
def test_explicit_feedback_refuses_what_would_change_ratings(overrides: list[str], line: str) -> None:
    load(None, overrides)  # fine for implicit feedback
    assert problems("model.algorithm=explicit_als", *overrides)[0].startswith(line)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["publish.metric=ndcg_at_3"], "publish.metric ndcg_at_3 needs the cut-off 3 in evaluate.ks"),
        (["ingest.default_event_type=look"], "ingest.default_event_type 'look' is missing in ingest.event_weights"),
        (["ingest.delete_event_type=view"], "ingest.delete_event_type 'view' must not be in ingest.event_weights"),
        (["ingest.min_value=2", "ingest.max_value=2"], "ingest.min_value 2 must be below ingest.max_value 2"),
        (["ingest.user_column=a", "ingest.time_column=a"], "ingest.*_column: one column is named twice: a, a"),
        (["ingest.delimiter='\"'"], "ingest.delimiter must not be a quote or a line end"),
        (["stream.huber=1"], "stream.huber is for explicit feedback only: set it to 0"),
        (["synthetic.groups=50", "synthetic.items=49"], "synthetic.groups (50) must not exceed synthetic.items (49)"),
    ],
)
def test_keys_that_contradict_each_other_are_refused(overrides: list[str], line: str) -> None:
    assert problems(*overrides) == [line]


def test_a_missing_file_a_folder_and_bad_text_are_config_errors(tmp_path: Path) -> None:
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"[model]\nrank = \xff")
    cases = {
        tmp_path / "absent.toml": "cannot read",
        tmp_path: "cannot read",
        binary: "not UTF-8",
        write(tmp_path, "[model\nrank = 3"): "not valid TOML",
    }
    for path, reason in cases.items():
        with pytest.raises(ConfigError, match=reason) as caught:
            load(path, [])
        assert str(caught.value).startswith(str(path))


def test_a_section_that_is_no_table_is_told(tmp_path: Path) -> None:
    assert problems("model.rank=3", path=write(tmp_path, "model = 3"))[0].endswith(
        "found 3; allowed: a section of keys, written [model]"
    )


def test_a_config_is_frozen_and_travels() -> None:
    config = Config()
    with pytest.raises(ValidationError, match="frozen"):
        config.model.rank = 3  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        config.model = Config().model  # type: ignore[misc]
    assert pickle.loads(pickle.dumps(config)) == config


def test_the_canonical_json_is_the_config_and_follows_every_value() -> None:
    config = load(None, ["ingest.event_weights={view=1, interaction=2}"])
    turned = load(None, ["ingest.event_weights={interaction=2.0, view=1.0}"])
    assert Config.model_validate_json(canonical_json(config)) == config
    assert canonical_json(config) == canonical_json(turned)
    assert canonical_json(config) == canonical_json(turned) != canonical_json(Config())
    other_seed = load(None, ["model.seed=2"]).model
    assert canonical_json(config.model) == canonical_json(Config().model) != canonical_json(other_seed)
