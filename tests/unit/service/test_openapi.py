"""The OpenAPI description is whole, and nothing that it allows ends in an error of ours."""

from __future__ import annotations

import schemathesis
from hypothesis import HealthCheck, given, settings

OPERATIONS = {"recommend", "similar", "score", "explain", "fold-in"}


def test_every_operation_is_described_with_its_answer_and_its_errors(warehouse, serving):
    with serving() as service:
        described = service.get("/openapi.json").json()
    operations = {
        (path, method): operation
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
    }
    assert {path.removeprefix("/v1/") for path, _ in operations if path.startswith("/v1/")} == OPERATIONS
    for (path, _), operation in operations.items():
        assert operation["summary"]
        assert operation["description"]
        if path.startswith("/v1/"):
            answers = operation["responses"]
            assert {"200", "401", "404", "413", "422", "429", "503"} == set(answers)
            assert answers["422"]["content"]["application/json"]["schema"]["$ref"].endswith("/Problem")


def test_nothing_that_is_described_ends_in_an_error_of_ours(warehouse, serving):
    with serving(requests_per_second=0) as service:
        schema = schemathesis.openapi.from_dict(service.get("/openapi.json").json())
        statuses = set()
        for found in schema.get_all_operations():

            @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck), database=None)
            @given(case=found.ok().as_strategy())
            def ask(case):
                sent = case.as_transport_kwargs(base_url="http://testserver")
                known = {name: sent[name] for name in ("method", "url", "params", "json", "headers") if name in sent}
                status = service.request(**known).status_code
                assert status < 500, known
                statuses.add(status)

            ask()
    assert 200 in statuses
