"""Every page over tables that delta-rs wrote: what it says, what it links to, and what it does not let through."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import subprocess
import sys
from html import unescape
from urllib.parse import unquote

import pytest
from httpx2 import ASGITransport, AsyncClient, Response
from starlette.applications import Starlette
from starlette.routing import Mount

from lakefactor.config import Config, changed
from lakefactor.dashboard import create_dashboard
from lakefactor.pages.numbers import identifier, number
from lakefactor.query.lake import Lake
from lakefactor.testing.warehouse import AWKWARD, LIVE, OLD, REFUSED, START, Warehouse, append

PAGES = ("/", "/models", f"/models/{LIVE}", f"/models/{OLD}", "/stream", "/stream?stream=other", "/catalogue", "/users",
         "/users/plain", "/items", "/items/plain", "/experiments")  # fmt: skip


class Site:
    """Asks an application as a browser does, but follows no redirect."""

    def __init__(self, app) -> None:
        self.transport = ASGITransport(app, raise_app_exceptions=False)

    def ask(self, method: str, path: str, **query: str) -> Response:
        async def asked() -> Response:
            async with AsyncClient(transport=self.transport, base_url="http://site") as client:
                return await client.request(method, path, params=query or None)

        return asyncio.run(asked())

    def get(self, path: str, **query: str) -> Response:
        return self.ask("GET", path, **query)


def browser(root) -> Site:
    return Site(create_dashboard(changed(Config(), {"tables.root": str(root)})))


@pytest.fixture
def house(root):
    return Warehouse(root)


@pytest.fixture
def site(house):
    return browser(house.root)


def words_of(answer) -> str:
    """Return what a page shows, in one line."""
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", " ", answer.text)))


def table(answer, label: str) -> list[list[str]]:
    """Return the cells of the body of a table by the label of its region."""
    found = re.search(rf'aria-label="{re.escape(label)}">.*?<tbody>(.*?)</tbody>', answer.text, re.DOTALL)
    rows = re.findall(r"<tr[^>]*>(.*?)</tr>", found[1], re.DOTALL)
    return [[plain(cell) for cell in re.findall(r"<t[hd].*?</t[hd]>", row, re.DOTALL)] for row in rows]


def plain(html: str) -> str:
    return re.sub(r"\s+", " ", unescape(re.sub(r"<[^>]*>", "", html))).strip()


@pytest.mark.parametrize("path", PAGES)
def test_a_page_runs_nothing_and_loads_nothing_from_elsewhere(site, path):
    answer = site.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; style-src 'self'; ")
    assert "unsafe" not in answer.headers["content-security-policy"]
    assert (answer.headers["x-content-type-options"], answer.headers["referrer-policy"]) == ("nosniff", "no-referrer")
    assert not re.search(r"<script|<style|\sstyle=|\son[a-z]+=", answer.text)
    places = re.findall(r'(?:src|href|action)="([^"]*)"', answer.text)
    assert [place for place in places if not place.startswith(("/", "#", "data:"))] == []
    assert answer.text.count("<h1") == 1
    ids = re.findall(r'\sid="([^"]*)"', answer.text)
    assert len(ids) == len(set(ids))
    assert not re.search(r"\b(nan|inf|None)\b", words_of(answer))


@pytest.mark.parametrize("path", PAGES)
def test_every_link_of_a_page_leads_somewhere(site, path):
    for place in set(re.findall(r'href="(/[^"]*)"', site.get(path).text)):
        answer = site.get(unescape(place))
        assert answer.status_code == 200, place


@pytest.mark.parametrize("side", ["user", "item"])
@pytest.mark.parametrize("name", AWKWARD)
def test_any_id_is_found_by_search_and_shown_as_text(site, side, name):
    answer = site.get(f"/{side}s", id=name)
    if answer.status_code == 303:
        answer = site.get(answer.headers["location"])
    assert answer.status_code == 200
    title = unescape(re.search(r"<h1>(.*?)</h1>", answer.text, re.DOTALL)[1])
    assert title == f"{side.capitalize()} {identifier(name)}"
    assert "<b>bold" not in answer.text


def test_the_overview_says_what_is_live_how_good_and_how_fresh(site):
    answer = site.get("/")
    text = words_of(answer)
    assert LIVE in text
    assert "What is next" not in text
    assert table(answer, "Quality of the live model")[0] == ["NDCG@10", "0.250", "0.100", "+0.150", "0.150 to 0.150"]
    assert [row[1:3] for row in table(answer, "Decisions")] == [
        ["refuse", REFUSED], ["publish", LIVE], ["publish", OLD],
    ]  # fmt: skip
    assert "reason <2>" in text
    assert [row[1:] for row in table(answer, "Last runs")] == [["train", "failed", "92 s"], ["train", "done", "92 s"]]
    assert table(answer, "Drift")[0][1:6] == ["7", "NDCG@10", "all", "0.200", "0.100"]


def test_models_tell_which_is_live_and_which_was_refused(site):
    answer = site.get("/models")
    rows = table(answer, "Model versions")
    assert [row[0] for row in rows] == [REFUSED, f"{LIVE} live", f"{OLD} removed"]
    assert [row[4] for row in rows] == ["0.180", "0.250", "0.200"]
    assert table(answer, "Table of NDCG@10 by model version") == [
        ["11-18 08:00", "0.200", "0.100"], ["11-20 08:00", "0.250", "0.100"], ["11-22 08:00", "0.180", "0.100"],
    ]  # fmt: skip


def test_a_removed_version_says_so(site):
    assert "were removed by maintain at 2026-11-20 08:00 UTC" in words_of(site.get(f"/models/{OLD}"))


def test_the_stream_shows_running_means_and_marks(site):
    answer = site.get("/stream")
    rows = table(answer, "Table of NDCG@10 before learning")
    # 0.10, 0.11, ...: the mean of the first three is 0.11; of the last ten of twelve, 0.12 to 0.21, it is 0.165.
    assert [rows[2][1], rows[11][1], rows[11][2]] == ["0.110", "0.165", "0.210"]
    text = words_of(answer)
    assert f"publish: {LIVE} is live from micro-batch 4 on" in text
    assert "drift: micro-batch 7: NDCG@10 of all 0.200 to 0.100; NDCG@10 of new users 0.200 to 0.100" in text
    assert table(answer, "Refused rows") == [["the user is empty", "2"], ["the value <much> is no number", "1"]]
    assert table(answer, "Safeguards") == [["Capped events", "24"]]
    assert table(answer, "Steps")[0] == ["Learn", "0.5 s", "0.5 s"]
    assert table(answer, "Table of Events per second of work")[0] == ["0", "5"]  # 10 events in 2 s


def test_another_stream_by_name_and_none_of_that_name(site):
    assert "Stream other" in words_of(site.get("/stream?stream=other"))
    answer = site.get("/stream", stream="<b>x")
    assert answer.status_code == 404
    assert "called <b>x is done" in words_of(answer)


def test_the_catalogue_counts_what_lists_show(site, house):
    answer = site.get("/catalogue")
    lists = [house.best(n, 4) for n in range(len(AWKWARD))]
    shown = {k: len({name for one in lists for name in one[:k]}) for k in (1, 2, 3, 4)}
    rows = table(answer, "Table of Coverage by length of the lists")
    assert rows == [[str(k), f"{number(100 * n / len(AWKWARD))} %"] for k, n in shown.items()]
    popular = table(answer, "Most popular items")
    assert popular[0] == [identifier(AWKWARD[-1]), str(max(house.n_entries))]
    assert table(answer, "Table of Concentration on the top items")[-1] == ["100 %", "100 %", "100 %"]


def test_an_item_says_how_many_are_recommended_it(site, house):
    lists = [house.best(n, 4) for n in range(len(AWKWARD))]
    count = sum("plain" in one for one in lists)
    text = words_of(site.get("/items/plain"))
    assert f"Recommended to {count} of {len(AWKWARD)} users" in text
    assert f"By popularity {len(AWKWARD)} of {len(AWKWARD)}" in text  # it has the fewest interactions


def test_a_user_sees_the_best_unseen_items_with_reasons(site, house):
    n = AWKWARD.index("x?y#z")
    answer = site.get("/users", id="x?y#z")
    answer = site.get(answer.headers["location"])
    rows = table(answer, "Recommended items")
    assert [row[1] for row in rows] == [identifier(name) for name in house.best(n, 10)]
    known = {identifier(AWKWARD[i]) for i in house.seen[n]}
    reasons = re.findall(r'<span><a href="/items/[^"]*">(.*?)</a> <small>\+', answer.text)
    assert {unescape(reason) for reason in reasons} <= known
    assert reasons
    events = table(answer, "Newest events")
    assert [row[1] for row in events] == [identifier(AWKWARD[i]) for i in reversed(house.seen[n])]
    scores = house.items.astype(float) @ house.users[n].astype(float)
    expected = sorted(house.seen[n], key=lambda i: scores[i])
    assert [row[0] for row in table(answer, "Most surprising known items")] == [
        identifier(AWKWARD[i]) for i in expected
    ]


def test_experiments_have_lift_intervals_and_the_check_of_the_sample(site):
    answer = site.get("/experiments")
    rows = table(answer, "Results of ranks")
    assert rows[0][1:5] == ["control", "500", "0.500", "–"]
    assert rows[1][1:6] == ["new", "400", "0.550", "10 %", "+0.0500"]
    assert rows[1][6:] == ["0.0200 to 0.0800", "0.00100", "0.0100 to 0.0900", "no verdict"]
    text = words_of(answer)
    assert "do not fit the shares (p = 0.000900)" in text
    assert "<i>not yet</i>" in text
    assert "lakefactor experiment analyse '<i>not yet</i>' --config conf/local.toml" in text


@pytest.mark.parametrize(
    ("low", "high", "verdict"), [(0.01, 0.09, "better"), (-0.09, -0.01, "worse"), (-0.01, 0.09, "undecided")]
)
def test_the_verdict_goes_by_the_any_time_interval(root, low, high, verdict):
    test = {"experiment": "t", "variants": [("a", "x"), ("b", "y")], "shares": [("a", 0.5), ("b", 0.5)], "control": "a"}
    append(root, "experiments", [test])
    result = {"experiment": "t", "analysis_id": "1", "metric": "outcome_per_user", "sample_ratio_p_value": 0.5}
    other = {"variant": "b", "value": 0.5, "difference": 0.0, "any_time_low": low, "any_time_high": high}
    append(root, "experiment_results", [result | {"variant": "a", "value": 0.5}, result | other])
    rows = table(browser(root).get("/experiments"), "Results of t")
    assert [row[-1] for row in rows] == ["–", verdict]


def test_nothing_there_yet_says_what_to_do(root):
    site = browser(root)
    first = site.get("/")
    assert first.status_code == 200
    assert f"There are no tables at {root}" in words_of(first)
    assert "lakefactor ingest PATH" in words_of(first)
    for path, status in (("/models", 200), ("/stream", 200), ("/catalogue", 200), ("/users", 200), ("/items", 200),
                         ("/experiments", 200), ("/users/u", 404), ("/items/i", 404), ("/models/m", 404)):  # fmt: skip
        answer = site.get(path)
        assert (path, answer.status_code) == (path, status)
        assert "lakefactor " in words_of(answer).partition("This is what makes it:")[2]


def test_an_unknown_id_offers_what_was_meant(site):
    for side in ("user", "item"):
        answer = site.get(f"/{side}s/plian")
        assert answer.status_code == 404
        assert f'href="/{side}s/plain"' in answer.text
    answer = site.get(f"/models/{LIVE[:-1]}")
    assert answer.status_code == 404
    assert f"did you mean '{LIVE}'" in words_of(answer)


def test_an_id_that_cannot_be_one_is_not_found(root):
    append(root, "live_model", [{"name": "default", "model_version": LIVE}], "long")
    append(root, "models", [{"model_version": LIVE, "config": "{}", "n_users": 1}], "long")
    for side in ("user", "item"):
        row = {"model_version": LIVE, f"{side}_id": 2**40, "factors": [1.0], "n_entries": 3, "batch_id": -1}
        append(root, f"{side}_factors", [row], "long")
    site = browser(root)
    for side in ("user", "item"):
        answer = site.get(f"/{side}s/abc")
        assert answer.status_code == 404
        assert "64-bit integer" in words_of(answer)
    assert site.get(f"/items/{2**40}").status_code == 200


def test_a_table_that_cannot_be_read_spoils_only_what_needs_it(site, house):
    log = house.root / "evaluations" / "_delta_log" / "00000000000000000000.json"
    log.write_text("{broken")
    answer = site.get("/")
    assert answer.status_code == 503
    text = words_of(answer)
    assert f"table evaluations cannot be read from {house.root}/evaluations" in text
    assert "reason <2>" in text
    answer = site.get("/models")
    assert answer.status_code == 503
    assert "check tables.root" in words_of(answer)
    assert site.get("/catalogue").status_code == 200


def test_lost_files_are_told_of(site, house):
    for file in (house.root / "item_factors").glob("*.parquet"):
        file.unlink()
    answer = site.get("/items/plain")
    assert answer.status_code == 503
    assert "table item_factors cannot be read" in words_of(answer)


def test_a_page_that_is_not_there_and_a_method_that_is_not_for_it(site):
    answer = site.get("/nope<b>")
    assert (answer.status_code, "no page at /nope<b>" in words_of(answer)) == (404, True)
    assert site.ask("POST", "/models").status_code == 405
    assert site.ask("HEAD", "/models").status_code == 200


def test_below_another_application_links_keep_its_prefix(house):
    inner = create_dashboard(changed(Config(), {"tables.root": str(house.root)}))
    site = Site(Starlette(routes=[Mount("/ui", inner)]))
    places = re.findall(r'(?:href|action)="(/[^"]*)"', site.get("/ui/users").text)
    assert {place.split("/")[1] for place in places} == {"ui"}
    assert 'href="/ui/models" aria-current="page"' in site.get("/ui/models").text
    assert unquote(site.get("/ui/users?id=a/b").headers["location"]) == "/ui/users/a/b"


@pytest.fixture
def reads(monkeypatch):
    """Names of the tables whose rows are read."""
    found = []
    for method in ("rows", "of_ids"):
        original = getattr(Lake, method)

        def counted(lake, table, *rest, original=original, **more):
            found.append(table)
            return original(lake, table, *rest, **more)

        monkeypatch.setattr(Lake, method, counted)
    return found


@pytest.mark.parametrize(
    "path", ["/", "/models", f"/models/{LIVE}", "/catalogue", "/users/plain", "/items/plain", "/experiments"]
)
def test_what_has_not_changed_is_not_read_again(site, reads, path):
    first = site.get(path).text
    assert reads
    reads.clear()
    assert site.get(path).text == first or path == "/"  # the lag grows
    assert set(reads) <= ({"live_model", "stream_ledger", "drift"} if path == "/" else set())


def test_a_commit_is_seen_at_once(site, house, reads):
    assert "rolled" not in words_of(site.get("/models"))
    reads.clear()
    row = {"decision_id": "d9", "model_version": OLD, "action": "rollback", "reason": "rolled", "decided_at": START}
    append(house.root, "decisions", [row])
    assert "rolled" in words_of(site.get("/models"))
    assert set(reads) == {"decisions"}


def test_a_table_made_anew_at_the_same_version_is_read_again(site, house):
    assert "reason <2>" in words_of(site.get("/models"))
    shutil.rmtree(house.root / "decisions")
    append(house.root, "decisions", [{"decision_id": "d", "model_version": OLD, "action": "refuse", "reason": "anew"}])
    text = words_of(site.get("/models"))
    assert ("reason <2>" in text, "anew" in text) == (False, True)


def test_it_needs_neither_spark_nor_torch(house):
    program = (
        "import sys, json; from starlette.testclient import TestClient; from lakefactor.config import Config, changed;"
        "from lakefactor.dashboard import create_dashboard;"
        "site = TestClient(create_dashboard(changed(Config(), {'tables.root': sys.argv[1]})));"
        "found = [site.get(path).status_code for path in ('/', '/users/plain', '/catalogue')];"
        "print(json.dumps([found, sorted({'pyspark', 'torch', 'delta', 'py4j'} & set(sys.modules))]))"
    )
    command = [sys.executable, "-c", program, str(house.root)]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(found.stdout) == [[200, 200, 200], []]


def test_items_have_their_titles_beside_their_ids(site, house):
    named = {"plain": "Plain & <simple>", AWKWARD[-1]: "The best"}
    append(house.root, "items", [{"item_id": item, "title": title} for item, title in named.items()])
    assert "Plain &amp; &lt;simple&gt;" in site.get("/items/plain").text
    popular = table(site.get("/catalogue"), "Most popular items")
    assert popular[0][0] == f"{identifier(AWKWARD[-1])} The best"
    (house.root / "items" / "_delta_log" / "00000000000000000000.json").write_text("no log")
    assert site.get("/items/plain").status_code == 200  # a page is not about titles
