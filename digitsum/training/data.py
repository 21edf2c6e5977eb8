"""An archive as Ray Data feeds it to training: labelled images, uint8, a shard for each worker."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import ray
from ray.data import ExecutionOptions, RandomSeedConfig
from ray.train import DataConfig

from digitsum.archive.location import locate
from digitsum.archive.reading import Rows, read_chunk
from digitsum.archive.shards import Archive, Chunk, plan_chunks
from digitsum.training.config import TrainConfig
from digitsum.training.holdout import held_out

Part = Literal["all", "train", "validation"]

# One read task makes one block; a few blocks at a time are what Ray Data holds in memory.
READ_IMAGES = 8192
# What a reading task reserves; a worker must leave as much, or images never come.
READ_CPUS = 0.5

logger = logging.getLogger(__name__)


class SplitDataConfig(DataConfig):  # type: ignore[misc]
    """Gives each worker its share: of "train" the same number of images, of others every image.

    Gradient steps need workers in step, so Ray's equal split may leave a few images out; a
    validation figure is about all of its images, so there the shares may differ in length.
    Blocks keep their order, which makes a run repeatable from its seed; Ray then takes no account
    of which node a block lies on.
    """

    def __init__(self) -> None:
        super().__init__(execution_options=ExecutionOptions(preserve_order=True))

    def configure(
        self,
        datasets: dict[str, Any],
        world_size: int,
        worker_handles: list[Any] | None,
        worker_node_ids: list[str] | None,
        **kwargs: Any,
    ) -> list[dict[str, Any]]:
        """Return, for each worker, its iterators by dataset name."""
        shares: list[dict[str, Any]] = [{} for _ in range(world_size)]
        for name, dataset in datasets.items():
            dataset = dataset.copy(dataset)
            dataset.context.execution_options = self._resolve_execution_options(name)
            splits = dataset.streaming_split(world_size, equal=name == "train")
            for share, split in zip(shares, splits, strict=True):
                share[name] = split
        return shares


def labelled_dataset(
    archive: Archive, part: Part, config: TrainConfig, *, shuffled: bool
) -> ray.data.Dataset:
    """Return the lazy dataset of an archive's labelled images, or of one part of them.

    Columns: image, uint8 (height, width), and digit_sum, int64. Where `shuffled`, the row groups
    come in another order at every pass. Images that cannot be decoded are left out with a warning.
    """
    chunks = [chunk for shard in archive.shards for chunk in plan_chunks(shard, READ_IMAGES)]
    dataset = ray.data.from_items(
        [chunk.to_row() for chunk in chunks], override_num_blocks=len(chunks)
    )
    if shuffled:
        dataset = dataset.randomize_block_order(
            seed=RandomSeedConfig(seed=config.seed, reseed_after_execution=True)
        )
    return dataset.map_batches(
        _read,
        batch_size=1,
        batch_format="pyarrow",
        num_cpus=READ_CPUS,
        fn_kwargs={"root_uri": archive.root.uri, "part": part, "config": config},
    )


def _read(
    batch: pa.Table, root_uri: str, part: Part, config: TrainConfig
) -> Iterator[dict[str, Any]]:
    root = locate(root_uri)
    for chunk in map(Chunk.from_row, batch.to_pylist()):
        for rows in read_chunk(root, chunk, config.read, labels=True):
            yield _select(chunk, rows, part, config)


def _select(chunk: Chunk, rows: Rows, part: Part, config: TrainConfig) -> dict[str, Any]:
    wanted = np.ones(len(rows.pixels), bool)
    if part != "all":
        numbers = rows.first_row + np.arange(len(rows.pixels))
        held = held_out(chunk.shard, numbers, config.validation_fraction, config.seed)
        wanted = held if part == "validation" else ~held
    if rows.errors:
        row, reason = next(iter(rows.errors.items()))
        logger.warning(
            "%s: %d images are left out; row %d: %s",
            chunk.shard,
            len(rows.errors),
            rows.first_row + row,
            reason,
        )
        wanted[list(rows.errors)] = False
    assert rows.digit_sums is not None  # asked for
    return {"image": rows.pixels[wanted], "digit_sum": rows.digit_sums[wanted]}
