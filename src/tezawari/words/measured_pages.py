"""Pages and figures of measured words: the best and the worst with their pictures, and what is taken for what."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from tezawari.collect.found import FoundImage
from tezawari.core.files import write_atomically
from tezawari.core.plots import font_for
from tezawari.core.progress import tell
from tezawari.words.discriminability import Discriminability
from tezawari.words.image_features import Picture
from tezawari.words.lexicon import find, is_known
from tezawari.words.measures import Measures

_SIDE = 112
_BEST, _WORST = 6, 3
_STYLE = """
:root { color-scheme: light dark; font-family: system-ui, sans-serif; line-height: 1.5 }
body { max-width: 75rem; margin: 2rem auto; padding: 0 1rem }
table { border-collapse: collapse } th, td { padding: .35rem .6rem; text-align: right }
td { white-space: nowrap } .wide { overflow-x: auto }
th:first-child, td:first-child, th.word, td.word { text-align: left }
tr { border-bottom: 1px solid color-mix(in srgb, currentColor 18%, transparent) }
h3 { margin: 1.6rem 0 .3rem; font-size: 1.15rem } h3 small, p, figcaption { font-weight: normal; opacity: .75 }
.pictures { display: flex; flex-wrap: wrap; gap: .4rem 1.6rem } .pictures div { display: flex; gap: .4rem }
figure { margin: 0; width: 112px } img { width: 100%; aspect-ratio: 1; border-radius: 4px; display: block }
figcaption { font-size: .75rem; text-align: center }
td.share { background: color-mix(in srgb, #2a78d6 calc(var(--share) * 1%), transparent); text-align: center }
"""


def write_ranking_page(
    path: Path,
    measures: Measures,
    label: str,
    pictures: Mapping[str, Sequence[Picture]],
    found: Mapping[str, Sequence[FoundImage]],
    top: int,
    described: str,
) -> Path:
    """Write one HTML file: all words by average precision, the first and last ``top`` with pictures; return its path.

    Of each of those words the most and the least typical pictures by ``label``, with their scores
    (:class:`~tezawari.words.recognisability.Recognisability`) and a link to where they are from.

    Args:
        path: of the file, whose folder exists.
        measures: of the words.
        label: the feature that ranks them.
        pictures: each word's, in the order measured.
        found: where each came from.
        top: at least 1.
        described: what was measured, in words.
    """
    order = np.argsort(-measures.precisions(label), kind="stable").tolist()
    first = order[:top]
    last = order[max(top, len(order) - top) :]
    recognised = {one.word: one for one in measures.recognised[label]}

    def section(rank: int, place: int) -> str:
        word = measures.words[place]
        one = recognised[word]
        by_score = np.argsort(-one.positive_scores, kind="stable").tolist()
        best, worst = by_score[:_BEST], by_score[max(_BEST, len(by_score) - _WORST) :]
        shown = [
            "<div>"
            + "".join(_figure(pictures[word][n], found[word][n], one.positive_scores[n]) for n in some)
            + "</div>"
            for some in (best, worst)
        ]
        gloss = f" <small>{html.escape(find(word).gloss)}</small>" if is_known(word) else ""
        head = f"{rank}. {html.escape(word)} {100 * one.average_precision:.1f} %{gloss}"
        return f"<h3>{head}</h3><div class='pictures'>{''.join(shown)}</div>"

    rank_of = {place: rank for rank, place in enumerate(order, 1)}
    correlations = "; ".join(
        f"{name} {found_.rho:+.2f} (p {found_.p:.2g})"
        for name in measures.recognised
        if (found_ := measures.correlation(name)).rho is not None
    )
    body = [
        f"<h1>How recognisable words are</h1><p>{html.escape(described)}</p>",
        f"<p>Ranked by {html.escape(label)}. Under each picture: by how many standard deviations it lies above "
        "the random images; the most typical ones, then the least typical.</p>",
        "<h2>First</h2>",
        *(section(rank_of[place], place) for place in first),
        *(["<h2>Last</h2>", *(section(rank_of[place], place) for place in last)] if last else []),
        "<h2>All words</h2>",
        _html_table(*ranking_rows(measures, label)),
        f"<p>Rank correlation (Spearman) of entropy with average precision: {html.escape(correlations)}</p>"
        if correlations
        else "",
    ]
    return _write_page(path, "How recognisable words are", body)


def ranking_rows(measures: Measures, label: str) -> tuple[list[str], list[list[str]]]:
    """Return the head and the rows of the ranking by ``label``, the random sets' means last; all in words."""
    labels = [name for name in measures.recognised if name != label]
    head = ["", "word", label, "95 %", *labels, "entropy, bits", "95 % "]
    rows = []
    for rank, place in enumerate(np.argsort(-measures.precisions(label), kind="stable").tolist(), 1):
        entropy = measures.entropies[place]
        low, high = measures.recognised[label][place].interval
        rows.append(
            [
                str(rank),
                entropy.word,
                f"{100 * measures.precisions(label)[place]:.1f}",
                f"{100 * low:.1f} – {100 * high:.1f}",
                *(f"{100 * measures.precisions(name)[place]:.1f}" for name in labels),
                f"{entropy.entropy:.2f}",
                f"{entropy.interval[0]:.2f} – {entropy.interval[1]:.2f}",
            ]
        )
    own, *chances = [f"{100 * measures.control_precisions(name).mean():.1f}" for name in [label, *labels]]
    controls = np.mean([one.entropy for one in measures.control_entropies])
    rows.append(
        ["", f"random sets (chance {100 * measures.control_chance:.1f})", own, "", *chances, f"{controls:.2f}", ""]
    )
    return head, rows


def write_confusion_page(
    path: Path,
    found: Discriminability,
    pictures: Mapping[str, Sequence[Picture]],
    sources: Mapping[str, Sequence[FoundImage]],
    described: str,
) -> Path:
    """Write one HTML file: the confusion matrix in per cent of its rows, and each word's first pictures."""
    shares = 100 * found.confusion / found.confusion.sum(axis=1, keepdims=True)
    head = "".join(f"<th>{html.escape(word)}</th>" for word in found.words)
    rows = [
        f"<tr><td>{html.escape(word)}</td>"
        + "".join(f"<td class='share' style='--share: {share:.0f}'>{share:.1f}</td>" for share in of_word)
        + "</tr>"
        for word, of_word in zip(found.words, shares)
    ]
    body = [
        f"<h1>How well words are told from each other</h1><p>{html.escape(described)}</p>",
        f"<p>Accuracy {accuracy_text(found)}. Rows: the word that images were collected for; columns: the word that "
        "they are taken for; per cent of the row.</p>",
        f"<div class='wide'><table><tr><th></th>{head}</tr>{''.join(rows)}</table></div>",
    ]
    for word in found.words:
        shown = "".join(_figure(picture, source) for picture, source in zip(pictures[word][:8], sources[word]))
        body.append(f"<h3>{html.escape(word)}</h3><div class='pictures'><div>{shown}</div></div>")
    return _write_page(path, "How well words are told from each other", body)


def accuracy_text(found: Discriminability) -> str:
    """Return the accuracy with its interval and what guessing has, in per cent."""
    low, high = found.interval
    return (
        f"{100 * found.accuracy:.1f} % (95 %: {100 * low:.1f} – {100 * high:.1f}; "
        f"guessing {100 / len(found.words):.1f})"
    )


def draw_confusion(found: Discriminability, path: Path) -> Path:
    """Draw the confusion matrix in per cent of its rows as PNG and return its path.

    Where no installed font has the words' letters, which is told, words of the lexicon are named in romaji and others
    by their number.
    """
    from matplotlib.figure import Figure

    shares = 100 * found.confusion / found.confusion.sum(axis=1, keepdims=True)
    names, font = list(found.words), font_for("".join(found.words))
    if font is None:
        names = [find(word).romaji if is_known(word) else f"word {n}" for n, word in enumerate(found.words, 1)]
        told = ", ".join(f"{name}: {word}" for name, word in zip(names, found.words))
        tell(f"no installed font has the letters of the words: the figure says {told}")
    side = 2.2 + 0.62 * len(names)
    figure = Figure(figsize=(side + 1.0, side), layout="constrained")
    axes = figure.subplots()
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=100)
    for row, of_word in enumerate(shares):
        for column, share in enumerate(of_word):
            axes.text(column, row, f"{share:.0f}", ha="center", va="center", color="w" if share > 55 else "k")
    places = range(len(names))
    axes.set_xticks(places, names, rotation=45, ha="right", fontproperties=font)
    axes.set_yticks(places, names, fontproperties=font)
    low, high = (100 * bound for bound in found.interval)
    axes.set(xlabel="taken for, %", ylabel="collected for")
    axes.set_title(f"accuracy {100 * found.accuracy:.1f} % ({low:.1f} – {high:.1f})", fontsize=10)
    figure.savefig(path, dpi=120)
    return path


def _figure(picture: Picture, found: FoundImage, score: float | None = None) -> str:
    stream = io.BytesIO()
    Image.fromarray(picture.load()).resize((_SIDE, _SIDE), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=82)
    data = base64.b64encode(stream.getvalue()).decode()
    said = html.escape("; ".join(part for part in (found.title, found.author, found.licence) if part), quote=True)
    image = f'<img src="data:image/jpeg;base64,{data}" alt="" title="{said}">'
    # Sources say what they like; a link of another scheme could be a program.
    if found.page_url.startswith(("https://", "http://")):
        image = f'<a href="{html.escape(found.page_url, quote=True)}" rel="noreferrer">{image}</a>'
    caption = "" if score is None else f"<figcaption>{score:+.1f}</figcaption>"
    return f"<figure>{image}{caption}</figure>"


def _html_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    def line(cells: Sequence[str], kind: str) -> str:
        classes = ("", " class='word'")
        return (
            "<tr>"
            + "".join(f"<{kind}{classes[n == 1]}>{html.escape(c)}</{kind}>" for n, c in enumerate(cells))
            + "</tr>"
        )

    return f"<div class='wide'><table>{line(head, 'th')}{''.join(line(row, 'td') for row in rows)}</table></div>"


def _write_page(path: Path, title: str, body: Sequence[str]) -> Path:
    page = [
        f"<!doctype html><html><head><meta charset='utf-8'><title>{title}</title>",
        "<meta name='viewport' content='width=device-width'>",
        f"<style>{_STYLE}</style></head><body>",
        *body,
        "</body></html>\n",
    ]
    write_atomically(path, "\n".join(page).encode())
    return path
