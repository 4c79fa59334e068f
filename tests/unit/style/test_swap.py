"""Material swap: what is outside of the region stays, what is inside is the restyled picture, and scores are right."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import ndimage
from sklearn.metrics import jaccard_score
from torch import Tensor

from tezawari.core.errors import UserError
from tezawari.features.backbone import load_backbone
from tezawari.style.color import preserve_color
from tezawari.style.gatys import paint, recipe
from tezawari.style.network import build_network
from tezawari.style.package import LoadedNetwork
from tezawari.style.stylize import Stylizer
from tezawari.style.swap import (
    Restyle,
    border_step,
    by_gatys,
    by_network,
    changed_outside,
    check_region,
    composite,
    find_source,
    judge_region,
    own_range,
    region_accuracy,
    region_of,
    swap_material,
)
from tezawari.style.swap_pictures import chain_panels, draw_chain, to_pixels

pytestmark = pytest.mark.usefixtures("one_thread")

HEIGHT, WIDTH = 45, 62


def _photo(seed: int = 0) -> Tensor:
    """A photo of 8 bits, as files have them."""
    noise = torch.rand(3, HEIGHT, WIDTH, generator=torch.Generator().manual_seed(seed))
    return (noise * 255).round() / 255


def _disc(radius: int = 12) -> Tensor:
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    return (y - 20) ** 2 + (x - 30) ** 2 <= radius**2


PHOTO, DISC = _photo(), _disc()
NOWHERE, EVERYWHERE = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool), torch.ones(HEIGHT, WIDTH, dtype=torch.bool)


@pytest.fixture(scope="module")
def stylizer() -> Stylizer:
    torch.manual_seed(0)
    network = build_network("johnson", 2)
    with torch.no_grad():
        network(torch.rand(2, 3, 48, 48), torch.eye(2))
    return Stylizer(LoadedNetwork(network.eval(), ["wood", "water"], {}))


@pytest.fixture(scope="module")
def restylers(stylizer: Stylizer) -> dict[str, Restyle]:
    backbone = load_backbone("efficientnet_lite0", recipe("efficientnet_lite0").layers, "random")
    style = stylizer.mix("water")
    return {
        "network": by_network(stylizer, style),
        "enlarged": by_network(stylizer, style, scale=1.7),
        "gatys": by_gatys(_photo(1), backbone, steps=3),
    }


@pytest.mark.parametrize("name", ["network", "enlarged", "gatys"])
def test_outside_a_hard_mask_every_bit_stays_and_inside_it_changes(restylers: dict[str, Restyle], name: str) -> None:
    swapped = swap_material(PHOTO, DISC, restylers[name])
    assert swapped.image.shape == PHOTO.shape
    assert torch.equal(swapped.image[:, ~DISC], PHOTO[:, ~DISC])
    old, new = to_pixels(PHOTO), to_pixels(swapped.image)
    assert np.array_equal(new[~DISC.numpy()], old[~DISC.numpy()])
    assert changed_outside(new, old, DISC.numpy()) == 0
    assert (new != old)[DISC.numpy()].any(-1).mean() > 0.9
    assert changed_outside(new, old, NOWHERE.numpy()) == (new != old).any(-1).sum() > 0


@pytest.mark.parametrize("name", ["network", "enlarged", "gatys"])
def test_a_swap_is_a_function_of_its_input(restylers: dict[str, Restyle], name: str) -> None:
    one, again = (swap_material(PHOTO, DISC, restylers[name], feather_px=1.5) for _ in range(2))
    assert torch.equal(one.image, again.image)
    assert torch.equal(one.mask, again.mask)


@pytest.mark.parametrize("feather_px", [0.0, 3.0])
def test_an_empty_mask_gives_the_photo_bit_for_bit(restylers: dict[str, Restyle], feather_px: float) -> None:
    assert torch.equal(swap_material(PHOTO, NOWHERE, restylers["network"], feather_px=feather_px).image, PHOTO)


@pytest.mark.parametrize("feather_px", [0.0, 3.0])
def test_a_full_mask_is_restyling_the_whole_photo(stylizer: Stylizer, feather_px: float) -> None:
    style = stylizer.mix("wood")
    swapped = swap_material(PHOTO, EVERYWHERE, by_network(stylizer, style), feather_px=feather_px)
    assert torch.equal(swapped.image, stylizer(PHOTO, style))


def test_gatys_paints_a_photo_of_any_memory_layout(restylers: dict[str, Restyle]) -> None:
    rows_of_pixels = PHOTO.permute(1, 2, 0).contiguous().permute(2, 0, 1)  # as arrays of pixels become tensors
    assert not rows_of_pixels.is_contiguous()
    painted = restylers["gatys"](rows_of_pixels, DISC)
    torch.testing.assert_close(painted, restylers["gatys"](PHOTO, DISC), atol=1e-3, rtol=0)


def test_gatys_under_a_full_mask_is_gatys_without_one(restylers: dict[str, Restyle]) -> None:
    backbone = load_backbone("efficientnet_lite0", recipe("efficientnet_lite0").layers, "random")
    plain = paint(PHOTO, [_photo(1)], backbone=backbone, steps=3, max_side=WIDTH)
    torch.testing.assert_close(restylers["gatys"](PHOTO, EVERYWHERE), plain, atol=1e-3, rtol=0)


def test_a_composite_keeps_both_ends_exactly_and_blends_between() -> None:
    other, mask = _photo(3), torch.rand(HEIGHT, WIDTH, generator=torch.Generator().manual_seed(1))
    mask[:10], mask[10:20] = 0, 1
    mixed = composite(PHOTO, other, mask)
    assert torch.equal(mixed[:, :10], PHOTO[:, :10])
    assert torch.equal(mixed[:, 10:20], other[:, 10:20])
    low, high = torch.minimum(PHOTO, other), torch.maximum(PHOTO, other)
    assert ((mixed >= low - 1e-6) & (mixed <= high + 1e-6)).all()


def test_a_soft_border_reaches_three_sigma_and_no_further(restylers: dict[str, Restyle]) -> None:
    swapped = swap_material(PHOTO, DISC, restylers["network"], feather_px=2.0)
    away = torch.from_numpy(ndimage.distance_transform_edt(~DISC.numpy()))
    far = away > 6 * 2**0.5  # the Gaussian is cut off at 3 σ along each axis
    assert torch.equal(swapped.image[:, far], PHOTO[:, far])
    near = (away > 0) & (away <= 2)
    assert (swapped.mask[near] > 0).all()
    assert (swapped.image != PHOTO).any(0)[near].float().mean() > 0.9
    assert swapped.mask[20, 30] == pytest.approx(1, abs=1e-6)


def test_kept_colours_are_the_photos(restylers: dict[str, Restyle]) -> None:
    kept = swap_material(PHOTO, DISC, restylers["network"], keep_color=True)
    whole = preserve_color(restylers["network"](PHOTO, DISC), PHOTO)
    assert torch.equal(kept.image[:, DISC], whole[:, DISC])


def test_the_network_sees_a_photo_enlarged_and_what_it_made_is_shrunk_again(stylizer: Stylizer) -> None:
    seen = []

    class Recording(Stylizer):
        def __call__(self, image: Tensor, style: Tensor, *rest: object) -> Tensor:
            seen.append(tuple(image.shape))
            return image

    restyle = by_network(Recording(stylizer.trained), stylizer.mix("wood"), scale=2.0)
    smooth = torch.from_numpy(ndimage.gaussian_filter(PHOTO.numpy(), (0, 2.0, 2.0)))
    torch.testing.assert_close(restyle(smooth, EVERYWHERE), smooth, atol=0.01, rtol=0)
    assert seen == [(3, 2 * HEIGHT, 2 * WIDTH)]


def test_a_verdict_counts_like_scikit_learn() -> None:
    rng = np.random.default_rng(0)
    mask = rng.integers(0, 4, (HEIGHT, WIDTH)).astype(np.uint8)
    mask[DISC.numpy() & (rng.random((HEIGHT, WIDTH)) < 0.6)] = 3
    verdict = judge_region(mask, DISC, 3)
    region = DISC.numpy()
    assert verdict.iou == pytest.approx(jaccard_score(region.ravel(), (mask == 3).ravel()))
    assert verdict.pixel_accuracy == pytest.approx((mask[region] == 3).mean())
    assert verdict.value == 3
    assert sum(verdict.shares.values()) == pytest.approx(1)
    assert verdict.shares[1] == pytest.approx((mask[region] == 1).mean())
    assert int(verdict.confusion.sum()) == mask.size
    both = judge_region(mask, region_of(mask, 3), 3)
    assert (both.pixel_accuracy, both.iou) == (1, 1)
    assert judge_region(mask, DISC, 9).iou == 0
    summed = verdict.confusion + both.confusion
    expected = ((mask[region] == 3).sum() + (mask == 3).sum()) / (region.sum() + (mask == 3).sum())
    assert float(region_accuracy(summed)) == pytest.approx(expected)


def test_the_step_across_a_border_is_the_mean_over_its_pairs() -> None:
    mask = torch.rand(6, 7, generator=torch.Generator().manual_seed(2))
    image = torch.rand(3, 6, 7, generator=torch.Generator().manual_seed(3))
    total = weight = 0.0
    for row in range(6):
        for column in range(7):
            for down, across in ((1, 0), (0, 1)):
                if row + down < 6 and column + across < 7:
                    slope = abs(float(mask[row + down, column + across] - mask[row, column]))
                    step = (image[:, row + down, column + across] - image[:, row, column]).abs().mean()
                    total, weight = total + slope * float(step), weight + slope
    assert border_step(image, mask) == pytest.approx(total / weight, rel=1e-5)


def test_a_soft_border_has_smaller_steps_than_a_hard_one() -> None:
    grey = torch.full((3, HEIGHT, WIDTH), 0.2)
    steps = [
        border_step(swapped.image, swapped.mask)
        for sigma in (0.0, 1.0, 3.0)
        for swapped in [swap_material(grey, DISC, lambda photo, region: photo + 0.6, feather_px=sigma)]
    ]
    assert steps[0] == pytest.approx(0.6, abs=1e-6)
    assert steps[0] > 2 * steps[1] > 2 * steps[2]
    assert np.isnan(border_step(grey, EVERYWHERE.float()))


def test_a_photos_own_range_is_the_95th_percentile_of_its_steps() -> None:
    pixels = PHOTO.numpy()
    steps = np.concatenate([np.abs(np.diff(pixels, axis=axis)).mean(0).ravel() for axis in (1, 2)])
    assert own_range(PHOTO) == pytest.approx(np.quantile(steps, 0.95), rel=0.01)


def test_a_source_is_found_by_name_and_what_else_is_there_is_told() -> None:
    mask = np.zeros((4, 5), np.uint8)
    mask[:2], mask[2, :2] = 1, 3
    names = ["wood", "water", "stone"]
    assert torch.equal(find_source(mask, names, "stone"), torch.from_numpy(mask == 3))
    with pytest.raises(UserError, match=r"there is no water in the photo; found there: wood 50%, stone 10%"):
        find_source(mask, names, "water")
    with pytest.raises(UserError, match="did you mean stone"):
        find_source(mask, names, "stones")
    with pytest.raises(UserError, match="no material at all"):
        find_source(np.zeros((4, 5), np.uint8), names, "wood")


def test_regions_that_no_swap_can_use_are_refused() -> None:
    check_region(DISC, "the mask")
    with pytest.raises(UserError, match=r"the mask m\.png is empty"):
        check_region(NOWHERE, "the mask m.png")
    with pytest.raises(UserError, match=r"covers the whole photo.*tezawari stylize"):
        check_region(EVERYWHERE, "the mask m.png")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"region": DISC[:, :-1]}, "61 × 45 pixels, the photo 62 × 45"),
        ({"feather_px": -1.0}, "not -1"),
        ({"feather_px": float("nan")}, "not nan"),
    ],
)
def test_mistakes_are_told(restylers: dict[str, Restyle], values: dict[str, object], said: str) -> None:
    asked = {"region": DISC, **values}
    with pytest.raises(UserError, match=said):
        swap_material(PHOTO, asked.pop("region"), restylers["network"], **asked)


def test_scales_out_of_range_are_refused(stylizer: Stylizer) -> None:
    style = stylizer.mix("wood")
    for values in ({"scale": 0.1}, {"scale": 9.0}, {"scale": float("nan")}):
        with pytest.raises(UserError):
            by_network(stylizer, style, **values)


def test_the_chain_is_four_panels_and_three_where_nobody_looks_again(restylers: dict[str, Restyle]) -> None:
    swapped = swap_material(PHOTO, DISC, restylers["network"])
    old, new, seen = to_pixels(PHOTO), to_pixels(swapped.image), DISC.numpy().astype(np.uint8)
    panels = chain_panels(old, swapped.mask, new, seen)
    torch.testing.assert_close(panels[0], PHOTO)
    assert torch.equal(panels[1][:, DISC], panels[0][:, DISC])
    assert (panels[1] != panels[0]).any(0)[~DISC].all()
    torch.testing.assert_close(panels[3][:, ~DISC], panels[2][:, ~DISC])
    assert (panels[3] != panels[2]).any(0)[DISC].all()
    assert len(chain_panels(old, swapped.mask, new, None)) == 3
    four, three = (draw_chain(old, swapped.mask, new, mask) for mask in (seen, None))
    assert four.shape[-1] > three.shape[-1] > 3 * WIDTH
