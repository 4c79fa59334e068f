"""Measuring words as the studio does it: how recognisable and how visual they are, and which is taken for which."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from tezawari.collect.store import StoredImage, open_store
from tezawari.core.errors import UserError
from tezawari.core.files import write_atomically
from tezawari.core.progress import Progress
from tezawari.features.backbone import load_backbone
from tezawari.features.descriptors import DescriptorCache, early_middle_late
from tezawari.studio.collecting import negatives
from tezawari.studio.job_work import BACKBONES, MEASURED, Bench
from tezawari.studio.jobs import Report
from tezawari.words.discriminability import Discriminability, discriminability
from tezawari.words.image_features import Picture, region_features
from tezawari.words.lexicon import find, is_known
from tezawari.words.measure_command import of_one_word, square_picture, stored_pictures
from tezawari.words.measures import chance, random_sets, require_random
from tezawari.words.recognisability import Recognisability, recognisability
from tezawari.words.region_entropy import RegionEntropy, fit_region_model, region_entropy

# As `tezawari measure` does it, whose features are found here too.
_CACHE = "features"
_FOLDS, _SEEDS, _RANDOM_SETS = 5, range(3), 3
# Of the random images; of more the generic mixture grows slow and no better.
_MIXTURE_IMAGES = 1_000
# Random images whose regions are described, and kept, together.
_AT_ONCE = 200
_TOP = 8


def measure_words(bench: Bench, request: dict[str, Any], folder: Path, report: Report) -> dict[str, Any]:
    """Measure words by as many of the best images of each; features that another run has computed are taken up.

    Recognisability by the last layer of the studio's network and the entropy of regions, each beside that of sets of
    random images; and, of two words or more, how well they are told from each other by images that no two of them
    share. What is found is kept in the studio's folder, in place of what was measured before.

    Raises:
        UserError: no word has as many images, or there are too few random ones.
    """
    report("choosing", 0, len(request["words"]))
    best, left_out, counts = _choose(bench, request["words"], request["images"])
    against = negatives(bench.settings.negatives)
    own = {sha256 for of_word in best.values() for image in of_word for sha256 in (image.sha256, *image.duplicates)}
    random = [square_picture(sha256, load) for sha256, load in against.images.items() if sha256 not in own]
    require_random(request["images"], len(random), _FOLDS)
    cache, pictures = bench.settings.store / _CACHE, stored_pictures(best)
    layer = early_middle_late(BACKBONES[0])[-1]
    rows, random_rows = _describe(pictures, random, layer, cache, report)
    regions, random_regions = _describe_regions(pictures, random, cache, report)

    progress = partial(report, "recognising")
    recognised = recognisability(rows, random_rows, _FOLDS, _SEEDS, progress=progress)
    entropies, random_entropy = _entropies(regions, random_regions, report)
    precision = [
        recognisability({"random": mine}, others, _FOLDS, _SEEDS[:1])[0].average_precision
        for mine, others in random_sets(random_rows, request["images"], _RANDOM_SETS, _SEEDS[0])
    ]
    confused, shared = _tell_apart(best, rows, report)
    measured = {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "features": f"{BACKBONES[0]}/{layer}",
        "images": request["images"],
        "random": len(random),
        "crops": bench.settings.negatives is None,
        "chance": chance(round(request["images"] / _FOLDS), round(len(random) / _FOLDS)),
        "random_precision": float(np.mean(precision)),
        "random_entropy": random_entropy,
        "words": [
            _word_view(one, entropy, best[one.word], counts[one.word]) for one, entropy in zip(recognised, entropies)
        ],
        "left_out": left_out,
        "confusion": None if confused is None else _confusion_view(confused),
        "shared": shared,
    }
    write_atomically(bench.database.folder / MEASURED, json.dumps(measured, ensure_ascii=False).encode())
    return {"files": [], "words": len(best)}


def _choose(
    bench: Bench, words: Sequence[str], count: int
) -> tuple[dict[str, list[StoredImage]], list[dict[str, Any]], dict[str, int]]:
    """Return the best images of the words that have so many, the other words, and how many images each has."""
    with closing(open_store(bench.settings.store, create=False)) as store:
        for word in words:
            bench.judgements.mirror(store, word)
        images = {word: store.best_images(word) for word in words}
    counts = {word: len(of_word) for word, of_word in images.items()}
    best = {word: of_word[:count] for word, of_word in images.items() if len(of_word) >= count}
    if not best:
        raise UserError(f"no word has {count} images: collect more, or measure fewer images of a word")
    return best, [{"word": word, "images": had} for word, had in counts.items() if had < count], counts


def _describe(
    pictures: Mapping[str, Sequence[Picture]], random: Sequence[Picture], layer: str, cache: Path, report: Report
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return the descriptors (P, D) of each word's pictures and of the random ones."""
    descriptors = DescriptorCache(cache, load_backbone(BACKBONES[0], [layer]))

    def describe(some: Sequence[Picture], progress: Progress) -> np.ndarray:
        return descriptors.describe({one.key: one.load for one in some}, [layer], progress=progress)[layer]

    of_random = describe(random, partial(report, "describing_random"))
    rows = {}
    for number, (word, of_word) in enumerate(pictures.items()):
        # Told again with every few images: it is then that a job notices that it is cancelled.
        rows[word] = describe(of_word, lambda *_, number=number: report("describing", number, len(pictures)))
    return rows, of_random


