"""Style vectors, clusters and merges: planted kinds are found, and merging is the algebra that it says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tezawari.core.errors import UserError
from tezawari.data.content_style import shorter_side_to
from tezawari.features.backbone import Backbone, load_backbone
from tezawari.features.gram import gram_matrix
from tezawari.style.loss import PerceptualLoss, StyleTarget, StyleTargets, style_targets
from tezawari.style.style_clusters import (
    StyleImage,
    cluster_styles,
    combine_moments,
    describe_styles,
    image_moments,
    make_style_packs,
    merge_grams,
    merge_targets,
    pack_layers,
    style_vectors,
)
from tezawari.style.style_pack import MERGES, PackedImage

pytestmark = pytest.mark.usefixtures("one_thread")

LAYERS = ("relu1_2", "relu2_1")


@pytest.fixture(scope="module")
def backbone() -> Backbone:
    return load_backbone("vgg16", LAYERS, "random")


def _picture(seed: int, height: int = 48, width: int = 48) -> Tensor:
    coarse = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.interpolate(coarse, (height, width), mode="bilinear")[0]


def _stripes(seed: int) -> Tensor:
    """Upright stripes, the same but for their phase and a little noise."""
    generator = torch.Generator().manual_seed(seed)
    wave = 0.5 + 0.4 * torch.sin(torch.arange(48) / 1.5 + 6 * torch.rand(1, generator=generator))
    return (wave.expand(3, 48, 48) + 0.05 * torch.randn(3, 48, 48, generator=generator)).clamp(0, 1)


def _cloud(seed: int) -> Tensor:
    """A soft red gradient, the same but for a little noise."""
    generator = torch.Generator().manual_seed(seed)
    ramp = torch.linspace(0.2, 0.8, 48).expand(48, 48)
    picture = torch.stack([ramp, ramp * 0.3, ramp.T * 0.2])
    return (picture + 0.05 * torch.randn(3, 48, 48, generator=generator)).clamp(0, 1)


def _image(name: str, picture: Tensor) -> StyleImage:
    return StyleImage(name, PackedImage(name), lambda side: shorter_side_to(picture, side))


def _grams(count: int, channels: int = 5) -> Tensor:
    return gram_matrix(torch.randn(count, channels, 4, 6, generator=torch.Generator().manual_seed(1)), "hw")


def test_a_style_vector_is_the_upper_triangle_of_length_one() -> None:
    gram = torch.tensor([[[4.0, 1.0], [1.0, 2.0]]])
    torch.testing.assert_close(style_vectors(gram), torch.tensor([[4.0, 1.0, 2.0]]) / 21**0.5)
    torch.testing.assert_close(style_vectors(9 * gram), style_vectors(gram))


@pytest.mark.parametrize("order", [[*range(11)], [10, 3, 7, 0, 9, 1, 8, 2, 6, 5, 4]])
def test_two_planted_kinds_are_found_and_silhouette_chooses_two(backbone: Backbone, order: list[int]) -> None:
    pictures = [_image(f"s{n}", _stripes(n)) for n in range(6)] + [_image(f"c{n}", _cloud(n)) for n in range(5)]
    vectors = describe_styles([pictures[place] for place in order], backbone, "relu2_1", 48)
    clusters = cluster_styles(vectors)
    assert max(clusters.silhouettes, key=lambda count: clusters.silhouettes[count]) == 2
    kinds = [{pictures[order[place]].key[0] for place in members} for members in clusters.members]
    assert kinds == [{"s"}, {"c"}], "the larger first, each of one kind"
    assert sorted(sum(clusters.members, ())) == list(range(11))


def test_members_come_from_the_centre_out() -> None:
    points = np.array([[0.0, 0], [0.2, 0], [0.9, 0], [50, 0], [50.1, 0]], np.float32)
    clusters = cluster_styles(points, 2)
    assert clusters.members[0] == (1, 0, 2)


@pytest.mark.parametrize("count", [1, 3, 40])
def test_a_count_asked_for_is_kept(count: int) -> None:
    noise = np.random.default_rng(0).normal(size=(40, 300)).astype(np.float32)
    members = cluster_styles(noise, count).members
    assert len(members) == count
    assert sorted(sum(members, ())) == list(range(40))


def test_copies_of_one_image_are_one_cluster() -> None:
    same = np.ones((6, 10), np.float32)
    assert cluster_styles(same).members == (tuple(range(6)),)
    with pytest.raises(UserError, match="3 clusters of 1 different"):
        cluster_styles(same, 3)


def test_too_few_vectors_are_refused() -> None:
    with pytest.raises(UserError, match="3 images make no clusters"):
        cluster_styles(np.eye(3, dtype=np.float32))


def test_vectors_are_kept_and_damage_is_computed_again(
    backbone: Backbone, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    pictures = {name: _picture(seed) for seed, name in enumerate("abc")}
    loaded: list[str] = []

    def image(name: str) -> StyleImage:
        def load(side: int) -> Tensor:
            loaded.append(name)
            return pictures[name]

        return StyleImage(name, PackedImage(name), load)

    images = [image(name) for name in "abca"]
    done: list[tuple[int, int]] = []
    first = describe_styles(images, backbone, "relu2_1", 48, tmp_path, lambda *at: done.append(at))
    assert loaded == ["a", "b", "c"], "what is there twice is described once"
    assert done[-1] == (4, 4)
    assert np.array_equal(first[0], first[3])
    kept = sorted(tmp_path.rglob("*.npz"))
    kept[1].write_bytes(kept[1].read_bytes()[:-30])
    loaded.clear()
    assert np.array_equal(describe_styles(images, backbone, "relu2_1", 48, tmp_path), first)
    assert loaded == ["b"]
    assert "damaged" in caplog.text
    describe_styles(images[:1], backbone, "relu1_2", 48, tmp_path)
    assert loaded == ["b", "a"], "another layer is another vector"


def test_the_mean_of_identical_grams_is_that_gram() -> None:
    gram = _grams(1)
    assert torch.equal(merge_grams(gram.expand(7, -1, -1), "mean"), gram)


@pytest.mark.parametrize("merge", MERGES)
def test_merging_does_not_hang_on_the_order(merge: str, backbone: Backbone) -> None:
    moments = [image_moments(backbone, _picture(seed), LAYERS) for seed in range(4)]
    picture = image_moments(backbone, _picture(9), LAYERS)
    losses = []
    for order in ([0, 1, 2, 3], [3, 1, 0, 2]):
        targets = StyleTargets([merge_targets([moments[place] for place in order], merge)])  # type: ignore[arg-type]
        losses.append(targets(picture.grams, picture.means or {}, torch.tensor([0])))
    assert torch.equal(*losses)


def test_the_max_is_nowhere_below_any_and_somewhere_each() -> None:
    grams = _grams(5)
    merged = merge_grams(grams, "max")
    assert (merged >= grams).all()
    assert (merged == grams).any(0).all()


def test_moments_of_a_union_are_the_weighted_combination_of_the_parts() -> None:
    """The oracle pools all positions of all pictures and knows nothing of parts."""
    generator = torch.Generator().manual_seed(0)
    parts = [torch.randn(1, 6, 4, width, generator=generator, dtype=torch.float64) + width for width in (3, 5, 9)]
    weights = torch.tensor([12.0, 20.0, 36.0])
    second = combine_moments(torch.cat([gram_matrix(part, "hw") for part in parts]), weights)[0]
    mean = combine_moments(torch.cat([part.mean((2, 3)) for part in parts]), weights)[0]
    everything = torch.cat([part.flatten(2)[0] for part in parts], 1)
    torch.testing.assert_close(mean, everything.mean(1))
    covariance = torch.cov(everything, correction=0)
    torch.testing.assert_close(second - torch.outer(mean, mean), covariance)
    of_two = combine_moments(torch.cat([gram_matrix(part, "hw") for part in parts[:2]]), weights[:2])
    last = gram_matrix(parts[2], "hw")
    again = combine_moments(torch.cat([of_two, last]), torch.stack([weights[:2].sum(), weights[2]]))[0]
    torch.testing.assert_close(again, second)


def test_covariances_do_not_see_where_the_features_lie_and_means_do(backbone: Backbone) -> None:
    """Two pictures that differ by their means alone are as far apart as their means, halved."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(1, 4, 8, 8, generator=generator) + 2
    shifted = features + torch.tensor([1.0, 0, 0, 2.0])[:, None, None]
    target = StyleTarget({"x": gram_matrix(features, "hw")}, {"x": features.mean((2, 3))})
    loss = StyleTargets([target])({"x": gram_matrix(shifted, "hw")}, {"x": shifted.mean((2, 3))}, torch.tensor([0]))
    expected = 5 / features.mean((2, 3)).square().sum() / 2
    torch.testing.assert_close(loss, expected[None], rtol=1e-4, atol=0)


