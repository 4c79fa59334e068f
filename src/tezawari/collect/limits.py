"""What a download may cost, and the exception by which any part of it says no."""

from __future__ import annotations

from dataclasses import dataclass, fields

from tezawari.collect.found import Reason, Refused
from tezawari.core.errors import UserError

# Pillow refuses to open more than this many pixels, whatever it is told.
_MOST_PIXELS = 178_956_970


@dataclass(frozen=True)
class Limits:
    """What one image may cost before it is refused; the defaults suit photographs found by a search. [ours]

    Raises:
        UserError: a limit that is not above 0 (redirects and waits may be 0), or more pixels than Pillow opens.
    """

    max_bytes: int = 20_000_000
    """Of the body, after a Content-Encoding is undone."""
    max_pixels: int = 50_000_000
    min_side: int = 32
    """Pixels of the shorter side: smaller ones are icons and placeholders."""
    max_frames: int = 1_000
    """Of an animation, of which only the first is decoded."""
    max_metadata_bytes: int = 4_000_000
    """EXIF, ICC profile, XMP, comments and the like, together."""
    max_redirects: int = 5
    connect_seconds: float = 10.0
    """For the look-up of the name, and again for the connection with its TLS handshake."""
    read_seconds: float = 15.0
    """The longest silence of a server."""
    total_seconds: float = 60.0
    """For one image: robots.txt, redirects and waits included, but not those for its turn under a Crawl-delay."""
    max_wait_seconds: float = 20.0
    """The longest Retry-After that is waited for."""
    max_crawl_delay_seconds: float = 10.0
    """The longest Crawl-delay of a robots.txt that is kept to; a site that asks for more is not asked at all."""
    per_host: int = 4
    """Simultaneous requests to one host; of one with a Crawl-delay, one image at a time."""
    allow_private: bool = False
    """Whether addresses that are not public (this machine, the local network) may be asked."""
    allow_files: bool = False
    """Whether an image may be a path on this machine: for a folder, never for what the network names."""

    def __post_init__(self) -> None:
        may_be_zero = ("max_redirects", "max_wait_seconds", "max_crawl_delay_seconds", "allow_private", "allow_files")
        for field in fields(self):
            value = getattr(self, field.name)
            if not (value > 0 or (value == 0 and field.name in may_be_zero)):
                raise UserError(f"{field.name}={value}: must be above 0")
        if self.max_pixels > _MOST_PIXELS:
            raise UserError(f"max_pixels={self.max_pixels}: more than the {_MOST_PIXELS} that Pillow opens")


class Refusal(Exception):
    """An image that is not taken; :attr:`refused` is what :func:`tezawari.collect.download.fetch` returns for it."""

    def __init__(self, reason: Reason, detail: str) -> None:
        super().__init__(detail)
        self.refused = Refused(reason, detail)


def quoted(text: object) -> str:
    """Return what a server said, harmless to a terminal and at most about eighty characters long."""
    line = ascii(text) if isinstance(text, bytes) else repr(str(text))
    return line if len(line) <= 80 else f"{line[:77]}..."
