"""The dashboard stands where the API does not, and people get in by a password."""

from __future__ import annotations

import base64

import pytest
from starlette.testclient import TestClient

from lakefactor.config import Config, changed
from lakefactor.service.app import create_app

KEY = "0123456789abcdef0123"


@pytest.fixture
def config(root) -> Config:
    return changed(Config(), {"tables.root": str(root)})


def test_pages_are_for_people_and_errors_below_v1_for_programs(config):
    with TestClient(create_app(config)) as client:
        page = client.get("/")
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert client.get("/v1/nothing").json()["error"] == "not_found"
        assert client.delete("/v1/recommend").status_code == 405
        assert client.get("/nothing").headers["content-type"].startswith("text/html")


def test_without_a_dashboard_there_are_no_pages(config):
    with TestClient(create_app(changed(config, {"serve.dashboard": False}))) as client:
        assert client.get("/").json()["error"] == "not_found"


def test_a_browser_asks_a_person_for_the_key(config):
    with TestClient(create_app(changed(config, {"serve.api_keys": {"ann": KEY}}))) as client:
        refused = client.get("/")
        assert (refused.status_code, refused.headers["www-authenticate"].split()[0]) == (401, "Basic")
        for credentials, status in ((f"ann:{KEY}", 200), (f":{KEY}", 200), ("ann:wrong", 401), (KEY, 401)):
            header = {"Authorization": "Basic " + base64.b64encode(credentials.encode()).decode()}
            assert client.get("/", headers=header).status_code == status, credentials
        assert client.get("/", headers={"Authorization": "Basic ???"}).status_code == 401
        assert client.get("/", headers={"X-API-Key": KEY}).status_code == 200
