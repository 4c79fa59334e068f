"""What the photo bot answers: the classes of a photo, the energy of dishes, and the photo in a random mix of styles."""

from __future__ import annotations

import functools
import re
import tempfile
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tezawari.core.errors import UserError, describe_os_error, did_you_mean
from tezawari.core.files import write_atomically
from tezawari.data.photo import load_rgb
from tezawari.data.sheet import encode_jpeg, square, to_pil
from tezawari.studio.job_work import Bench
from tezawari.studio.jobs import Report
from tezawari.style.mixing import random_mix
from tezawari.style.stylize import Stylizer

MOST_PIXELS = 40_000_000
"""Of a photo that is answered."""

_KCAL_FILE = "kcal.tsv"
_ROW = "a row is CLASS<TAB>KCAL<TAB>GRAMS<TAB>JAPANESE NAME, such as pizza<TAB>530<TAB>200<TAB>ピザ"

_TOP = 5
_SIDE = 1280
_MOST_BYTES = 2_000_000
# Of the network that efficientnet.classifier returns: what it was trained on.
_IMAGENET_SIDE, _IMAGENET_MEAN, _IMAGENET_STD = 224, 0.498, 0.502

# A post holds 500 characters on most servers.
_LONGEST_CLASS, _LONGEST_STYLE, _NAMED_STYLES = 28, 20, 3


@dataclass(frozen=True)
class Dish:
    """A typical portion of a dish: its energy in kcal, its mass in grams, its Japanese name or an empty string."""

    kcal: int
    grams: int
    japanese: str


@dataclass(frozen=True)
class Recogniser:
    """A classifier of photos: the names of its K classes, and their probabilities (K,) of (3, H, W) uint8 RGB."""

    class_names: list[str]
    probabilities: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class SeenClass:
    """A class that a photo may show, its probability, and the dish where it is one that the table has."""

    name: str
    probability: float
    dish: Dish | None


@dataclass(frozen=True)
class BotAnswer:
    """What the bot makes of a photo.

    ``classes``: at most five, the likeliest first; ``mix``: the weight of every style, 1 in all, the largest first;
    ``picture``: the restyled photo as a JPEG of ``width`` × ``height`` pixels without metadata.
    """

    classes: list[SeenClass]
    mix: dict[str, float]
    picture: bytes
    width: int
    height: int


@dataclass(frozen=True)
class PhotoBot:
    """The networks and the table of one bot.

    >>> bot = PhotoBot.load()                                        # doctest: +SKIP
    >>> bot(decode_photo(Path("lunch.jpg").read_bytes()), seed=3)    # doctest: +SKIP
    """

    recogniser: Recogniser
    stylizer: Stylizer
    dishes: Mapping[str, Dish]

    @classmethod
    def load(cls, checkpoint: Path | None = None, classifier: Path | None = None, kcal: Path | None = None) -> PhotoBot:
        """Load a bot.

        Args:
            checkpoint: of the styles; None for the network that comes with the package.
            classifier: a run or file of ``model=material``; None for the embedded ImageNet network.
            kcal: a table in place of the package's; every class in it must be the classifier's.

        Raises:
            UserError: a file that is missing, damaged or of another kind, or a wrong row of the table.
        """
        recogniser = imagenet_recogniser() if classifier is None else material_recogniser(classifier)
        dishes = read_kcal() if kcal is None else read_kcal(kcal, recogniser.class_names)
        return cls(recogniser, Stylizer.load(checkpoint), dishes)

    def __call__(self, image: Tensor, seed: int) -> BotAnswer:
        """Answer a photo.

        Args:
            image: (3, H, W) uint8 RGB.
            seed: of the mix of styles, see :func:`tezawari.style.mixing.random_mix`.

        Raises:
            UserError: a side of less than 16 pixels.
        """
        weights = random_mix(len(self.stylizer.style_names), seed)
        restyled = self.stylizer(image.float() / 255, weights)
        mix = sorted(zip(self.stylizer.style_names, weights.tolist()), key=lambda pair: -pair[1])
        height, width = restyled.shape[-2:]
        picture = encode_jpeg(to_pil(restyled), _MOST_BYTES)
        return BotAnswer(self._classes(image), dict(mix), picture, int(width), int(height))

    def _classes(self, image: Tensor) -> list[SeenClass]:
        with torch.inference_mode():
            probabilities = self.recogniser.probabilities(image)
        values, places = probabilities.topk(min(_TOP, len(probabilities)))
        names = [self.recogniser.class_names[place] for place in places.tolist()]
        return [SeenClass(name, value, self.dishes.get(name)) for name, value in zip(names, values.tolist())]


