"""A machine without a browser says what to install."""

from __future__ import annotations

from pathlib import Path

import pytest

from tezawari.core.browser import chromium
from tezawari.core.errors import UserError


def test_a_missing_chromium_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("playwright", reason="needs Playwright: pip install playwright")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="no Chromium on this machine: apt-get install chromium"), chromium():
        pass
