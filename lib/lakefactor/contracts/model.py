"""What a table contract says: the model that schemas/*.yaml is read into."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from lakefactor.contracts.ddl import create_table

IdType = Literal["string", "long"]
ColumnType = Literal[
    "user_id",
    "item_id",
    "STRING",
    "BINARY",
    "TIMESTAMP",
    "INT",
    "BIGINT",
    "FLOAT",
    "DOUBLE",
    "ARRAY<FLOAT>",
    "ARRAY<DOUBLE>",
    "MAP<STRING,BIGINT>",
    "MAP<STRING,DOUBLE>",
    "MAP<STRING,STRING>",
]
_CLUSTERABLE = {"user_id", "item_id", "STRING", "TIMESTAMP", "INT", "BIGINT"}  # types that Delta keeps min and max of
_NAME = r"^[a-z][a-z0-9_]*$"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Column(_Frozen):
    """One column. A FLOAT or DOUBLE is always finite, and so is every element of an array of them."""

    name: str = Field(pattern=_NAME)
    type: ColumnType = Field(description="Spark SQL type; `user_id` and `item_id` become STRING or BIGINT.")
    meaning: str = Field(min_length=1)
    nullable: bool = False
    unit: str = Field("", description="Empty: dimensionless.")
    min: int | float | None = Field(None, description="Smallest number.")
    max: int | float | None = Field(None, description="Largest number.")
    min_length: int | None = Field(None, ge=1, description="Fewest characters, bytes or elements.")
    one_of: tuple[str, ...] = Field((), description="The only texts allowed.")
    raw: bool = Field(False, description="Holds text as a source gave it, which may name a user.")


class TableContract(_Frozen):
    """One Delta table: grain, key, columns, and what the table itself enforces."""

    name: str = Field(pattern=_NAME)
    grain: str = Field(min_length=1, description="What one row is, in a sentence.")
    key: tuple[str, ...] = Field(min_length=1, description="Columns that name a row; null counts as a value.")
    columns: tuple[Column, ...] = Field(min_length=1)
    cluster_by: tuple[str, ...] = Field((), max_length=4, description="Liquid clustering; empty for small tables.")
    change_data_feed: bool = False
    deletion_vectors: bool = Field(
        False, description="Rows are deleted by a mark, not by writing their file anew: for tables that change in part."
    )
    checks: dict[str, str] = Field({}, description="SQL conditions over several columns, by name.")

    @field_validator("columns")
    @classmethod
    def _once(cls, columns: tuple[Column, ...]) -> tuple[Column, ...]:
        if len({column.name for column in columns}) < len(columns):
            raise ValueError("two columns have one name")
        return columns

    @model_validator(mode="after")
    def _known(self) -> TableContract:
        types = {column.name: column.type for column in self.columns}
        if unknown := {*self.key, *self.cluster_by} - set(types):
            raise ValueError(f"{self.name}: key or cluster_by names no column: {', '.join(sorted(unknown))}")
        if vague := [name for name in self.cluster_by if types[name] not in _CLUSTERABLE]:
            raise ValueError(f"{self.name}: Delta cannot cluster by {', '.join(vague)}")
        return self

    def column_types(self, user_id_type: IdType = "string", item_id_type: IdType = "string") -> dict[str, str]:
        """Return the Spark SQL type of every column, in order."""
        ids = {"user_id": user_id_type, "item_id": item_id_type}
        sql = {"string": "STRING", "long": "BIGINT"}
        return {column.name: sql[ids[column.type]] if column.type in ids else column.type for column in self.columns}

    def ddl(
        self,
        qualified_name: str,
        location: str | None = None,
        user_id_type: IdType = "string",
        item_id_type: IdType = "string",
    ) -> list[str]:
        """Return the SQL statements that create the table unless it exists: one statement, so one commit.

        Parameters
        ----------
        qualified_name : str
            As made by ``by_path`` or ``by_name``.
        location : str or None
            Folder of an external table; None: the catalog, or the path in the name, decides.
        user_id_type, item_id_type : {"string", "long"}
            What the ids of this warehouse are.

        Raises
        ------
        TableError
            The name is not a plain table name.

        Notes
        -----
        ``IF NOT EXISTS`` accepts any table that is there; compare it with ``differences``.
        """
        return [create_table(self, qualified_name, location, self.column_types(user_id_type, item_id_type))]

    def differences(
        self, found: Mapping[str, str], user_id_type: IdType = "string", item_id_type: IdType = "string"
    ) -> list[str]:
        """Say where a table's columns (name to Spark SQL type) differ from the contract; empty: nowhere.

        >>> from lakefactor.contracts import load
        >>> load("live_model").differences({"name": "string", "model_version": "int"})[:2]
        ['column model_version is INT, not STRING', 'column previous_version is missing']
        """
        wanted = self.column_types(user_id_type, item_id_type)
        types = {name: kind.upper().replace(" ", "") for name, kind in found.items()}
        wrong = [
            f"column {name} is {types[name]}, not {kind}" if name in types else f"column {name} is missing"
            for name, kind in wanted.items()
            if types.get(name) != kind
        ]
        return wrong + [f"column {name} is not in the contract" for name in types if name not in wanted]
