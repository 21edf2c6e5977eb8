"""What a scoring run is given and finds before it scores: model, archive, scores, and the plan."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from digitsum.archive.score_parts import known_count_digest, model_directory
from digitsum.archive.shards import Archive, ListedFile, Shard, list_shards, read_shards
from digitsum.errors import InputError
from digitsum.manifest import RUNS_DIRECTORY
from digitsum.model.saved_model import SavedModel, load_model, packaged_model
from digitsum.options import ReadOptions
from digitsum.scoring.commit import CommittedParts, committed_parts, parts_of_other_models
from digitsum.scoring.config import ScoreConfig
from digitsum.scoring.footer_cache import FooterCache, FooterCacheFiles, footer_cache_files
from digitsum.scoring.plan import (
    RejectedShard,
    ScorePlan,
    Survey,
    check_apart,
    check_shape,
    plan_scores,
)
from digitsum.storage.location import Location, locate
from digitsum.storage.retries import retried


@dataclass(frozen=True)
class Opened:
    """What a run was given, before it looks at it."""

    model: SavedModel
    model_digest: str
    scores: Location
    footer_cache_files: FooterCacheFiles


@dataclass(frozen=True)
class Prepared:
    """What a run plans by."""

    opened: Opened
    survey: Survey
    surveyed_ns: int
    footer_cache: FooterCache

    @property
    def model_digest(self) -> str:
        """The model's digest, marked where it is told how many digits there are."""
        return self.opened.model_digest

    def now_known(self) -> FooterCache:
        """Return the footer cache with what was read of shards since."""
        return FooterCache({s.file: s for s in self.survey.archive.shards}, self.footer_cache.parts)

    def committed(self) -> CommittedParts:
        """Return the model's parts, as they lie there now."""
        return committed_parts(self.opened.scores, self.model_digest, self.footer_cache.parts)

    def plan(self, config: ScoreConfig, committed: CommittedParts, *, retry: bool) -> ScorePlan:
        """Return the plan that these parts leave; `retry` also takes what has rejected rows."""
        make = partial(
            plan_scores,
            self.survey,
            self.model_digest,
            config.chunk_images,
            committed.by_path,
            retry_rejected=retry,
        )
        plan = make()
        if not plan.chunks("new"):
            return plan
        return make(by_other_models=parts_of_other_models(self.opened.scores, self.model_digest))


def open_scoring(config: ScoreConfig) -> Opened:
    """Return what a run was given; raises InputError where the model or a place cannot be used."""
    scores = locate(config.scores)
    scores.check_directory()
    model = load_model(config.model or packaged_model())
    archive = locate(config.archive)
    check_apart(archive, scores)
    digest = known_count_digest(model.digest, config.known_count)
    for directory in (model_directory(digest), f"{RUNS_DIRECTORY}/footer_cache"):
        scores.check_below(f"{directory}/_")
    files = footer_cache_files(scores, archive, digest, config.read, str(model.shape))
    return Opened(model, digest, scores, files)


def look_through(config: ScoreConfig, opened: Opened, footer_cache: FooterCache) -> Prepared:
    """Return what a run plans by; `footer_cache` spares reading footers that were read before.

    Raises InputError where the archive is none, or none of its shards can be scored.
    """
    surveyed_ns = time.time_ns()
    model, known = opened.model, footer_cache.shards
    survey = survey_archive(config.archive, config.read, model, config.known_count, known)
    return Prepared(opened, survey, surveyed_ns, footer_cache)


def survey_archive(
    uri: str,
    options: ReadOptions,
    model: SavedModel,
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
    read = read_shards(root, unknown, options, model.shape)
    seen: dict[ListedFile, Shard | InputError] = dict(zip(unknown, read, strict=True))
    found = [
        _checked(known[file] if file in known else seen[file], root, model, num_digits)
        for file in files
    ]
    shards = tuple(shard for shard in found if isinstance(shard, Shard))
    errors = {f.path: e for f, e in zip(files, found, strict=True) if isinstance(e, InputError)}
    if not shards:
        raise next(iter(errors.values()))
    rejected = tuple(RejectedShard(path, str(error)) for path, error in errors.items())
    return Survey(Archive(root, shards), rejected, whole=not locate(uri).is_file())


def _checked(
    found: Shard | InputError, root: Location, model: SavedModel, num_digits: int | None
) -> Shard | InputError:
    if isinstance(found, Shard):
        try:
            check_shape(root, found, model.network, num_digits)
        except InputError as error:
            return error
    return found
