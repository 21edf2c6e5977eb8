"""Cost of planning a large archive: `python benchmarks/planning_scale.py [SHARDS]`.

A million shards by default. They do not exist: the script makes up what a listing and the footer
cache would give, as if all except every hundredth had been scored the night before. Measures time
and memory of the plan, without the listing, which depends on the file system.
"""

from __future__ import annotations

import resource
import sys
import time

from digitsum.archive.chunks import plan_chunks
from digitsum.archive.score_parts import Part, part_path
from digitsum.archive.shards import Archive, Shard
from digitsum.model.saved_model import load_model, packaged_model
from digitsum.scoring.plan import Survey, plan_scores
from digitsum.storage.listing import ListedFile
from digitsum.storage.location import locate

CHUNK_IMAGES = 50_000
SHARD_IMAGES = 10_000
_NEW_EVERY = 100


def planning_scale(num_shards: int) -> None:
    """Print the seconds and the memory of a plan."""
    model = load_model(packaged_model())
    before_mb = _peak_mb()
    shards = tuple(
        Shard(
            ListedFile(f"{number // 1000:04}/{number:07}.parquet", 1_000_000, number),
            (SHARD_IMAGES,),
            model.shape,
            "image_id",
        )
        for number in range(num_shards)
    )
    committed = {}
    for number, shard in enumerate(shards):
        if number % _NEW_EVERY:
            for chunk in plan_chunks(shard, CHUNK_IMAGES):
                committed[part_path(model.digest, chunk.id)] = Part(model.digest, chunk.id, 0)
    survey = Survey(Archive(locate("/archive"), shards), {})
    listed_mb = _peak_mb()
    started = time.perf_counter()
    plan = plan_scores(survey, model.digest, CHUNK_IMAGES, committed)
    num_images = sum(chunk.num_rows for chunk in plan.to_score)
    seconds = time.perf_counter() - started
    print(
        f"{num_shards:,} shards: {num_images:,} images to score; planned in {seconds:.1f} s, "
        f"{_peak_mb() - before_mb:,.0f} MB, {listed_mb - before_mb:,.0f} of them for shards and "
        "parts"
    )


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    planning_scale(int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000)
