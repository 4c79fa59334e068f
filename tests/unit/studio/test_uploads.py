"""What may be uploaded, and what is left of it."""

from __future__ import annotations

import io
import threading
from pathlib import Path

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from tests.hostile.pictures import (
    encoded,
    gif_of_frames,
    icc_segments,
    jpeg_of_scans,
    overlapping_exif,
    png_16_bit,
    png_bomb,
    with_jpeg_segments,
)

from tezawari.studio.state import Studio


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF"])
def test_a_picture_is_taken_and_shown(client: TestClient, studio: Studio, kind: str) -> None:
    answer = client.post("/api/photos", content=encoded(kind, (200, 120)))
    assert answer.status_code == 201
    photo = answer.json()
    assert (photo["width"], photo["height"]) == (200, 120)
    shown = client.get(f"/api/photos/{photo['id']}")
    assert shown.headers["content-type"] == "image/jpeg"
    assert Image.open(io.BytesIO(shown.content)).size == (200, 120)


def test_what_is_kept_is_written_anew_upright_and_without_metadata(client: TestClient, studio: Studio) -> None:
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "SECRET PLACE"
    content = (
        encoded("JPEG", (64, 48), exif=exif.tobytes(), comment=b"SECRET COMMENT") + b"<script>SECRET TAIL</script>"
    )
    photo = client.post("/api/photos", content=content).json()
    assert (photo["width"], photo["height"]) == (48, 64)
    stored = studio.uploads.photo(photo["id"])
    assert stored is not None
    for path in (stored.path, stored.preview):
        assert b"SECRET" not in path.read_bytes()


def test_transparency_and_depth_are_kept(client: TestClient, studio: Studio) -> None:
    photo = client.post("/api/photos", content=encoded("PNG", mode="RGBA")).json()
    with Image.open(studio.uploads.photo(photo["id"]).path) as picture:
        assert picture.mode == "RGBA"


HOSTILE = {
    "nothing": (b"", 422),
    "text": (b"hello", 415),
    "page": (b"<!doctype html><script>alert(1)</script>", 415),
    "svg": (b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>', 415),
    "executable": (b"\x7fELF" + bytes(100), 415),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n(/etc/passwd) run", 415),
    "pdf": (b"%PDF-1.7\n", 415),
    "zip": (b"PK\x03\x04" + bytes(60), 415),
    "bmp": (encoded("BMP"), 415),
    "tiff": (encoded("TIFF"), 415),
    "tga": (encoded("TGA"), 415),
    "bomb": (png_bomb(20_000, rows=10), 422),
    "bomb of an honest header": (png_bomb(6_400), 422),
    "cut jpeg": (encoded("JPEG", (400, 300))[:-2000], 422),
    "cut png": (encoded("PNG", (400, 300))[:-2000], 422),
    "head only": (encoded("JPEG")[:3], 422),
    "signature only": (b"\x89PNG\r\n\x1a\n", 422),
    "one pixel": (encoded("PNG", (1, 1)), 422),
    "animation": (gif_of_frames(2_000), 422),
    "scans": (jpeg_of_scans(200), 422),
    "overlapping exif": (with_jpeg_segments(encoded("JPEG"), overlapping_exif() * 3), None),
    "profile": (with_jpeg_segments(encoded("JPEG"), icc_segments(250_000)), None),
    "deep": (png_16_bit(), 201),
    "huge": (b"\xff\xd8\xff" + bytes(400_000), 413),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_are_refused_in_a_line_and_leave_nothing(client: TestClient, studio: Studio, name: str) -> None:
    content, status = HOSTILE[name]
    folder = studio.database.folder / "photos"
    before = set(folder.iterdir())
    answer = client.post("/api/photos", content=content)
    assert answer.status_code == status if status else answer.status_code in (201, 422)
    if answer.status_code == 201:
        return
    assert set(folder.iterdir()) == before
    message = answer.json()["error"]["message"]
    assert "\n" not in message
    assert str(folder) not in message


def test_photos_sent_at_once_are_all_kept(client: TestClient) -> None:
    ids: list[str] = []
    threads = [
        threading.Thread(
            target=lambda n=n: ids.append(client.post("/api/photos", content=encoded("PNG", seed=n)).json()["id"])
        )
        for n in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(ids)) == 6


def test_only_the_last_hundred_photos_are_kept(tmp_path: Path) -> None:
    from tezawari.studio.database import Database
    from tezawari.studio.uploads import Uploads

    uploads = Uploads(Database(tmp_path))
    content = encoded("JPEG", (32, 32))
    stored = [uploads.add_photo(content) for _ in range(103)]
    assert [uploads.photo(each.id) is None for each in stored] == [True] * 3 + [False] * 100
    assert len(list((tmp_path / "studio" / "photos").iterdir())) == 200


@pytest.mark.parametrize(
    ("width", "height", "size", "status"),
    [(50, 30, 1500, 201), (50, 30, 1499, 422), (30, 50, 1500, 422), (2000, 1200, 2_400_000, 413), (0, 0, 0, 422)],
)
def test_a_map_is_as_many_bytes_as_its_pixels_in_the_shape_of_its_photo(
    client: TestClient, width: int, height: int, size: int, status: int
) -> None:
    photo = client.post("/api/photos", content=encoded("PNG", (100, 60))).json()["id"]
    answer = client.post(f"/api/maps?photo={photo}&width={width}&height={height}", content=bytes(size))
    assert answer.status_code == status


def test_a_map_belongs_to_its_photo_alone(client: TestClient, studio: Studio) -> None:
    first, second = (
        studio.uploads.photo(client.post("/api/photos", content=encoded("PNG", (100, 60))).json()["id"])
        for _ in range(2)
    )
    labels = np.random.default_rng(0).integers(0, 256, (30, 50), np.uint8)
    identity = client.post(f"/api/maps?photo={first.id}&width=50&height=30", content=labels.tobytes()).json()["id"]
    assert np.array_equal(studio.uploads.map_labels(identity, first), labels)
    assert studio.uploads.map_labels(identity, second) is None
