"""The scoring run, resolved once: everything that it is given, opened and checked, and its plan."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from digitsum.archive.score_parts import known_count_digest, model_directory
from digitsum.archive.shards import Archive, Shard, list_shards, read_shards
from digitsum.errors import InputError
from digitsum.manifest import RUNS_DIRECTORY, new_run_id
from digitsum.model.saved_model import SavedModel, load_model, packaged_model
from digitsum.options import ReadOptions
from digitsum.scoring.commit import ListedParts, list_parts, list_parts_of_others
from digitsum.scoring.config import ScoreConfig
from digitsum.scoring.footer_cache import (
    FOOTER_CACHE_DIRECTORY,
    FooterCacheFiles,
    footer_cache_files,
    read_footer_cache,
)
from digitsum.scoring.plan import ScorePlan, Survey, plan_scores
from digitsum.storage.listing import ListedFile, is_hidden
from digitsum.storage.location import Location, locate
from digitsum.storage.retries import retried


@dataclass(frozen=True)
class ScoreRun:
    """A scoring run with everything opened and checked that it is given."""

    config: ScoreConfig
    started: datetime
    model: SavedModel
    model_digest: str
    """The model's digest, with the known count if there is one."""
    scores: Location
    directory: Location
    """Directory of the run, with its plan, rejects, sample and manifest."""
    cache_files: FooterCacheFiles


@dataclass(frozen=True)
class PlannedRun:
    """Archive and scores as they were when a run was planned, and the plan."""

    survey: Survey
    listed_ns: int
    """Time before the archive and the scores were listed, in ns since 1970."""
    parts: ListedParts
    plan: ScorePlan


def open_score_run(config: ScoreConfig) -> ScoreRun:
    """Resolve a configuration, writing nothing; raises InputError if a place cannot be used."""
    started = datetime.now(UTC)
    scores = locate(config.scores)
    scores.check_directory()
    model = load_model(config.model or packaged_model())
    archive = locate(config.archive)
    check_apart(archive, scores)
    digest = known_count_digest(model.digest, config.known_count)
    for directory in (model_directory(digest), FOOTER_CACHE_DIRECTORY):
        scores.check_below(f"{directory}/_")
    return ScoreRun(
        config,
        started,
        model,
        digest,
        scores,
        scores.join(f"{RUNS_DIRECTORY}/{new_run_id('score', started)}"),
        footer_cache_files(scores, archive, digest, config.read, str(model.shape)),
    )


def plan_run(run: ScoreRun) -> PlannedRun:
    """List the archive and the scores of a run, each once, and plan what is to be scored.

    Raises InputError if the archive cannot be listed, or if none of its shards can be scored.
    """
    config, cache = run.config, read_footer_cache(run.cache_files)
    listed_ns = time.time_ns()
    survey = survey_archive(
        config.archive, config.read, run.model, config.known_count, cache.shards
    )
    parts = list_parts(run.scores, run.model_digest, cache.parts)
    plan = plan_scores(
        survey,
        run.model_digest,
        config.chunk_images,
        {file.path: part for file, part in parts.items()},
        list_others=lambda: list_parts_of_others(run.scores, run.model_digest),
        retry_rejected=config.retry_rejected,
    )
    return PlannedRun(survey, listed_ns, parts, plan)


def survey_archive(
    uri: str,
    options: ReadOptions,
    model: SavedModel,
    known_count: int | None,
    known: Mapping[ListedFile, Shard],
) -> Survey:
    """List an archive and return which of its shards a model can score, footers read in parallel.

    Shards that are listed as in `known` are not read again. Raises InputError if the archive cannot
    be listed, or if all its shards are rejected, with the first one's reason.
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
                model.network.check_shape(shard.shape, root.join(shard.file.path).uri)
                if known_count is not None:
                    model.network.check_known_count(known_count, shard.shape)
                shards.append(shard)
                continue
            except InputError as error:
                shard = error
        errors[file.path] = shard
    if not shards:
        raise next(iter(errors.values()))
    rejected = {path: str(error) for path, error in errors.items()}
    return Survey(Archive(root, tuple(shards)), rejected, is_whole=not locate(uri).is_file())


def check_apart(archive: Location, scores: Location) -> None:
    """Raise InputError if scores would be written among the shards, and later read as such."""
    relative = f"{scores.path}/".removeprefix(f"{archive.path.rstrip('/')}/").rstrip("/")
    is_below = type(scores.filesystem) is type(archive.filesystem) and relative != scores.path
    if is_below and not is_hidden(relative):
        raise InputError(
            f"{scores.uri}: is within the archive {archive.uri}, and its parts would be read as "
            "shards; give --scores a place beside it, or a name that begins with '_'."
        )
