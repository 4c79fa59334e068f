"""Descriptors that a Ray cluster computes: its workers hold the network, and are sent pictures, not paths."""

from __future__ import annotations

import queue
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from itertools import islice
from pathlib import Path

import numpy as np
from torch import Tensor

from tezawari.collect.ray_engine import Cluster
from tezawari.collect.rerank_store import PackedPicture, PictureFile, use_one_thread
from tezawari.core.errors import UserError
from tezawari.features.backbone import Backbone, load_backbone
from tezawari.features.descriptors import DescriptorCache, LoadImage, describe, letterbox
from tezawari.features.trunk import REPLACED

# One that is computed, and one that is there when it is done.
_BATCHES_A_WORKER = 2

Picture = PackedPicture | np.ndarray
"""A file's bytes, or pixels (H, W, 3) uint8 RGB."""


class Describer:
    """A worker that computes descriptors on one core, with a network that it is sent.

    Args:
        backbone: the network's name.
        layers: those it was loaded with.
        state: its state dict; a file of weights may be of the driver's machine alone.
        image_size: side of the square that images are fitted into.
    """

    def __init__(self, backbone: str, layers: Sequence[str], state: Mapping[str, Tensor], image_size: int) -> None:
        use_one_thread()
        self._backbone = load_backbone(backbone, layers, REPLACED)
        self._backbone.load_state_dict(state)
        self._image_size = image_size

    def work(self, task: tuple[Sequence[Picture], Sequence[str]]) -> dict[str, np.ndarray] | UserError:
        """Return the descriptors (N, D) of pictures for each of some layers, or what is wrong with a picture."""
        pictures, layers = task
        try:
            pixels = [picture() if isinstance(picture, PackedPicture) else picture for picture in pictures]
        except UserError as error:  # returned: raised, it would come back with the worker's traceback in its message
            return error
        return describe(self._backbone, pixels, layers, self._image_size, max(1, len(pixels)))


class ClusterDescriptors(DescriptorCache):
    """A cache of descriptors on this machine, of which a cluster computes what is missing.

    The workers, one for each core of the cluster that finds room, start with the first missing descriptor and stay
    until the cluster's connection ends. Pictures go to them as the bytes of their files, others as squares of pixels;
    two batches a worker are on their way at the most.
    """

    def __init__(self, folder: str | Path, backbone: Backbone, cluster: Cluster) -> None:
        super().__init__(folder, backbone)
        self._cores = cluster.cores
        state = {name: value.cpu() for name, value in backbone.state_dict().items()}
        arguments = (backbone.name, backbone.layers, state, self.image_size)
        self._crew = cluster.crew(Describer, arguments, concurrency=1, cores=1)

    def _computed(
        self, batches: Iterable[Sequence[int]], images: Sequence[LoadImage], layers: Sequence[str]
    ) -> Iterator[tuple[Sequence[int], dict[str, np.ndarray]]]:
        """Have workers compute them; raises :class:`UserError` also for workers that die again and again."""
        batches = list(batches)
        arrived: queue.SimpleQueue[tuple[int, Sequence[int], Future[dict[str, np.ndarray] | UserError]]]
        arrived = queue.SimpleQueue()

        def give(worker: int, places: Sequence[int]) -> None:
            task = [self._packed(images[place]) for place in places], list(layers)
            self._crew.give(worker, task).add_done_callback(lambda done: arrived.put((worker, places, done)))

        # A worker that the cluster has no room for never answers, and is given no picture.
        for worker in range(min(self._cores, len(batches))):
            give(worker, [])
        waiting = iter(batches)
        left = len(batches)
        while left:
            worker, places, done = arrived.get()
            batch = done.result()
            if isinstance(batch, UserError):
                raise batch
            for following in islice(waiting, 1 if places else _BATCHES_A_WORKER):
                give(worker, following)
            if places:
                left -= 1
                yield places, batch

    def _packed(self, load: LoadImage) -> Picture:
        return load.packed() if isinstance(load, PictureFile) else letterbox(load(), self.image_size)


def open_cluster_descriptors(
    folder: Path, backbone: str, layer: str, weights: str | None, cluster: Cluster
) -> ClusterDescriptors:
    """Load a backbone and open its cache as :func:`~tezawari.collect.rerank_store.open_descriptors` does."""
    return ClusterDescriptors(folder / "descriptors", load_backbone(backbone, [layer], weights), cluster)
