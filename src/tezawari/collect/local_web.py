"""A web on this machine for benchmarks: pictures of a wanted size in bytes, and a process that serves them.

``python -m tezawari.collect.local_web FOLDER`` serves the files of FOLDER and prints its port; :func:`serving` is the
caller's side of it.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tezawari.core.errors import UserError
from tezawari.core.package_photos import PHOTOS, package_photo

_SIZE = (800, 600)
# What makes near duplicates of no two pictures that were cut from one photograph: coarse colours over all of it.
_COARSE, _COARSE_SHARE = (8, 6), 0.45
_GRAIN = 6.0
_LOWEST_QUALITY, _HIGHEST_QUALITY = 20, 95
# Of the wanted number of bytes; no search for the quality goes on below it.
_NEAR_ENOUGH = 0.1

Progress = Callable[[int, int], None]


def make_pictures(folder: Path, count: int, kilobytes: float, seed: int, progress: Progress | None = None) -> list[str]:
    """Write ``count`` JPEGs of 800 × 600 pixels and about ``kilobytes`` (10³ bytes) each; return their names. [ours]

    Each is a part of a photograph that installed packages carry, mirrored or not, under coarse random colours and
    grain, in the JPEG quality of 20 to 95 that comes nearest to the size. The same numbers give the same files with
    the same Pillow.
    """
    photos = [_photo(name) for name in PHOTOS]
    # What a photograph's last part took is near what its next one takes.
    qualities = [(_LOWEST_QUALITY + _HIGHEST_QUALITY) // 2] * len(photos)
    names = []
    for number in range(count):
        which = number % len(photos)
        picture = _picture(photos[which], np.random.default_rng([seed, number]))
        content, qualities[which] = _encoded(picture, 1000 * kilobytes, qualities[which])
        names.append(f"{number:05}.jpg")
        (folder / names[-1]).write_bytes(content)
        if progress is not None:
            progress(number + 1, count)
    return names


def _photo(name: str) -> Image.Image:
    with Image.open(package_photo(name)) as photo:
        return photo.convert("RGB")


def _picture(photo: Image.Image, rng: np.random.Generator) -> Image.Image:
    side = rng.uniform(0.5, 0.9)
    width, height = side * photo.width, side * photo.height
    left, top = rng.uniform(0, photo.width - width), rng.uniform(0, photo.height - height)
    part = photo.resize(_SIZE, Image.Resampling.BICUBIC, (left, top, left + width, top + height))
    if rng.random() < 0.5:
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    coarse = Image.fromarray(rng.integers(0, 256, (*_COARSE[::-1], 3), np.uint8)).resize(_SIZE)
    pixels = np.asarray(Image.blend(part, coarse, _COARSE_SHARE), np.float32)
    grain = _GRAIN * rng.standard_normal((*_SIZE[::-1], 1), np.float32)
    return Image.fromarray((pixels + grain).clip(0, 255).astype(np.uint8))


def _encoded(picture: Image.Image, wanted: float, quality: int) -> tuple[bytes, int]:
    """Return a JPEG near the wanted size and its quality, of which the first one tried is given."""
    low, high = _LOWEST_QUALITY, _HIGHEST_QUALITY
    while True:
        stream = io.BytesIO()
        picture.save(stream, "JPEG", quality=quality)
        size = stream.tell()
        if low >= high or abs(size - wanted) < _NEAR_ENOUGH * wanted:
            return stream.getvalue(), quality
        low, high = (quality + 1, high) if size < wanted else (low, quality - 1)
        quality = max(_LOWEST_QUALITY, (low + high) // 2)


@dataclass(frozen=True)
class Served:
    """What a server answered since it was last asked.

    ``seconds`` from the first picture asked for to the last one answered, ``cpu_seconds`` of the server's own in all
    that time, ``pictures`` and ``connections`` counted.
    """

    seconds: float
    cpu_seconds: float
    pictures: int
    connections: int


class Server:
    """A process that serves files over HTTP/1.1 on 127.0.0.1, as :func:`serving` starts it."""

    def __init__(self, port: int) -> None:
        self.port = port

    def urls(self, names: Sequence[str]) -> list[str]:
        """Return the addresses of files."""
        return [f"http://127.0.0.1:{self.port}/{name}" for name in names]

    def served(self) -> Served:
        """Return what was answered since this was last called."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port)
        with contextlib.closing(connection):
            connection.request("GET", _CLOCK_PATH)
            return Served(**json.loads(connection.getresponse().read()))


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Server]:
    """Serve the files of ``folder`` from a process of its own; ends it afterwards.

    Raises :class:`UserError` where it does not start.
    """
    command = [sys.executable, "-m", "tezawari.collect.local_web", str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            said = process.stdout.readline()
            if not said.strip().isdecimal():
                raise UserError("the server of the benchmark did not start: its error is above")
            yield Server(int(said))
        finally:
            process.kill()


# --- the server's process ---------------------------------------------------------------------------------------------

_CLOCK_PATH = "/clock"


class _Clock:
    """When pictures were asked for and answered."""

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        self.first = self.last = 0.0
        self.cpu = time.process_time()
        self.pictures = self.connections = 0

    def report(self) -> bytes:
        cpu = time.process_time() - self.cpu
        return json.dumps(Served(self.last - self.first, cpu, self.pictures, self.connections).__dict__).encode()


class _Answers(asyncio.Protocol):
    def __init__(self, folder: Path, clock: _Clock) -> None:
        self._folder, self._clock = folder, clock
        self._asked = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._clock.connections += 1

    def data_received(self, data: bytes) -> None:
        self._asked += data
        while b"\r\n\r\n" in self._asked:
            head, self._asked = self._asked.split(b"\r\n\r\n", 1)
            self._answer(head.decode("latin-1"))

    def _answer(self, head: str) -> None:
        assert self._transport is not None
        path = head.split(" ", 2)[1]
        asked_at = time.monotonic()
        if path == _CLOCK_PATH:
            body, status, kind = self._clock.report(), "200 OK", "application/json"
            self._clock.begin()
        elif (file := self._folder / path.lstrip("/")).parent == self._folder and file.is_file():
            body, status, kind = file.read_bytes(), "200 OK", "image/jpeg"
        else:
            body, status, kind = b"", "404 Not Found", "text/plain"
        self._transport.write(
            f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body
        )
        if "\r\nconnection: close" in head.lower():
            self._transport.close()
        if kind == "image/jpeg":
            self._clock.first = self._clock.first or asked_at
            self._clock.last = time.monotonic()
            self._clock.pictures += 1


async def _serve(folder: Path) -> None:
    clock = _Clock()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Answers(folder, clock), "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    # The caller's end of the pipe closes with its process, however that ends.
    await loop.run_in_executor(None, sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
