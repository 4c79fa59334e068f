"""Recognisability and region entropy of words beside each other, and beside random images measured like a word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import spearmanr

from tezawari.core.errors import UserError
from tezawari.core.progress import progress_lines, tell
from tezawari.words.image_features import Features
from tezawari.words.recognisability import Recognisability, recognisability
from tezawari.words.region_entropy import RegionEntropy, fit_region_model, region_entropy

# Of the random images, all whose regions the generic mixture is fitted to: it grows no better, and slow, by more.
_MIXTURE_IMAGES = 1_000


@dataclass(frozen=True)
class Correlation:
    """Spearman's rank correlation of entropy and average precision over words, None where a side is constant."""

    rho: float | None
    p: float | None


@dataclass(frozen=True)
class Measures:
    """What was measured of words and of random sets, each by each feature.

    ``recognised`` and ``controls`` are feature → words, or random sets; ``entropies`` and ``control_entropies`` have
    the same order. All of ``images`` images each, against ``random`` ones, in ``folds`` folds.
    """

    recognised: dict[str, list[Recognisability]]
    controls: dict[str, list[Recognisability]]
    entropies: list[RegionEntropy]
    control_entropies: list[RegionEntropy]
    images: int
    random: int
    folds: int

    @property
    def words(self) -> list[str]:
        """The words in their order."""
        return [one.word for one in self.entropies]

    def precisions(self, label: str) -> np.ndarray:
        """Return each word's average precision by a feature, (W,)."""
        return np.array([one.average_precision for one in self.recognised[label]])

    def control_precisions(self, label: str) -> np.ndarray:
        """Return each random set's average precision by a feature, (C,)."""
        return np.array([one.average_precision for one in self.controls[label]])

    @property
    def chance(self) -> float:
        """The average precision that a random order of a word's images and the random ones has in a fold."""
        return chance(round(self.images / self.folds), round(self.random / self.folds))

    @property
    def control_chance(self) -> float:
        """The same of a random set, which has so many fewer images against it."""
        return chance(round(self.images / self.folds), round((self.random - self.images) / self.folds))

    def correlation(self, label: str) -> Correlation:
        """Return how the words' entropies go with their average precisions by a feature."""
        precisions = self.precisions(label)
        entropies = np.array([one.entropy for one in self.entropies])
        if len(precisions) < 3 or np.ptp(precisions) == 0 or np.ptp(entropies) == 0:
            return Correlation(None, None)
        found = spearmanr(entropies, precisions)
        return Correlation(float(found.statistic), float(found.pvalue))


def measure(
    features: Mapping[str, Features],
    regions: Features,
    folds: int = 5,
    seeds: Sequence[int] = (0,),
    controls: int = 5,
    entropy_components: int = 250,
) -> Measures:
    """Measure words by each of several features and by the entropy of their regions; ``controls`` random sets too.

    A random set is as many random images as a word has, measured against the others: its average precision must be
    near :func:`chance`, and its entropy above that of a visual word.

    Args:
        features: name → features (P, D) of each word, equally many, and of random images.
        regions: the same images' regions (P, R, F).
        folds: at least 2, of cross-validation and of the entropy's interval.
        seeds: each divides the images anew; controls have the first only.
        controls: how many random sets.
        entropy_components: of the generic mixture.

    Raises:
        UserError: fewer images than folds, or fewer random ones than twice a word's, or regions than components.
    """
    images, random = len(next(iter(regions.words.values()))), len(regions.random)
    require_random(images, random, folds)
    recognised, control = {}, {}
    for label, one in features.items():
        progress = progress_lines(f"recognising by {label}", "words")
        recognised[label] = recognisability(one.words, one.random, folds, seeds, progress=progress)
        control[label] = [
            recognisability({f"random set {number + 1}": mine}, others, folds, seeds[:1])[0]
            for number, (mine, others) in enumerate(random_sets(one.random, images, controls, seeds[0]))
        ]
    tell("region entropy: fitting the generic mixture")
    model = fit_region_model(list(regions.random[:_MIXTURE_IMAGES]), entropy_components, seed=seeds[0])
    entropies = region_entropy(
        {word: list(of_word) for word, of_word in regions.words.items()},
        list(regions.random),
        model,
        folds=folds,
        seeds=seeds,
        progress=progress_lines("region entropy", "words"),
    )
    control_entropies = [
        region_entropy({f"random set {number + 1}": list(mine)}, list(others), model, folds=folds, seeds=seeds[:1])[0]
        for number, (mine, others) in enumerate(random_sets(regions.random, images, controls, seeds[0]))
    ]
    return Measures(recognised, control, entropies, control_entropies, images, random, folds)


def require_random(images: int, random: int, folds: int) -> None:
    """Raise :class:`UserError` where there are fewer random images than twice a word's."""
    if random < images + max(images, folds):
        raise UserError(
            f"{random} random images, but at least twice the {images} of a word are needed: add some, or measure fewer "
            "images of a word"
        )


def chance(positives: int, negatives: int) -> float:
    """Return the expected average precision of a random order of ``positives`` among ``negatives``. [derived]

    With 10 and 1,000, the talk's fold, it is 0.016: above the share of positives, for what comes first counts most.
    """
    total = positives + negatives
    if total == 1:
        return 1.0
    harmonic = float((1 / np.arange(1, total + 1)).sum())
    return (harmonic + (positives - 1) / (total - 1) * (total - harmonic)) / total


def random_sets(random: np.ndarray, size: int, count: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return ``count`` draws of ``size`` rows of ``random`` (R, …), each with the rows that were not drawn."""
    draws = [np.random.default_rng([seed, number]).permutation(len(random)) for number in range(count)]
    return [(random[order[:size]], random[order[size:]]) for order in draws]


def word_rows(measures: Measures) -> list[dict[str, str]]:
    """Return a row for each word and random set, and each measure: its value and the bounds of its interval."""
    rows: list[dict[str, str]] = []

    def add(word: str, method: str, metric: str, value: float, interval: tuple[float, float]) -> None:
        low, high = (f"{bound:.6g}" for bound in interval)
        named = {"word": word, "method": method, "metric": metric}
        rows.append({**named, "value": f"{value:.6g}", "low": low, "high": high})

    for label in measures.recognised:
        for one in [*measures.recognised[label], *measures.controls[label]]:
            add(one.word, label, "ap", one.average_precision, one.interval)
    for entropy in [*measures.entropies, *measures.control_entropies]:
        add(entropy.word, "region entropy", "bits", entropy.entropy, entropy.interval)
    return rows
