"""Optimisation-based transfer: the loss is the literal formula, and optimising it does what is promised."""

from __future__ import annotations

import logging
import math

import pytest
import torch
from torch import Tensor, nn

from tezawari.core.errors import UserError
from tezawari.features.backbone import load_backbone
from tezawari.style import gatys
from tezawari.style.color import preserve_color
from tezawari.style.gatys import Progress, build_objective, guided_grams, paint

pytestmark = pytest.mark.usefixtures("one_thread")


class TinyBackbone(nn.Module):
    """Two random convolutions behind the interface of a backbone."""

    name = "tiny"
    layers = ("first", "second")

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(3)
        self.first = torch.randn(5, 3, 3, 3, generator=generator) / 3
        self.second = torch.randn(7, 5, 3, 3, generator=generator) / 5

    def forward(self, image: Tensor, layers: tuple[str, ...] | None = None) -> dict[str, Tensor]:
        first = torch.relu(torch.conv2d(image - 0.4, self.first, padding=1))
        second = torch.relu(torch.conv2d(first, self.second, padding=1, stride=2))
        return {"first": first, "second": second}


@pytest.fixture(autouse=True)
def layers_of_the_tiny_backbone(monkeypatch: pytest.MonkeyPatch) -> None:
    known, tiny = gatys.recipe, gatys.Recipe(("first", "second"), ("second",), 10.0, 1.0)
    monkeypatch.setattr(gatys, "recipe", lambda name: tiny if name == "tiny" else known(name))


def _image(height: int, width: int, seed: int) -> Tensor:
    """A smooth random picture."""
    noise = torch.rand(1, 3, 6, 6, generator=torch.Generator().manual_seed(seed))
    return nn.functional.interpolate(noise, (height, width), mode="bilinear", antialias=True)[0]


PHOTO, STYLE, OTHER = _image(48, 40, 0), _image(48, 40, 1), _image(36, 44, 2)
EVENLY = {"content_weight": 1.0, "style_weight": 10.0, "tv_weight": 1.0}


def _objective(styles: list[Tensor], weights: list[float], guide: Tensor | None = None, **terms: float) -> object:
    return build_objective(
        PHOTO,
        styles,
        backbone=TinyBackbone(),
        style_weights=torch.tensor(weights),
        guide=guide,
        **{**EVENLY, **terms},
    )


def _paint(styles: list[Tensor], **values: object) -> Tensor:
    return paint(PHOTO, styles, backbone=TinyBackbone(), **{"steps": 8, **values})


def test_the_loss_is_the_papers_formula_against_its_value_at_zero() -> None:
    net, picture = TinyBackbone(), _image(48, 40, 5)
    photo, painted, style = (net(image[None]) for image in (PHOTO, picture, OTHER))

    def paper_content(features: Tensor) -> float:
        total = 0.0
        for channel in range(features.shape[1]):
            total += float((features[0, channel] - photo["second"][0, channel]).double().square().sum())
        return 0.5 * total

    def paper_style(features: Tensor, layer: str) -> float:
        channels, positions = features.shape[1], features.shape[2] * features.shape[3]
        target = style[layer][0].flatten(1).double()
        # The paper's style image has as many positions as the picture: bring it to as many.
        wanted = target @ target.T * (positions / target.shape[1])
        flat = features[0].flatten(1).double()
        total = 0.0
        for i in range(channels):
            for j in range(channels):
                total += float((flat[i] * flat[j]).sum() - wanted[i, j]) ** 2
        return total / (4 * channels**2 * positions**2)

    content = paper_content(painted["second"]) / paper_content(torch.zeros_like(painted["second"]))
    per_layer = [
        paper_style(painted[layer], layer) / paper_style(torch.zeros_like(painted[layer]), layer)
        for layer in ("first", "second")
    ]
    down, across = picture.diff(dim=1).square().mean(), picture.diff(dim=2).square().mean()
    expected = 2.0 * content + 3.0 * sum(per_layer) / 2 + 4.0 * float(down + across)
    objective = _objective([OTHER], [1.0], content_weight=2.0, style_weight=3.0, tv_weight=4.0)
    assert float(objective(picture[None])) == pytest.approx(expected, rel=1e-4)


