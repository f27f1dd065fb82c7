"""What callers send and get, as the OpenAPI description has it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr

from lakefactor.client.answers import Basis

ItemId = Annotated[StrictStr | StrictInt, Field(description="An item, by its id, as text or not.", examples=["i7"])]
UserId = Annotated[StrictStr | StrictInt, Field(description="A user, by its id, as text or not.", examples=["u42"])]
Finite = Annotated[float, Field(allow_inf_nan=False)]


class _Question(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Interaction(_Question):
    """One thing that somebody has done."""

    item: ItemId
    strength: Finite | None = Field(
        None, description="As `interactions` has it: the rating, or how much it counts; 1 if it is not given."
    )


Interactions = Annotated[
    list[Interaction],
    Field(
        description="What an anonymous user has done, each item once.",
        examples=[[{"item": "i7"}, {"item": "i9", "strength": 3.0}]],
    ),
]


class RecommendQuestion(_Question):
    """Recommend for a user of the model, or for whoever has interacted with some items."""

    user: UserId | None = Field(None, description="A user; leave it out where `items` are given.")
    items: Interactions = []
    n: int = Field(10, ge=1, description="Longest list; at most `serve.max_n`.")
    allow: list[ItemId] = Field([], description="Only these; empty: all.")
    deny: list[ItemId] = Field([], description="None of these.")
    categories: list[StrictStr] = Field([], description="Only items of these categories; empty: all.")
    without: list[ItemId] = Field([], description="As if the user had not interacted with these.")
    exclude_seen: bool | None = Field(
        None, description="Leave out what the user has interacted with; null: as `recommend.exclude_seen` says."
    )


class ScoreQuestion(_Question):
    """Scores of some items for a user, or for whoever has interacted with some items."""

    user: UserId | None = Field(None, description="A user; leave it out where `items` are given.")
    items: Interactions = []
    targets: list[ItemId] = Field(min_length=1, description="Items to score.", examples=[["i1", "i2"]])


class ExplainQuestion(_Question):
    """Why an item scores as it does."""

    user: UserId | None = Field(None, description="A user; leave it out where `items` are given.")
    items: Interactions = []
    target: ItemId
    without: list[ItemId] = Field([], description="As if the user had not interacted with these.")


class FoldInQuestion(_Question):
    """Whose factors are wanted: that of somebody with these interactions."""

    items: Annotated[Interactions, Field(min_length=1)]


class _Answer(BaseModel):
    model_version: str = Field(description="Version that the answer is of.", examples=["20261120-080000-aaaa"])
    batch_id: int = Field(description="Last micro-batch that the version had learned from; -1: none.")
    basis: Basis = Field(
        description="What it goes by: the user's factors, factors folded in from `items`, an `item`'s factors, or what "
        "is `popular`, in all or in the `category` that was asked for, since the model does not know the user."
    )


class Recommended(BaseModel):
    """An item of a list."""

    position: int = Field(ge=1, description="1 is best.")
    item_id: str | int
    score: float = Field(description="Predicted preference or rating; of a popular item the number of interactions.")


class Recommendations(_Answer):
    """Best items first; ties are in order of item id."""

    items: list[Recommended]


class Similar(BaseModel):
    """An item near another."""

    position: int = Field(ge=1, description="1 is most similar.")
    item_id: str | int
    similarity: float = Field(description="Cosine of the factors, -1 to 1.")


class SimilarItems(_Answer):
    """Most similar items first; ties are in order of item id."""

    items: list[Similar]


class Scored(BaseModel):
    """An item and its score."""

    item_id: str | int
    score: float


class Scores(_Answer):
    """Scores in the order in which the items were given."""

    items: list[Scored]


class Contribution(BaseModel):
    """What one interaction adds to a score."""

    item_id: str | int
    strength: float
    contribution: float


class Explanation(_Answer):
    """A score and what it is made of: `base` and the contributions sum to it."""

    score: float
    base: float = Field(description="What the user has no say in: mean and the item's bias.")
    stored_score: float | None = Field(description="By the user's factors as they are; null where there are none.")
    items: list[Contribution] = Field(description="Largest contribution first.")


class Factors(_Answer):
    """What interactions make of a user."""

    factors: list[float]
    bias: float


class Health(BaseModel):
    """The process is alive."""

    status: str = "ok"


class Ready(BaseModel):
    """Whether there is a model, and how fresh the view of the tables is."""

    ready: bool
    model_version: str | None = None
    batch_id: int | None = None
    users: int | None = None
    items: int | None = None
    search: str | None = Field(None, description="`exact`, or `approximate` where an index proposes the items.")
    recall_at_100: float | None = Field(None, description="Share of the true 100 best items that the index leads to.")
    seconds_since_look: float | None = Field(None, description="Age of the last look at the tables that succeeded.")
    error: str | None = Field(None, description="Why the last look failed; null: it did not.")


class Problem(BaseModel):
    """Every error looks like this."""

    error: str = Field(description="A name for programs.", examples=["unknown_user"])
    detail: str = Field(description="What was found and what to do, for people.")