def test_minimise_of_one_image_is_that_images_loss(backbone: Backbone) -> None:
    moments = image_moments(backbone, _picture(1), LAYERS)
    picture = _picture(5)[None]
    alone = PerceptualLoss(backbone, [merge_targets([moments], "minimise")], LAYERS[1:])
    plain = PerceptualLoss(backbone, style_targets(backbone, [_picture(1)], LAYERS), LAYERS[1:])
    at = torch.tensor([0])
    assert torch.equal(alone(picture, picture, at).style, plain(picture, picture, at).style)


def test_minimise_is_the_nearest_image_and_pulls_to_it_alone(backbone: Backbone) -> None:
    moments = [image_moments(backbone, _picture(seed), LAYERS) for seed in range(3)]
    several = PerceptualLoss(
        backbone,
        [
            merge_targets(moments[:1], "mean"),
            merge_targets(moments, "minimise"),
            merge_targets(moments, "mean+covariance"),
        ],
        LAYERS[1:],
    )
    single = PerceptualLoss(
        backbone, style_targets(backbone, [_picture(seed) for seed in range(3)], LAYERS), LAYERS[1:]
    )
    pictures = torch.stack([_picture(6), _picture(7)]).requires_grad_()
    asked = several(pictures, pictures.detach(), torch.tensor([1, 1])).style
    each = torch.stack([single(pictures, pictures.detach(), torch.tensor([n, n])).style for n in range(3)])
    torch.testing.assert_close(asked, each.min(0).values)
    found, expected = (
        torch.autograd.grad(loss.sum(), pictures, retain_graph=True)[0] for loss in (asked, each.amin(0))
    )
    torch.testing.assert_close(found, expected)
    # A style without means is not touched by one that has them.
    torch.testing.assert_close(several(pictures, pictures, torch.tensor([0, 0])).style, each[0])