def test_the_photo_has_no_content_loss_and_the_style_no_style_loss() -> None:
    assert float(_objective([STYLE], [1.0], style_weight=0, tv_weight=0)(PHOTO[None])) == 0
    assert float(_objective([STYLE], [1.0], content_weight=0, tv_weight=0)(STYLE[None])) == pytest.approx(0, abs=1e-9)


def test_a_guided_gram_is_the_weighted_second_moment() -> None:
    generator = torch.Generator().manual_seed(0)
    features, guides = torch.randn(1, 4, 5, 6, generator=generator), torch.rand(2, 5, 6, generator=generator)
    for gram, guide in zip(guided_grams(features, guides), guides):
        expected = torch.zeros(4, 4)
        for row in range(5):
            for column in range(6):
                vector = guide[row, column] * features[0, :, row, column]
                expected += torch.outer(vector, vector)
        torch.testing.assert_close(gram, expected / guide.square().sum())


def test_a_full_guide_is_no_guide() -> None:
    picture = _image(48, 40, 7)[None]
    plain = _objective([STYLE, OTHER], [1.0, 3.0])(picture)
    guided = _objective([STYLE, OTHER], [1.0, 3.0], guide=torch.ones(2, 48, 40))(picture)
    torch.testing.assert_close(plain, guided)


def test_the_gradient_of_a_guided_style_stays_inside_its_guide() -> None:
    guide = torch.zeros(1, 48, 40)
    guide[:, :, :20] = 1
    picture = _image(48, 40, 7)[None].requires_grad_()
    _objective([STYLE], [1.0], guide=guide, content_weight=0, tv_weight=0)(picture).backward()
    assert picture.grad is not None
    reach = 4
    assert torch.equal(picture.grad[..., 20 + reach :], torch.zeros(1, 3, 48, 20 - reach))
    assert picture.grad[..., :20].abs().sum() > 0


def test_one_hot_weights_are_the_single_style() -> None:
    assert torch.equal(_paint([STYLE, OTHER], style_weights=[0.0, 2.0]), _paint([OTHER]))


def test_mixing_is_linear_in_the_loss() -> None:
    picture = _image(48, 40, 8)[None]
    one, other = (_objective([style], [1.0], content_weight=0, tv_weight=0)(picture) for style in (STYLE, OTHER))
    mixed = _objective([STYLE, OTHER], [3.0, 1.0], content_weight=0, tv_weight=0)(picture)
    torch.testing.assert_close(mixed, 0.75 * one + 0.25 * other)


@pytest.mark.parametrize("optimizer", ["lbfgs", "adam"])
@pytest.mark.parametrize("init", ["content", "noise", _image(30, 30, 9)])
def test_the_loss_falls_and_the_best_picture_is_returned(optimizer: str, init: str | Tensor) -> None:
    losses: list[float] = []
    picture = _paint([STYLE], optimizer=optimizer, init=init, steps=30, callback=lambda now: losses.append(now.loss))
    assert len(losses) == 30
    assert min(losses) < 0.5 * losses[0]
    assert picture.shape == PHOTO.shape
    assert picture.min() >= 0
    assert picture.max() <= 1
    assert float(_objective([STYLE], [1.0])(picture[None])) == pytest.approx(min(losses), rel=1e-5)


