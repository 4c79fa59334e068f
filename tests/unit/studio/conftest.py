"""A studio without networks and workers: its pages, safety and database, for tests of requests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient
from tests.unit.collect.store_material import collect, rank_by_content
from tests.unit.studio.running import HERE, IMAGES, PORT, WORD

from tezawari.collect.store import open_store
from tezawari.studio.app import create_app
from tezawari.studio.job_work import Settings
from tezawari.studio.picture_routes import UPLOADS
from tezawari.studio.safety import CSRF_HEADER, Safety
from tezawari.studio.state import Studio


@pytest.fixture(scope="module")
def store_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one ranked word of twelve images."""
    folder = tmp_path_factory.mktemp("store")
    with open_store(folder) as store:
        collect(store, WORD, IMAGES)
        rank_by_content(store, WORD)
    return folder


@pytest.fixture(scope="module")
def studio(store_folder: Path) -> Iterator[Studio]:
    """A studio whose workers are never started: jobs wait."""
    safety = Safety("127.0.0.1", PORT, uploads=UPLOADS, upload_bytes=300_000)
    studio = Studio(Settings(store_folder), safety, most_jobs=3)
    yield studio
    studio.store.close()


@pytest.fixture
def client(studio: Studio) -> TestClient:
    """A browser on this machine that has the page open."""
    return TestClient(create_app(studio), base_url=HERE, headers={CSRF_HEADER: "1"}, raise_server_exceptions=False)
