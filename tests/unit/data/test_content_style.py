"""The data modules: what a batch holds, what decides it, and what a folder must hold."""

from __future__ import annotations

import logging
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tezawari.core.errors import UserError
from tezawari.data.content_style import ContentPhoto, ContentStyleSamples, central_crop, random_crop, shorter_side_to
from tezawari.data.images import ImagesData
from tezawari.data.loader import SampleKey
from tezawari.data.sample import SampleData


def noise(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


def folders(root: Path, photos: int = 8, styles: int = 3) -> tuple[str, str]:
    for folder, count in (("photos", photos), ("styles", styles)):
        (root / folder / "more").mkdir(parents=True)
        for number in range(count):
            place = root / folder / ("more" if number % 3 == 2 else "") / f"p{number}.png"
            Image.fromarray(noise(70 + number, 90, number)).save(place)
    return str(root / "photos"), str(root / "styles")


def images(root: Path, **settings: object) -> ImagesData:
    content, style = folders(root) if not (root / "photos").exists() else (str(root / "photos"), str(root / "styles"))
    return ImagesData(content, style, **({"image_size": 32, "style_size": 48, "batch_size": 2} | settings))


class HalfDraws:
    """A generator whose every uniform draw is a given share of its range."""

    def __init__(self, *shares: float) -> None:
        self.shares = list(shares)

    def uniform(self, low: float, high: float) -> float:
        return low + (high - low) * self.shares.pop(0)

    def random(self) -> float:
        return self.shares.pop(0)


@pytest.mark.parametrize(("height", "width"), [(60, 90), (90, 60), (32, 32), (20, 300), (401, 57)])
def test_a_crop_is_that_of_resizing_the_whole_photo(height: int, width: int) -> None:
    y, x = np.mgrid[0 : 1 : height * 1j, 0 : 1 : width * 1j]
    smooth = np.rint(np.stack([x, y, (x + y) / 2], -1) * 255).astype(np.uint8)
    shorter = 40  # the draw of 0.5 of [1, 1.5] at a side of 32
    whole = shorter_side_to(torch.from_numpy(smooth).permute(2, 0, 1).float() / 255, shorter)
    for share_y, share_x in ((0.0, 0.0), (1.0, 1.0), (0.5, 0.25)):
        crop = random_crop(smooth, HalfDraws(0.5, share_y, share_x, 0.9), 32)  # type: ignore[arg-type]
        top, left = (whole.shape[1] - 32) * share_y, (whole.shape[2] - 32) * share_x
        expected = whole[:, round(top) : round(top) + 32, round(left) : round(left) + 32]
        assert crop.shape == (3, 32, 32)
        assert (crop - expected).abs().mean() < 0.02
        mirrored = random_crop(smooth, HalfDraws(0.5, share_y, share_x, 0.1), 32)  # type: ignore[arg-type]
        assert torch.equal(mirrored, crop.flip(2))


def test_a_crop_of_no_resizing_is_the_pixels_themselves() -> None:
    pixels = noise(48, 64)
    unscaled = random_crop(pixels, HalfDraws(1.0, 0.5, 0.25, 0.9), 32)  # type: ignore[arg-type]
    assert np.array_equal(np.rint(unscaled.numpy().transpose(1, 2, 0) * 255), pixels[8:40, 8:40])
    assert np.array_equal(np.rint(central_crop(pixels, 48).numpy().transpose(1, 2, 0) * 255), pixels[:, 8:56])


def test_everything_random_about_a_sample_is_its_seed_and_key() -> None:
    photos = [ContentPhoto(f"p{i}", noise(50, 60, i)) for i in range(3)]
    samples = ContentStyleSamples(photos, styles=50, image_size=32, seed=1)
    other = ContentStyleSamples(photos, styles=50, image_size=32, seed=2)
    first = samples[SampleKey(0, 1)]
    np.random.seed(3)  # noqa: NPY002
    torch.manual_seed(3)
    again = pickle.loads(pickle.dumps(samples))[SampleKey(0, 1)]
    assert torch.equal(first["image"], again["image"])
    assert (first["style"], first["id"]) == (again["style"], again["id"]) == (first["style"], "p1")
    changed = [samples[SampleKey(1, 1)], other[SampleKey(0, 1)]]
    assert all(not torch.equal(first["image"], sample["image"]) for sample in changed)


def test_styles_are_drawn_uniformly() -> None:
    samples = ContentStyleSamples([ContentPhoto("p", noise(16, 16))], styles=5, image_size=16, seed=0)
    counts = np.bincount([samples[SampleKey(epoch, 0)]["style"] for epoch in range(1000)], minlength=5)
    assert counts.sum() == 1000
    assert (np.abs(counts - 200) < 5 * np.sqrt(160)).all()


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_of_a_folder(tmp_path: Path, workers: int) -> None:
    data = images(tmp_path, num_workers=workers, epoch_size=12)
    data.setup("fit")
    batches = list(data.train_dataloader())
    assert len(batches) == 6
    for batch in batches:
        assert batch["image"].shape == (2, 3, 32, 32)
        assert batch["image"].dtype == torch.float32
        assert 0 <= batch["image"].min() < batch["image"].max() <= 1
        assert batch["style"].dtype == torch.int64
        assert batch["style"].max() < 3
    alone = list(images(tmp_path, num_workers=0, epoch_size=12).train_dataloader())
    assert all(torch.equal(a["image"], b["image"]) and a["id"] == b["id"] for a, b in zip(alone, batches))


def test_held_out_photos_are_never_trained_on_and_always_the_same(tmp_path: Path) -> None:
    data = images(tmp_path, val_fraction=0.25, epoch_size=40)
    held_out = [name for batch in data.val_dataloader() for name in batch["id"]]
    trained = {name for batch in data.train_dataloader() for name in batch["id"]}
    assert len(set(held_out)) == 2
    assert len(trained) == 6
    assert not trained & set(held_out)
    assert {int(s) for batch in data.val_dataloader() for s in batch["style"]} == {0, 1, 2}
    assert {int(p.shape[1]) for p in data.validation_photos()} <= set(range(64, 80))
    before = torch.get_rng_state()
    again = [batch["image"] for batch in images(tmp_path, val_fraction=0.25).val_dataloader()]
    assert all(torch.equal(a, b["image"]) for a, b in zip(again, data.val_dataloader()))
    assert torch.equal(before, torch.get_rng_state())
    chosen = {frozenset(p.name for p in images(tmp_path, seed=s).find().held_out) for s in range(4)}
    assert len(chosen) > 1


def test_names_are_sorted_stems_and_styles_have_the_asked_shorter_side(tmp_path: Path) -> None:
    data = images(tmp_path)
    assert data.style_names == ["p0", "p1", "p2"]
    for image in data.style_images():
        assert min(image.shape[1:]) == 48
        assert 0 <= image.min() < image.max() <= 1


def test_photos_beyond_the_memory_allowed_give_the_same_samples(tmp_path: Path) -> None:
    cached, uncached = images(tmp_path, epoch_size=16), images(tmp_path, epoch_size=16, cache_mb=0)
    assert all(photo.pixels is None for photo in uncached.find().train)
    for a, b in zip(cached.train_dataloader(), uncached.train_dataloader()):
        assert torch.equal(a["image"], b["image"])
        assert a["id"] == b["id"]


def test_a_large_photo_is_kept_at_a_bounded_size(tmp_path: Path) -> None:
    content, _ = folders(tmp_path)
    Image.fromarray(noise(300, 400)).save(Path(content) / "large.jpg")
    found = images(tmp_path).find()
    sizes = {photo.name: photo.load().shape for photo in [*found.train, *found.held_out]}
    assert sizes["large.jpg"] == (64, 85, 3)
    assert sizes["p0.png"] == (64, 82, 3)


def test_what_is_no_photo_is_skipped_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    content, _ = folders(tmp_path)
    whole = (Path(content) / "p0.png").read_bytes()
    (Path(content) / "cut.png").write_bytes(whole[: len(whole) // 2])
    (Path(content) / "empty.jpg").write_bytes(b"")
    (Path(content) / "notes.txt").write_text("no photo")
    Image.new("RGB", (1, 1)).save(Path(content) / "dot.gif")
    (Path(content) / ".hidden").write_text("")
    with caplog.at_level(logging.WARNING):
        found = images(tmp_path).find()
    assert len(found.train) + len(found.held_out) == 8
    for name in ("cut.png", "empty.jpg", "notes.txt", "dot.gif"):
        assert name in caplog.text
    assert ".hidden" not in caplog.text
    assert "skipped 4 files" in caplog.text


def test_folders_that_will_not_do_say_what_is_needed(tmp_path: Path) -> None:
    content, style = folders(tmp_path, photos=3, styles=0)
    with pytest.raises(UserError, match=r"style_dir.*0 styles found, at least 1 needed"):
        ImagesData(content, style).setup()
    with pytest.raises(UserError, match=r"content_dir.*3 photos found, at least 4 needed"):
        ImagesData(content, content, image_size=32, style_size=32).setup()
    with pytest.raises(UserError, match=r"data\.content_dir=FOLDER data\.style_dir=FOLDER"):
        ImagesData().setup()
    with pytest.raises(UserError, match="there is no such folder"):
        ImagesData(str(tmp_path / "absent"), content, image_size=32, style_size=32).setup()
    with pytest.raises(UserError, match="not a folder"):
        ImagesData(f"{content}/p0.png", content, image_size=32, style_size=32).setup()
    Image.fromarray(noise(60, 60)).save(Path(content) / "p0.webp")
    with pytest.raises(UserError, match=r"p0\.png and p0\.webp would both be the style p0"):
        ImagesData(content, content, image_size=32, style_size=32).setup()


@pytest.mark.parametrize(
    ("settings", "word"),
    [({"batch_size": 0}, "batch_size"), ({"image_size": 4}, "image_size"), ({"val_fraction": 1.0}, "val_fraction")],
)
def test_settings_that_will_not_do_are_named(tmp_path: Path, settings: dict[str, object], word: str) -> None:
    with pytest.raises(UserError, match=rf"data\.{word}"):
        images(tmp_path, **settings).setup()


def test_the_sample_needs_no_download_and_holds_out_its_own_photos() -> None:
    data = SampleData(image_size=32, style_size=40, batch_size=2, epoch_size=24, scenes=2)
    assert len(data.style_names) == 8
    assert data.style_names == sorted(data.style_names)
    assert [tuple(image.shape[1:]) for image in data.style_images()] == [(40, 40)] * 8
    trained = {name for batch in data.train_dataloader() for name in batch["id"]}
    held_out = {name for batch in data.val_dataloader() for name in batch["id"]}
    assert trained == {"astronaut", "camera", "coffee", "flower", "motorcycle", "rocket", "scene2", "scene3"}
    assert held_out == {"chelsea", "china", "scene0", "scene1"}


def test_the_samples_styles_are_plainly_different_in_colour() -> None:
    means = torch.stack(
        [image.mean((1, 2)) for image in SampleData(image_size=32, style_size=40, scenes=0).style_images()]
    )
    apart = torch.cdist(means, means) + torch.eye(8)
    assert apart.min() > 0.1


def test_the_sample_takes_any_of_its_styles_and_names_the_near_ones() -> None:
    data = SampleData(styles=["retina", "metal"], image_size=32, style_size=40, scenes=0)
    assert data.style_names == ["metal", "retina"]
    with pytest.raises(UserError, match="did you mean water"):
        SampleData(styles=["watr"]).setup()
    with pytest.raises(UserError, match="at least one"):
        SampleData(styles=[]).setup()
