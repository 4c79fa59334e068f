"""Pieces of work shared among threads that compute alone."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tezawari.features.parallel import share


@pytest.fixture
def _two_threads() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("_two_threads")
def test_a_worker_computes_alone_and_may_share_what_it_does() -> None:
    seen: list[int] = []
    inner: list[int] = []

    def work(pieces: Iterator[int]) -> None:
        for piece in pieces:
            torch.ones(64, 64) @ torch.ones(64, 64)
            seen.append(torch.get_num_threads())
            share(lambda more, of=piece: inner.extend(10 * of + one for one in more), range(3))  # type: ignore[misc]

    share(work, range(4))
    assert seen == [1, 1, 1, 1]
    assert sorted(inner) == sorted(10 * a + b for a in range(4) for b in range(3))
    assert torch.get_num_threads() == 2


@pytest.mark.usefixtures("_two_threads")
def test_an_error_is_raised_where_the_work_was_shared() -> None:
    def work(pieces: Iterator[int]) -> None:
        for piece in pieces:
            if piece == 2:
                raise ValueError("the third")

    with pytest.raises(ValueError, match="the third"):
        share(work, range(4))


def test_pieces_write_to_tensors_of_the_inference_mode() -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with torch.inference_mode():
            found = torch.empty(4)

            def work(pieces: Iterator[int]) -> None:
                for piece in pieces:
                    torch.add(torch.tensor(1.0), piece, out=found[piece])

            share(work, range(4))
            assert found.tolist() == [1, 2, 3, 4]
    finally:
        torch.set_num_threads(threads)
