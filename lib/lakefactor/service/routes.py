"""The operations: what is asked of `answering`, and how it is described.

Answers are made into JSON here and not validated again: they are our own.
"""

from __future__ import annotations

from typing import Annotated, Any

import orjson
from fastapi import APIRouter, Query
from fastapi.responses import Response

from lakefactor.service.answering import Answering
from lakefactor.service.keeper import Keeper
from lakefactor.service.messages import (
    ExplainQuestion,
    Explanation,
    Factors,
    FoldInQuestion,
    Health,
    Ready,
    Recommendations,
    RecommendQuestion,
    ScoreQuestion,
    Scores,
    SimilarItems,
)
from lakefactor.service.metrics import Metrics
from lakefactor.service.problems import PROBLEMS

N = Annotated[int, Query(ge=1, description="Longest list; at most `serve.max_n`.")]
User = Annotated[str, Query(description="A user.", examples=["u42"])]
Item = Annotated[str, Query(description="An item.", examples=["i7"])]
Items = Annotated[list[str], Query()]


def json_response(content: Any, status: int = 200) -> Response:
    """Return JSON."""
    return Response(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), status, media_type="application/json")


def questions(answering: Answering) -> APIRouter:
    """Return the operations under ``/v1``."""
    router = APIRouter(prefix="/v1", tags=["model"], responses=PROBLEMS)

    @router.get("/recommend", response_model=Recommendations, summary="Recommend items to a user")
    async def recommend(
        user: User,
        n: N = 10,
        exclude_seen: bool | None = None,
        allow: Items = [],  # noqa: B006  (FastAPI copies it)
        deny: Items = [],  # noqa: B006
        without: Items = [],  # noqa: B006
        category: Items = [],  # noqa: B006
    ) -> Response:
        """Return the best items for a user that the model knows; others get what `serve.unknown_user` says."""
        lists: dict[str, Any] = {"allow": [*allow], "deny": [*deny], "without": [*without], "categories": [*category]}
        asked = RecommendQuestion.model_construct(user=user, items=[], n=n, exclude_seen=exclude_seen, **lists)
        return json_response(await answering.recommend(asked))

    @router.post("/recommend", response_model=Recommendations, summary="Recommend items, with lists in the body")
    async def recommend_with(asked: RecommendQuestion) -> Response:
        """Do as GET does; and for whoever has interacted with some items, by a fold-in of these."""
        return json_response(await answering.recommend(asked))

    @router.get("/similar", response_model=SimilarItems, summary="Find items like an item")
    async def similar(item: Item, n: N = 10) -> Response:
        """Return the items of which the factors have the largest cosine with those of an item."""
        return json_response(await answering.similar(item, n))

    @router.post("/score", response_model=Scores, summary="Score items")
    async def score(asked: ScoreQuestion) -> Response:
        """Return predicted preferences or ratings of some items, in their order."""
        return json_response(await answering.score(asked))

    @router.get("/explain", response_model=Explanation, summary="Explain a user's score of an item")
    async def explain(user: User, target: Item, without: Items = []) -> Response:  # noqa: B006
        """Tell what each of the user's interactions adds to the score; nothing is approximated."""
        asked = ExplainQuestion.model_construct(user=user, items=[], target=target, without=[*without])
        return json_response(await answering.explain(asked))

    @router.post("/explain", response_model=Explanation, summary="Explain a score, with lists in the body")
    async def explain_with(asked: ExplainQuestion) -> Response:
        """Do as GET does; and for whoever has interacted with some items."""
        return json_response(await answering.explain(asked))

    @router.post("/fold-in", response_model=Factors, summary="Compute factors from interactions")
    async def fold_in(asked: FoldInQuestion) -> Response:
        """Return the factors that a user with these interactions would have, by the equation of the training."""
        return json_response(await answering.fold_in(asked))

    return router


def state(keeper: Keeper, metrics: Metrics) -> APIRouter:
    """Return what orchestrators and monitors ask."""
    router = APIRouter(tags=["service"])

    @router.get("/health", response_model=Health, summary="Is the process alive?")
    async def health() -> Response:
        """Say yes, as long as there is an answer."""
        return json_response({"status": "ok"})

    @router.get(
        "/ready",
        response_model=Ready,
        summary="Is there a model to answer from?",
        responses={503: {"model": Ready, "description": "There is none yet."}},
    )
    async def ready() -> Response:
        """Say which one, and how fresh it is."""
        told = ready_now(keeper)
        return json_response(told.model_dump(), 200 if told.ready else 503)

    @router.get("/metrics", response_class=Response, summary="Metrics in Prometheus' text format")
    async def measured() -> Response:
        """Return requests, times, and the state of the snapshot."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    return router


def ready_now(keeper: Keeper) -> Ready:
    """Return how the service stands."""
    now, since, error = keeper.loaded, keeper.seconds_since_look, keeper.error
    if now is None:
        return Ready(ready=False, seconds_since_look=since, error=error)
    index = now.ranking.index
    return Ready(
        ready=True,
        model_version=now.model.model_version,
        batch_id=now.batch_id,
        users=len(now.users),
        items=len(now.items),
        search="exact" if index is None else "approximate",
        recall_at_100=1.0 if index is None else index.recall,
        seconds_since_look=since,
        error=error,
    )
