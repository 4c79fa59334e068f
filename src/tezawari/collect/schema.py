"""The tables of a store, as SQLModel describes them to any database that SQLAlchemy speaks to.

What depends on the order of arrival is in no table: which image of a word nearly duplicates which, and which of
several finds describes an image, is worked out from the positions of the search whenever it is read. So a collection
that was stopped and taken up again reads like one that never stopped.

URLs and words have no largest length, and databases bound what they index, so these are indexed by their SHA-256.
"""

from __future__ import annotations

from typing import Literal

from sqlalchemy import UniqueConstraint
from sqlalchemy.orm import registry
from sqlmodel import Field, SQLModel

SCHEMA_VERSION = 1
"""Of the tables below; a store of a larger one is refused."""

Status = Literal["waiting", "fetched", "refused"]


class Table(SQLModel, registry=registry()):
    """The base of all tables; its own registry keeps other models of the process out of ``Table.metadata``."""


class SchemaVersion(Table, table=True):
    """One row: the version of the tables."""

    __tablename__ = "schema_version"

    version: int = Field(primary_key=True, sa_column_kwargs={"autoincrement": False})


class Word(Table, table=True):
    """A word that images were collected for, NFC."""

    __tablename__ = "words"

    id: int | None = Field(default=None, primary_key=True)
    key: str = Field(unique=True)
    text: str


class Query(Table, table=True):
    """One search for a word: where, in which language, for how many results, and whether all of them came."""

    __tablename__ = "queries"
    __table_args__ = (UniqueConstraint("word_id", "source", "language", "limit"),)

    id: int | None = Field(default=None, primary_key=True)
    word_id: int = Field(foreign_key="words.id")
    source: str
    language: str
    limit: int
    exhausted: bool = False


class Image(Table, table=True):
    """An image on disk, one row for the same bytes; ``perceptual_hash`` is null for what has no telling one."""

    __tablename__ = "images"

    id: int | None = Field(default=None, primary_key=True)
    sha256: str = Field(unique=True)
    extension: str
    width: int
    height: int
    bytes: int
    perceptual_hash: str | None


class Address(Table, table=True):
    """A URL (or the path of a file), whatever searches found it, and what became of it."""

    __tablename__ = "addresses"

    id: int | None = Field(default=None, primary_key=True)
    key: str = Field(unique=True)
    url: str
    status: str = Field(default="waiting", index=True)
    reason: str | None = None
    detail: str | None = None
    image_id: int | None = Field(default=None, foreign_key="images.id")


class Find(Table, table=True):
    """One result of a query: its position, and whose image it is."""

    __tablename__ = "finds"
    __table_args__ = (UniqueConstraint("query_id", "address_id"),)

    id: int | None = Field(default=None, primary_key=True)
    query_id: int = Field(foreign_key="queries.id")
    address_id: int = Field(foreign_key="addresses.id", index=True)
    position: int
    source: str
    page_url: str
    title: str
    author: str
    licence: str
    licence_url: str


class Ranking(Table, table=True):
    """The score and the rank (from 1) of one image of a word in one pass of re-ranking."""

    __tablename__ = "rankings"

    word_id: int = Field(foreign_key="words.id", primary_key=True)
    pass_number: int = Field(primary_key=True)
    image_id: int = Field(foreign_key="images.id", primary_key=True)
    features: str
    score: float
    rank: int


class Annotation(Table, table=True):
    """What a person says of an image: that it shows the word, or that it does not."""

    __tablename__ = "annotations"

    word_id: int = Field(foreign_key="words.id", primary_key=True)
    image_id: int = Field(foreign_key="images.id", primary_key=True)
    positive: bool
