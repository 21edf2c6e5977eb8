"""An archive of many shards, of which a few are new, changed or gone by the second night.

DIGITSUM_SHARDS is how many there are.
"""

import json
import os
import shutil
import time

import pytest
from without_ray import run_here

SHARDS, NEW, CHANGED, GONE = int(os.environ.get("DIGITSUM_SHARDS", "200")), 10, 3, 2
SETTLED_S = 2.1
"""Files are believed to have settled two seconds after they were written."""


@pytest.fixture(scope="module")
def nightly(model, make_archive, tmp_path_factory):
    """Give the archive's directory and the command, after the first night, and the spare shards."""
    out = tmp_path_factory.mktemp("nightly")
    num_all = SHARDS + NEW + CHANGED
    shards = sorted(make_archive(out / "all", num_all, num_all).glob("*.parquet"))
    archive = out / "archive"
    archive.mkdir()
    for shard in shards[:SHARDS]:
        shutil.copy2(shard, archive)
    command = f"score --archive {archive} --scores {out}/scores --model {model}"
    assert run_here(command) == 0
    return archive, command, shards[SHARDS:]


def test_second_night_scores_changes(nightly, capsys):
    archive, command, spare = nightly
    for shard in spare[:NEW]:
        shutil.copy2(shard, archive)
    for number, shard in enumerate(spare[NEW:]):
        shutil.copy2(shard, archive / f"shard-{50 * number + 7:05d}.parquet")
    for number in range(GONE):
        (archive / f"shard-{50 * number + 8:05d}.parquet").unlink()
    time.sleep(SETTLED_S)

    assert run_here(f"{command} --plan") == 0
    plan = " ".join(capsys.readouterr().out.split())
    num_done = SHARDS - CHANGED - GONE
    assert "new 10 chunks 10 images 10 chunks 10 images not scored yet" in plan
    assert "changed 3 chunks 3 images 3 chunks 3 images the shard's bytes changed" in plan
    done = f"{num_done} chunks {num_done} images"
    assert f"done {done} {done} unchanged" in plan
    assert "gone 2 parts 2 parts the shard is gone" in plan
    assert "13 images to score, in about" in plan

    assert run_here(f"{command} --json") == 0
    outcome = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert outcome["images"] == NEW + CHANGED
    num_left = SHARDS + NEW - GONE
    counts = {"images": num_left, "scored": num_left, "shards": num_left}
    assert outcome["totals"] == counts | {"rejected": 0, "rejected_shards": 0}


def test_plan_without_footer_cache(nightly, capsys):
    archive, command, _ = nightly
    assert run_here(command) == 0
    time.sleep(SETTLED_S)
    assert run_here(command) == 0
    capsys.readouterr()
    assert run_here(f"{command} --plan --json") == 0
    with_cache = capsys.readouterr().out
    shutil.rmtree(archive.parent / "scores/_runs/footer_cache")
    assert run_here(f"{command} --plan --json") == 0
    assert capsys.readouterr().out == with_cache
    num_shards = len(list(archive.glob("*.parquet")))
    assert json.loads(with_cache)["done"]["chunks"] == num_shards