@functools.cache
def imagenet_recogniser() -> Recogniser:
    """Return the embedded EfficientNet-Lite0 with the thousand classes of ImageNet (names: timm's, the first of each).

    It sees the photo's central square, whole. [ours; as published an eighth is cut off the borders] Raises
    :class:`UserError` where the weights are not installed.
    """
    # Here: it loads for seconds, and a bot with a classifier of its own does without.
    from timm.data import ImageNetInfo

    from tezawari.features.efficientnet import classifier

    network, info = classifier(), ImageNetInfo()

    def probabilities(image: Tensor) -> Tensor:
        view = square(image.float() / 255, _IMAGENET_SIDE)
        return network(((view - _IMAGENET_MEAN) / _IMAGENET_STD)[None])[0].softmax(0)

    names = [info.index_to_description(place).partition(",")[0] for place in range(info.num_classes())]
    return Recogniser(names, probabilities)


def material_recogniser(run: Path) -> Recogniser:
    """Return the classifier of a run of ``model=material``, which sees the whole photo in a square.

    Raises :class:`UserError` where there is none.
    """
    from tezawari.data.labelled_image import letterbox
    from tezawari.recognition.package import load_classifier

    trained = load_classifier(run)

    def probabilities(image: Tensor) -> Tensor:
        view, _, _ = letterbox(image.permute(1, 2, 0).numpy(), trained.image_size)
        return trained.network(view[None])[0].softmax(0)

    return Recogniser(trained.class_names, probabilities)


def read_kcal(path: Path | None = None, class_names: Collection[str] | None = None) -> dict[str, Dish]:
    """Read a table of dishes by class; None reads the package's.

    Lines that are empty or begin with ``#`` are no rows. ``class_names``: what a row may name, None for anything.

    Raises:
        UserError: a file that cannot be read, or the first wrong row, with its number.
    """
    source = path or Path(str(files("tezawari.studio").joinpath(_KCAL_FILE)))
    try:
        lines = source.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"--kcal {source}: not a text file in UTF-8; {_ROW}") from None
    except OSError as error:
        raise UserError(f"--kcal {source}: {error.strerror or describe_os_error(error)}") from error
    dishes: dict[str, Dish] = {}
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith("#"):
            where = f"--kcal {source}, line {number}"
            name, dish = _read_row(line, where)
            if name in dishes:
                raise UserError(f"{where}: {name} has a row already; remove one of the two")
            if class_names is not None and name not in class_names:
                raise UserError(f"{where}: the classifier has no class {name!r}{_near(name, class_names)}")
            dishes[name] = dish
    return dishes


def decode_photo(content: bytes) -> Tensor:
    """Decode a picture that was judged by the guarded decoder, and shrink it to at most 1,280 pixels each way.

    Returns (3, H, W) uint8 RGB, upright. Raises :class:`UserError` where it is damaged or of too many pixels.
    """
    with tempfile.NamedTemporaryFile(prefix="tezawari-") as file:
        file.write(content)
        file.flush()
        try:
            return load_rgb(file.name, max_side=_SIDE, max_pixels=MOST_PIXELS)
        except UserError as error:
            raise UserError(str(error).replace(file.name, "the photo")) from error


def answer_photo(bench: Bench, request: dict[str, Any], folder: Path, report: Report) -> dict[str, Any]:
    """Do a job of the kind ``bot``: the classes of a photo, and the file of it restyled."""
    stored = bench.photo(request["photo"])
    report("answering", 0, 1)
    answer = _bot(bench.settings.checkpoint)(load_rgb(stored.path, max_side=_SIDE), request["seed"])
    picture = folder / "restyled.jpg"
    write_atomically(picture, answer.picture)
    classes = [
        {
            "name": seen.name,
            "probability": seen.probability,
            "kcal": seen.dish and seen.dish.kcal,
            "grams": seen.dish and seen.dish.grams,
        }
        for seen in answer.classes
    ]
    size = {"width": answer.width, "height": answer.height}
    return {"files": [picture.name], "classes": classes, "mix": answer.mix, **size}


