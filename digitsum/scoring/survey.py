"""Looking an archive through before it is scored: which of its shards can be, and which not.

A shard that cannot be read costs that shard, not the run. Where no shard at all can be, the
options are wrong, or the archive is none, and that is the caller's to correct.
"""

from __future__ import annotations

from collections.abc import Mapping

from digitsum.archive.location import Location, locate
from digitsum.archive.schema import ReadOptions
from digitsum.archive.shards import Archive, ListedFile, Shard, list_shards, read_shards
from digitsum.errors import InputError
from digitsum.model.bundle import Bundle
from digitsum.retries import retried
from digitsum.scoring.plan import RejectedShard, Survey, check_shape


def survey_archive(
    uri: str,
    options: ReadOptions,
    bundle: Bundle,
    num_digits: int | None,
    known: Mapping[ListedFile, Shard],
) -> Survey:
    """Return which shards of an archive a model can score, their footers read in parallel.

    `known` holds shards whose footers were read before; those that are listed just as they were
    are not read again. Raises InputError where the archive is none, or where all its shards are
    rejected, with the first one's reason.
    """
    root, files = retried(lambda: list_shards(locate(uri), follow_links=options.follow_links))
    unknown = [file for file in files if file not in known]
    read = read_shards(root, unknown, options, bundle.shape)
    seen: dict[ListedFile, Shard | InputError] = dict(zip(unknown, read, strict=True))
    found = [
        _checked(known[file] if file in known else seen[file], root, bundle, num_digits)
        for file in files
    ]
    shards = tuple(shard for shard in found if isinstance(shard, Shard))
    errors = {f.path: e for f, e in zip(files, found, strict=True) if isinstance(e, InputError)}
    if not shards:
        raise next(iter(errors.values()))
    rejected = tuple(RejectedShard(path, str(error)) for path, error in errors.items())
    return Survey(Archive(root, shards), rejected, whole=not locate(uri).is_file())


def _checked(
    found: Shard | InputError, root: Location, bundle: Bundle, num_digits: int | None
) -> Shard | InputError:
    if isinstance(found, Shard):
        try:
            check_shape(root, found, bundle.network, num_digits)
        except InputError as error:
            return error
    return found
