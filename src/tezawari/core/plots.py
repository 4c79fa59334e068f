"""What figures need: the library that draws them, and a font that has their letters."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from tezawari.core.errors import UserError

if TYPE_CHECKING:
    from matplotlib.font_manager import FontProperties


def require_matplotlib() -> None:
    """Raise :class:`UserError` where matplotlib, which draws the figures, is not installed."""
    if find_spec("matplotlib") is None:
        raise UserError("matplotlib is not installed: pip install 'tezawari[sweep]'")


def font_for(text: str) -> FontProperties | None:
    """Return the first installed font that has every letter of ``text``; None where none has."""
    from matplotlib.font_manager import FontProperties, fontManager, get_font

    needed = {ord(letter) for letter in text if not letter.isspace()}
    for entry in fontManager.ttflist:
        # The last resort has a box for every letter.
        is_last = "lastresort" in entry.name.lower().replace(" ", "")
        if not is_last and needed <= get_font(entry.fname).get_charmap().keys():
            return FontProperties(fname=entry.fname)
    return None
