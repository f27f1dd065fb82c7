"""The yardstick itself: splits, popularity, ranking by `implicit`'s top-k, and its tuning."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.sparse import csr_matrix

pytest.importorskip("implicit", reason="the peer is not installed")


@pytest.fixture(scope="module", autouse=True)
def _benchmarks_on_path():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).resolve().parents[2] / "benchmarks"))
        yield


@pytest.fixture(scope="module")
def peers():
    import peers

    return peers


@pytest.fixture
def entries():
    rng = np.random.default_rng(2)
    dense = rng.integers(1, 6, size=(40, 25)) * (rng.random((40, 25)) < 0.3)
    dense[0] = 0
    dense[0, 3] = 5  # one user with a single entry
    return csr_matrix(dense.astype(np.float32))


@pytest.mark.parametrize("per_user", [True, False])
def test_parts_are_disjoint_and_whole(peers, entries, per_user):
    mask = peers.held_out(entries, 0.25, per_user=per_user, seed=4)
    train, test = peers.part(entries, ~mask), peers.part(entries, mask)
    assert (train + test != entries).nnz == 0
    assert train.multiply(test).nnz == 0
    if per_user:
        sizes = np.diff(entries.indptr)
        expected = [min(round(size * 0.25), size - 1) if size else 0 for size in sizes.tolist()]
        assert np.diff(test.indptr).tolist() == expected


def test_evaluate_equals_full_sorting(peers, entries):
    rng = np.random.default_rng(5)
    mask = peers.held_out(entries, 0.4, per_user=True, seed=4)
    mask |= entries.indices == 7  # item 7 is in no training entry: relevant, never hit
    train, test = peers.part(entries, ~mask), peers.part(entries, mask)
    users, items = (rng.normal(size=(n, 4)).astype(np.float32) for n in entries.shape)
    bias = rng.normal(size=25).astype(np.float32)
    got = peers.evaluate(users, items, train, test, [3, 24], item_bias=bias)

    scores = users @ items.T + bias
    scores[train.toarray() > 0] = -np.inf
    scores[:, 7] = -np.inf
    tested = np.flatnonzero(np.diff(test.indptr))
    lists = [[i for i in np.argsort(-scores[u]) if scores[u, i] > -np.inf] for u in tested]
    relevant = [set(test[u].indices.tolist()) for u in tested]
    for k in (3, 24):
        hits = [len(set(ranked[:k]) & wanted) for ranked, wanted in zip(lists, relevant, strict=True)]
        assert got[f"precision_at_{k}"] == pytest.approx(np.mean(hits) / k)
        assert got[f"recall_at_{k}"] == pytest.approx(
            np.mean([h / len(w) for h, w in zip(hits, relevant, strict=True)])
        )
        shown = {i for ranked in lists for i in ranked[:k]}
        assert got[f"coverage_at_{k}"] == pytest.approx(len(shown) / 24)


def test_popularity_ranks_by_count_then_column(peers):
    train = csr_matrix(np.array([[1, 0, 1, 0, 1], [1, 0, 1, 0, 0], [0, 0, 0, 1, 0]], dtype=np.float32))
    users, items = peers.popularity(train)
    assert np.argsort(-(users @ items.T)[0]).tolist() == [0, 2, 3, 4, 1]


@pytest.mark.parametrize("strength", ["binary", "log", "raw", "bm25"])
def test_confidences_have_mean_one_and_keep_their_places(peers, entries, strength):
    weighted = peers.confidences(entries, peers.Params(strength=strength))
    assert weighted.data.mean() == pytest.approx(1.0, rel=1e-6)
    assert ((weighted > 0) != (entries > 0)).nnz == 0
    if strength == "binary":
        assert np.ptp(weighted.data) == 0


def test_implicit_beats_popularity_on_planted_taste(peers):
    from lakefactor.config import Synthetic
    from lakefactor.synthetic import generate

    events = generate(Synthetic(users=400, items=200, events=12_000, groups=8, drift=0.0))
    entries = peers.matrix(events)
    entries.data[:] = 1.0
    mask = peers.held_out(entries, 0.2, per_user=True, seed=0)
    train, test = peers.part(entries, ~mask), peers.part(entries, mask)
    model = peers.implicit_als(train, peers.Params(factors=16, alpha=3.0, regularization=5.0))
    figures = peers.evaluate(*model, train, test, [10])
    baseline = peers.evaluate(*peers.popularity(train), train, test, [10])
    assert figures["ndcg_at_10"] > 1.5 * baseline["ndcg_at_10"]


def test_tuning_keeps_the_best_trial_of_each_metric(peers, entries):
    from tune_peers import Task, tune_implicit

    metrics = "precision_at_3", "ndcg_at_3"
    task = Task(
        "drawn", 0.3, True, metrics, trials=6, validation_share=0.3, validations=2, max_factors=16, checkpoints=(1, 3)
    )
    found = tune_implicit(entries, task)
    assert len(found["trials"]) == 6
    for metric in metrics:
        figures = {
            (number, iteration): by_metric[metric]
            for number, trial in enumerate(found["trials"])
            for iteration, by_metric in trial["validation"].items()
        }
        number, iteration = max(figures, key=figures.get)
        best = found["best"][metric]
        assert best["validation"] == figures[number, iteration]
        assert best["params"]["iterations"] == iteration
        assert best["params"]["regularization"] == found["trials"][number]["regularization"]


@pytest.mark.data
@pytest.mark.parametrize(("name", "shape"), [("ml-100k", (943, 1682)), ("amazon-book", (52_639, 82_629))])
def test_data_sets_have_their_published_sizes(peers, name, shape):
    if not (peers.data_folder() / name).is_dir():
        pytest.skip(f"{name} is not in {peers.data_folder()}; set LAKEFACTOR_DATA")
    assert peers.matrix(peers.load(name)).shape == shape