def test_packs_hold_the_layers_of_painting_and_of_training() -> None:
    assert pack_layers("efficientnet_lite0") == ("stem", "block1", "block2", "block4", "block6", "block9")
    assert pack_layers("vgg16", ["relu5_3"])[-1] == "relu5_3"
    assert {"relu1_1", "relu5_1", "relu1_2", "relu4_3"} <= set(pack_layers("vgg16"))


def test_a_pack_sees_its_images_at_three_sides(backbone: Backbone) -> None:
    images = [_image(f"i{seed}", _picture(seed, 150, 180)) for seed in range(2)]
    packs = make_style_packs(
        "ふわふわ", images, ["mean", "minimise"], backbone=backbone, layers=LAYERS, side=128, cluster=2, clusters=3
    )
    assert [*packs] == ["mean", "minimise"]
    pack = packs["minimise"]
    assert (pack.word, pack.merge, pack.cluster, pack.clusters) == ("ふわふわ", "minimise", 2, 3)
    assert [image.name for image in pack.images] == ["i0", "i1"]
    assert [*pack.targets] == [128, 64, 32]
    assert pack.targets[128].grams["relu2_1"].shape == (2, 128, 128)
    assert packs["mean"].targets[32].grams["relu1_2"].shape == (1, 64, 64)
    assert pack.preview.shape == (3, 96, 192)
    assert pack.preview.dtype == torch.uint8