def test_painting_is_a_function_of_its_seed() -> None:
    one, again, other = (_paint([STYLE], init="noise", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_sizes_double_up_to_the_asked_side_and_steps_are_shared_out() -> None:
    photo, seen = _image(300, 600, 0), []
    picture = paint(photo, [STYLE], backbone=TinyBackbone(), max_side=512, steps=7, callback=seen.append)
    assert [now.side for now in seen] == [128, 128, 128, 256, 256, 512, 512]
    assert [now.step for now in seen] == [1, 2, 3, 4, 5, 6, 7]
    assert [now.share for now in seen] == sorted(now.share for now in seen)
    assert seen[-1].share == pytest.approx(1)
    assert picture.shape == (3, 256, 512)
    assert all(now.render().shape == (3, 256, 512) for now in seen[::3])


def test_fewer_steps_than_sizes_paint_at_the_finest() -> None:
    seen: list[Progress] = []
    paint(_image(300, 600, 0), [STYLE], backbone=TinyBackbone(), steps=1, callback=seen.append)
    assert [now.side for now in seen] == [512]


def test_a_photo_is_not_enlarged() -> None:
    assert _paint([STYLE], max_side=1024, steps=2).shape == PHOTO.shape


def test_a_callback_ends_the_painting_with_the_best_so_far() -> None:
    seen: list[Progress] = []

    def stop_at_three(now: Progress) -> bool:
        seen.append(now)
        return now.step == 3

    picture = paint(_image(300, 600, 0), [STYLE], backbone=TinyBackbone(), callback=stop_at_three)
    assert len(seen) == 3
    assert picture.shape == (3, 256, 512)
    assert torch.equal(picture, seen[-1].render())


def test_kept_colours_are_the_photos() -> None:
    plain, kept = _paint([STYLE]), _paint([STYLE], keep_color=True)
    torch.testing.assert_close(kept, preserve_color(plain, PHOTO))


class _BreaksDown(TinyBackbone):
    """Gives NaN from its ``last + 1``-th picture with gradient on."""

    def __init__(self, last: int) -> None:
        super().__init__()
        self.last = last

    def forward(self, image: Tensor, layers: tuple[str, ...] | None = None) -> dict[str, Tensor]:
        features = super().forward(image, layers)
        if image.requires_grad:
            self.last -= 1
            if self.last < 0:
                return {layer: value * math.nan for layer, value in features.items()}
        return features


def test_a_loss_that_turns_nan_ends_with_the_best_so_far(caplog: pytest.LogCaptureFixture) -> None:
    losses: list[float] = []
    with caplog.at_level(logging.WARNING):
        picture = paint(PHOTO, [STYLE], backbone=_BreaksDown(5), callback=lambda now: losses.append(now.loss))
    assert "stopped being finite at step 6" in caplog.text
    assert len(losses) == 5
    assert float(_objective([STYLE], [1.0])(picture[None])) == pytest.approx(min(losses), rel=1e-5)


def test_a_loss_that_is_nan_from_the_start_is_an_error() -> None:
    with pytest.raises(UserError, match="from the first step"):
        paint(PHOTO, [STYLE], backbone=_BreaksDown(0))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"style_images": []}, "no style image"),
        ({"style_images": [torch.zeros(3, 4, 40)]}, "style image of 40×4"),
        ({"content_image": torch.zeros(3, 40, 4)}, "photo of 4×40"),
        ({"steps": 0}, "paint nothing"),
        ({"style_weights": [1.0, 1.0]}, "2 style weights for 1"),
        ({"style_weights": [-1.0]}, "0 or more"),
        ({"style_weights": [0.0]}, "above 0"),
        ({"style_weights": [math.nan]}, "0 or more"),
        ({"guide": torch.ones(2, 48, 40)}, "2 guides for 1"),
        ({"guide": torch.ones(1, 40, 48)}, "48×40 pixels and the photo is 40×48"),
        ({"guide": torch.zeros(1, 48, 40)}, "black all over"),
    ],
)
def test_mistakes_are_told(values: dict[str, object], message: str) -> None:
    asked = {"content_image": PHOTO, "style_images": [STYLE], "backbone": TinyBackbone(), **values}
    with pytest.raises(UserError, match=message):
        paint(asked.pop("content_image"), asked.pop("style_images"), **asked)


def test_the_embedded_backbone_paints() -> None:
    backbone = load_backbone("efficientnet_lite0", gatys.recipe("efficientnet_lite0").layers)
    losses: list[float] = []
    paint(_image(64, 64, 0), [_image(64, 64, 1)], backbone=backbone, steps=20, callback=lambda n: losses.append(n.loss))
    assert min(losses) < 0.7 * losses[0]