def _describe_regions(
    pictures: Mapping[str, Sequence[Picture]], random: Sequence[Picture], cache: Path, report: Report
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Return colour and texture of the regions (P, 25, 18) of each word's pictures and of the random ones."""
    parts = []
    for first in range(0, len(random), _AT_ONCE):
        report("regions_random", first, len(random))
        parts.append(region_features({}, random[first : first + _AT_ONCE], cache).random)
    regions = {}
    for number, (word, of_word) in enumerate(pictures.items()):
        report("regions", number, len(pictures))
        regions[word] = region_features({}, of_word, cache).random
    return regions, np.concatenate(parts)


def _entropies(
    regions: Mapping[str, np.ndarray], random: np.ndarray, report: Report
) -> tuple[list[RegionEntropy], float]:
    """Return the words' entropies, and the mean of those of random sets."""
    report("entropy", 0, len(regions))
    model = fit_region_model(list(random[:_MIXTURE_IMAGES]), seed=_SEEDS[0])
    images = len(next(iter(regions.values())))
    of_words = {word: list(of_word) for word, of_word in regions.items()}
    progress = partial(report, "entropy")
    found = region_entropy(of_words, list(random), model, folds=_FOLDS, seeds=_SEEDS, progress=progress)
    of_random = [
        region_entropy({"random": list(mine)}, list(rest), model, folds=_FOLDS, seeds=_SEEDS[:1])[0].entropy
        for mine, rest in random_sets(random, images, _RANDOM_SETS, _SEEDS[0])
    ]
    return found, float(np.mean(of_random))


def _tell_apart(
    best: Mapping[str, Sequence[StoredImage]], rows: Mapping[str, np.ndarray], report: Report
) -> tuple[Discriminability | None, int]:
    """Tell words from each other, without the images that two of them share; return how many those are, too.

    None where fewer than two words have images enough of their own.
    """
    alone = {word: {image.sha256 for image in of_word} for word, of_word in of_one_word(best).items()}
    own = {word: rows[word][[image.sha256 in alone[word] for image in best[word]]] for word in best}
    shared = sum(map(len, best.values())) - sum(map(len, own.values()))
    enough = {word: of_word for word, of_word in own.items() if len(of_word) >= _FOLDS}
    if len(enough) < 2:
        return None, shared
    return discriminability(enough, _FOLDS, _SEEDS, progress=partial(report, "comparing")), shared


def _word_view(
    one: Recognisability, entropy: RegionEntropy, images: Sequence[StoredImage], count: int
) -> dict[str, Any]:
    typical = np.argsort(-one.positive_scores, kind="stable")[:_TOP].tolist()
    return {
        "word": one.word,
        "gloss": find(one.word).gloss if is_known(one.word) else "",
        "images": count,
        "precision": _with_interval(one.average_precision, one.interval),
        "entropy": _with_interval(entropy.entropy, entropy.interval),
        "top": [images[place].sha256 for place in typical],
    }


def _confusion_view(found: Discriminability) -> dict[str, Any]:
    shares = found.confusion / found.confusion.sum(axis=1, keepdims=True)
    return {
        "words": list(found.words),
        "shares": shares.round(4).tolist(),
        "accuracy": _with_interval(found.accuracy, found.interval),
    }


def _with_interval(value: float, interval: tuple[float, float]) -> list[float]:
    return [round(number, 4) for number in (value, *interval)]
