"""The survey of an archive before it is scored: which of its shards a model can score.

A shard that cannot be read costs that shard, not the run. If no shard at all can be scored, the
options are wrong, or the archive is not one, and the user has to correct that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from digitsum.archive.shards import Archive, Shard, list_shards, read_shards
from digitsum.errors import InputError
from digitsum.model.saved_model import SavedModel
from digitsum.options import ReadOptions
from digitsum.storage.listing import ListedFile
from digitsum.storage.location import Location, locate
from digitsum.storage.retries import retried


@dataclass(frozen=True)
class RejectedShard:
    """A shard of which no image can be scored."""

    path: str
    """Relative to the archive."""
    reason: str


@dataclass(frozen=True)
class Survey:
    """What of an archive can be scored."""

    archive: Archive
    """The shards that can be read."""
    rejected: tuple[RejectedShard, ...] = ()
    """The others, by path."""
    is_whole: bool = True
    """True if all of the archive was listed, and not one shard of it."""


def survey_archive(
    uri: str,
    options: ReadOptions,
    model: SavedModel,
    known_count: int | None,
    known: Mapping[ListedFile, Shard],
) -> Survey:
    """List an archive and return which of its shards a model can score, footers read in parallel.

    `known` holds shards whose footers were read before; those that are listed unchanged are not
    read again. Raises InputError if the archive cannot be listed, or if all its shards are
    rejected, with the first one's reason.
    """
    root, files = retried(lambda: list_shards(locate(uri), follow_links=options.follow_links))
    unknown = [file for file in files if file not in known]
    read = read_shards(root, unknown, options, model.shape)
    footers: dict[ListedFile, Shard | InputError] = dict(zip(unknown, read, strict=True))
    shards = []
    errors = {}
    for file in files:
        shard = known.get(file) or footers[file]
        if isinstance(shard, Shard):
            try:
                _check_shape(root, shard, model, known_count)
                shards.append(shard)
                continue
            except InputError as error:
                shard = error
        errors[file.path] = shard
    if not shards:
        raise next(iter(errors.values()))
    rejected = tuple(RejectedShard(path, str(error)) for path, error in errors.items())
    return Survey(Archive(root, tuple(shards)), rejected, is_whole=not locate(uri).is_file())


def _check_shape(root: Location, shard: Shard, model: SavedModel, known_count: int | None) -> None:
    """Raise InputError, naming the shard, if the model cannot read images of its shape.

    Also if they cannot hold the known count of digits.
    """
    model.network.check_shape(shard.shape, root.join(shard.file.path).uri)
    if known_count is not None:
        model.network.check_known_count(known_count, shard.shape)
