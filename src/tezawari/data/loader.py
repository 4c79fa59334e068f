"""A loader whose order is a function of (seed, position), and which therefore resumes exactly in mid-epoch.

The samples of a run are one endless stream. Its position ``g`` belongs to pass ``g // size`` over the dataset, and a
pass visits every item once, in the order ``epoch_order(seed, pass, size)``. An epoch is a stretch of ``epoch_size``
positions of that stream, whatever the size of the dataset: short epochs still visit every photo equally often, and
long ones contain several passes. The pair (pass, item) names a sample and occurs only once in a run, so it seeds
everything random about the sample.
"""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Iterator, Sized
from typing import Any, NamedTuple, Protocol, cast

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed
from torch.utils.data import DataLoader

from tezawari.core.errors import UserError
from tezawari.core.seeding import epoch_order


class SampleKey(NamedTuple):
    """The name of one sample of a run: item ``index`` of the dataset on pass ``epoch`` over the whole of it."""

    epoch: int
    index: int  # type: ignore[assignment]


class KeyedDataset(Sized, Protocol):
    """A dataset of ``len()`` items whose random draws are a function of its seed and a :class:`SampleKey`."""

    def __getitem__(self, key: SampleKey) -> Any: ...


class ResumableLoader:
    """Batches of a keyed dataset, in an order that depends on nothing but the seed and the position.

    ``epoch_size`` is the number of samples of an epoch over all processes (default: the dataset's size), rounded down
    to whole batches; it may exceed the dataset's size or be below it. Every iterator yields ``len(self)`` batches from
    where the stream stands: an epoch, or, after a break or :meth:`load_state_dict` within one, what is left of it and
    the beginning of the next, so that a caller who counts (a trainer with ``limit_train_batches``) never runs short.
    No batch before that place is decoded, the global random generators are never drawn from, and any number of workers
    gives the same batches. Under ``torch.distributed`` each process takes its share of every global batch.

    Raises :class:`UserError` where an epoch would hold no whole batch.
    """

    def __init__(
        self,
        dataset: KeyedDataset,
        batch_size: int,
        seed: int,
        num_workers: int = 0,
        epoch_size: int | None = None,
        shuffle: bool = True,
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch_size
        self.seed = seed
        self.num_workers = num_workers
        self.epoch_size = len(dataset) if epoch_size is None else epoch_size
        self.shuffle = shuffle
        self._batches = 0
        self._ordered = -1
        self._permutation = np.empty(0, np.int64)
        if len(dataset) == 0 or len(self) == 0:
            _, processes = _rank_and_processes()
            raise UserError(
                f"an epoch of {self.epoch_size} samples out of {len(dataset)} holds no whole batch of "
                f"{batch_size * processes}: set data.epoch_size to at least {batch_size * processes}, "
                "or lower data.batch_size"
            )

    def __len__(self) -> int:
        """Return the number of batches that one process gets in a whole epoch."""
        _, processes = _rank_and_processes()
        return self.epoch_size // (self.batch_size * processes)

    def __iter__(self) -> Iterator[Any]:
        first, length = self._batches, len(self)
        batches = iter(self._torch_loader([self._keys(number) for number in range(first, first + length)]))
        for number in range(first, first + length - 1):
            batch = next(batches)
            self._batches = number + 1
            yield batch
        last = next(batches)
        # Lightning drops its iterator after the last batch of an epoch without exhausting it: a checkpoint written
        # then must already name the next epoch, and the workers must be gone.
        del batches
        self._batches = first + length
        yield last

    def state_dict(self) -> dict[str, int]:
        """Return the running epoch and the number of its batches that were yielded."""
        epoch, batch = divmod(self._batches, len(self))
        return {"epoch": epoch, "batch": batch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Go to the place that :meth:`state_dict` named.

        Raises :class:`UserError` where the epoch has no such batch, which is to say that the settings have changed.
        """
        if not 0 <= state["batch"] < len(self):
            raise UserError(
                f"the checkpoint stopped after batch {state['batch']} of an epoch, and an epoch now has {len(self)}: "
                "resume with the data.batch_size and data.epoch_size that the run was started with"
            )
        self._batches = state["epoch"] * len(self) + state["batch"]

    def _keys(self, batch: int) -> list[SampleKey]:
        # Epochs are counted in whole batches, so that rounding epoch_size down skips no position of the stream.
        rank, processes = _rank_and_processes()
        first = (batch * processes + rank) * self.batch_size
        return [self._key(position) for position in range(first, first + self.batch_size)]

    def _key(self, position: int) -> SampleKey:
        visit, place = divmod(position, len(self.dataset))
        return SampleKey(visit, int(self._order(visit)[place]) if self.shuffle else place)

    def _order(self, visit: int) -> np.ndarray:
        if visit != self._ordered:
            self._ordered, self._permutation = visit, epoch_order(self.seed, visit, len(self.dataset))
        return self._permutation

    def _torch_loader(self, keys: list[list[SampleKey]]) -> DataLoader[Any]:
        # A worker's copy of the dataset is cheap to fork and costly to spawn; elsewhere the platform's default holds.
        context = "fork" if self.num_workers and sys.platform == "linux" else None
        return DataLoader(
            cast(Any, self.dataset),
            batch_sampler=cast(Any, keys),
            num_workers=self.num_workers,
            multiprocessing_context=context,
            persistent_workers=False,
            # torch draws the workers' base seed from here; without it, from the global generator.
            generator=torch.Generator().manual_seed(self.seed),
        )


class ResumableData(pl.LightningDataModule):
    """A data module whose training loader continues at the very sample where a checkpoint was written.

    Lightning hands a checkpoint's loader state back only when the checkpoint was written within an epoch; one written
    at the end of an epoch would replay the first epoch's order. The data module's own state is always handed back, so
    the place is kept there too.
    """

    def __init__(self) -> None:
        super().__init__()
        self._loader: ResumableLoader | None = None
        self._loader_state: dict[str, int] = {}

    @abstractmethod
    def make_train_loader(self) -> ResumableLoader:
        """Return the loader of the training samples, at its beginning."""

    def train_dataloader(self) -> ResumableLoader:
        """Return the loader of the training samples, where the checkpoint left it."""
        self._loader = self.make_train_loader()
        if self._loader_state:
            self._loader.load_state_dict(self._loader_state)
            self._loader_state = {}
        return self._loader

    def state_dict(self) -> dict[str, int]:
        """Return the training loader's place, or nothing before there is one."""
        return self._loader.state_dict() if self._loader is not None else dict(self._loader_state)

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Keep the place for the next :meth:`train_dataloader`."""
        self._loader_state = dict(state_dict)


def _rank_and_processes() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
