"""Who is let in, how much is taken, and what is written down of it."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest

from lakefactor.config import Config, changed
from lakefactor.errors import ConfigError
from lakefactor.service import create_app
from lakefactor.service.logs import _AsJson
from lakefactor.service.security import Rates

KEY, OTHER_KEY = "0123456789abcdef", "fedcba9876543210"


def test_with_keys_nobody_gets_in_without_one(warehouse, serving):
    with serving(api_keys={"shop": KEY}) as service:
        for headers in ({}, {"X-API-Key": ""}, {"X-API-Key": KEY[:-1]}, {"X-API-Key": OTHER_KEY}):
            for path in ("/v1/recommend?user=u0", "/metrics", "/docs", "/openapi.json", "/nowhere"):
                refused = service.get(path, headers=headers)
                assert (refused.status_code, refused.json()["error"]) == (401, "no_key")
        assert service.get("/v1/recommend?user=u0", headers={"X-API-Key": KEY}).status_code == 200
        assert service.get("/health").status_code == service.get("/ready").status_code == 200


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"serve.host": "0.0.0.0"}, "can be reached from other machines"),
        ({"serve.api_keys": {"shop": "short"}}, "serve.api_keys.shop has fewer than 16"),
        ({"serve.api_keys": {"shop": KEY, "blog": KEY}}, "two names have the same key"),
    ],
)
def test_a_door_that_is_open_or_weak_is_refused(keys, said):
    with pytest.raises(ConfigError, match=said) as refused:
        create_app(changed(Config(), keys))
    assert KEY not in str(refused.value)


def test_an_open_door_can_be_asked_for():
    create_app(changed(Config(), {"serve.host": "0.0.0.0", "serve.insecure": True}))


def test_a_bucket_holds_so_many_and_is_refilled_at_a_rate():
    now = [100.0]
    rates = Rates(4.0, 3, lambda: now[0])
    assert [rates.wait("a") for _ in range(5)] == [0, 0, 0, 0.25, 0.25]
    assert rates.wait("b") == 0
    now[0] += 0.5
    assert [rates.wait("a") for _ in range(3)] == [0, 0, 0.25]
    now[0] += 1e6
    assert [rates.wait("a") for _ in range(4)] == [0, 0, 0, 0.25]


def test_too_many_requests_of_a_key_are_told_when_to_come_back(warehouse, serving):
    keys = {"shop": KEY, "blog": OTHER_KEY}
    with serving(api_keys=keys, burst=2, requests_per_second=0.001) as service:
        answers = [service.get("/v1/recommend?user=u0", headers={"X-API-Key": KEY}) for _ in range(3)]
        assert [answer.status_code for answer in answers] == [200, 200, 429]
        assert answers[2].json()["error"] == "too_many_requests"
        assert int(answers[2].headers["retry-after"]) in (999, 1000)
        assert service.get("/v1/recommend?user=u0", headers={"X-API-Key": OTHER_KEY}).status_code == 200
        assert service.get("/health").status_code == 200


def test_a_million_items_in_one_request_are_refused(warehouse, serving):
    body = json.dumps({"items": [{"item": f"i{n}"} for n in range(1_000_000)]})
    with serving() as service:
        refused = service.post("/v1/fold-in", content=body)
        assert (refused.status_code, refused.json()["error"]) == (413, "body_too_long")

        def parts():  # no length is announced
            yield body[:600_000].encode()
            yield body[600_000:].encode()

        refused = service.post("/v1/fold-in", content=parts())
        assert (refused.status_code, refused.json()["error"]) == (413, "body_too_long")
    with serving(max_body_bytes=100_000_000) as service:
        refused = service.post("/v1/fold-in", content=body, headers={"Content-Type": "application/json"})
        assert (refused.status_code, refused.json()["error"]) == (422, "too_much")
        assert "1000000 items" in refused.json()["detail"]


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        ("/v1/recommend", {"user": "u0", "n": 1001}, 422, "too_much"),
        ("/v1/recommend", {"user": "u0", "n": 0}, 422, "invalid_request"),
        ("/v1/recommend", {}, 422, "invalid_request"),
        ("/v1/recommend", {"user": "u0", "items": [{"item": "i1"}]}, 422, "invalid_request"),
        ("/v1/recommend", {"user": "u0", "surprise": 1}, 422, "invalid_request"),
        ("/v1/recommend", {"user": "u0", "deny": ["no such"]}, 404, "unknown_item"),
        ("/v1/recommend", {"user": ""}, 422, "invalid_request"),
        ("/v1/recommend", {"user": True}, 422, "invalid_request"),
        ("/v1/fold-in", {"items": [{"item": "i1"}, {"item": "i1"}]}, 422, "invalid_request"),
        ("/v1/fold-in", {"items": [{"item": "i1", "strength": 1e300}]}, 422, "invalid_request"),
        ("/v1/fold-in", {"items": []}, 422, "invalid_request"),
        ("/v1/score", {"user": "nobody", "targets": ["i1"]}, 404, "unknown_user"),
        ("/v1/nothing", {}, 404, "not_found"),
        ("/v1/similar", {}, 405, "method_not_allowed"),
    ],
)
def test_mistakes_are_named_in_one_shape(warehouse, serving, path, body, status, error):
    with serving() as service:
        refused = service.post(path, json=body)
        assert (refused.status_code, refused.json()["error"]) == (status, error)
        assert set(refused.json()) == {"error", "detail"}
        not_json = service.post("/v1/fold-in", content=b'{"items": [{"item": "i1", "strength": NaN}]')
        assert (not_json.status_code, set(not_json.json())) == (422, {"error", "detail"})


def test_ratings_must_be_given_to_a_model_of_ratings(each, serving):
    with serving() as service:
        answer = service.post("/v1/fold-in", json={"items": [{"item": "i1"}]})
        assert answer.status_code == (422 if each.equation.biased else 200)


def test_the_log_holds_no_word_of_what_was_asked(warehouse, serving, caplog):
    secret = "canary-5d1e"
    with serving() as service, caplog.at_level(logging.INFO):
        service.get("/v1/recommend", params={"user": secret, "deny": [secret]})
        service.get("/v1/recommend", params={"user": "u0"})
        service.post("/v1/fold-in", json={"items": [{"item": secret}]})
        service.get(f"/{secret}")
    lines = [_AsJson().format(record) for record in caplog.records if record.name.startswith("lakefactor")]
    told = [line for line in map(json.loads, lines) if line["event"] == "request"]
    assert [(line["route"], line["status"]) for line in told[-4:]] == [
        ("/v1/recommend", 404),
        ("/v1/recommend", 200),
        ("/v1/fold-in", 404),
        ("none", 404),
    ]
    assert set(told[-1]) == {"time", "level", "event", "method", "route", "status", "ms", "model_version"}
    assert secret not in "".join(lines)


def test_it_needs_neither_spark_nor_torch():
    code = (
        "import sys, lakefactor.service.server; print([name for name in ('pyspark', 'torch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