def reply_text(answer: BotAnswer, japanese: bool) -> str:
    """Say in at most 450 characters what was seen and which styles were mixed, in Japanese or in English."""
    lines = ["写っていそうなもの：" if japanese else "I think I see:"]
    for place, seen in enumerate(answer.classes, 1):
        line = f"{place}. {_class_name(seen, japanese)} {_percent(seen.probability)}"
        if seen.dish is not None:
            kcal, grams = seen.dish.kcal, seen.dish.grams
            line += f"（{grams} g 約{kcal} kcal）" if japanese else f" (≈{kcal} kcal in {grams} g)"
        lines.append(line)
    if any(seen.dish is not None for seen in answer.classes):
        lines.append("kcal は一皿分の目安です。" if japanese else "kcal: a rough guess for one portion.")
    styles = [(_short(_style_name(name), _LONGEST_STYLE), weight) for name, weight in answer.mix.items()]
    mixed = ", ".join(f"{name} {_percent(weight)}" for name, weight in styles[:_NAMED_STYLES])
    lines.append(f"画風： {mixed}" if japanese else f"Styles: {mixed}")
    return "\n".join(lines)


def alt_text(answer: BotAnswer, japanese: bool) -> str:
    """Describe the restyled picture for those who do not see it."""
    styles = [_style_name(name) for name in list(answer.mix)[:2]]
    shown = _class_name(answer.classes[0], japanese)
    if japanese:
        return f"送られた写真（{shown} らしいもの）を、主に {' と '.join(styles)} の画風に変換した画像。"
    return f"The photo that was sent, perhaps of {shown}, restyled mostly like {' and '.join(styles)}."


class RateLimit:
    """At most ``most`` events of a key within ``seconds``, on the clock that the caller reads.

    ``past``: the times of earlier events by key, as :attr:`past` returned them.
    """

    def __init__(self, most: int, seconds: float, past: Mapping[str, list[float]] | None = None) -> None:
        self._most = most
        self._seconds = seconds
        self.past = {key: list(times) for key, times in (past or {}).items()}

    def wait(self, key: str, now: float) -> float:
        """Return the seconds until an event of ``key`` is allowed, 0 where it is."""
        # A time in the future is of a clock that was set back since, and must not silence anybody for longer.
        times = sorted(min(time, now) for time in self.past.get(key, []))[-self._most :]
        return max(0.0, times[0] + self._seconds - now) if len(times) == self._most else 0.0

    def note(self, key: str, now: float) -> None:
        """Remember an event, and forget what is too long ago to count."""
        kept = {name: [time for time in times if time > now - self._seconds] for name, times in self.past.items()}
        self.past = {name: times for name, times in kept.items() if times}
        self.past.setdefault(key, []).append(now)


@functools.cache
def _bot(checkpoint: Path | None) -> PhotoBot:
    return PhotoBot.load(checkpoint)


def _read_row(line: str, where: str) -> tuple[str, Dish]:
    fields = [field.strip() for field in line.split("\t")]
    if len(fields) not in (3, 4) or not fields[0]:
        raise UserError(f"{where}: {len(fields)} fields, of which the first must not be empty; {_ROW}")
    for name, text in zip(("kcal", "grams"), fields[1:]):
        if not re.fullmatch(r"[1-9][0-9]{0,3}", text):
            raise UserError(f"{where}: {name} {text!r} is not a whole number from 1 to 9999; {_ROW}")
    return fields[0], Dish(int(fields[1]), int(fields[2]), fields[3] if len(fields) == 4 else "")


def _near(name: str, class_names: Collection[str]) -> str:
    # Of a thousand classes, all are no help.
    near = did_you_mean(name, class_names)
    return near if near.startswith(" (did") or len(class_names) <= 20 else ""


def _class_name(seen: SeenClass, japanese: bool) -> str:
    name = _short(seen.name, _LONGEST_CLASS)
    own = _short(seen.dish.japanese, _LONGEST_CLASS) if japanese and seen.dish is not None else ""
    return own or name


def _percent(share: float) -> str:
    return "<1 %" if share < 0.005 else f"{100 * share:.0f} %"


def _style_name(name: str) -> str:
    return name.replace("_", " ")


def _short(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
