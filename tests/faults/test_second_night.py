"""A thousand shards, of which a few are new, changed or gone by the second night."""

import json
import shutil
import time

import pytest
from without_ray import run_here

from digitsum.archive.synth import SynthConfig, synth

SHARDS, NEW, CHANGED, GONE = 1000, 10, 3, 2


@pytest.fixture(scope="module")
def nightly(model, tmp_path_factory):
    """Give the archive's directory and the command, after the first night, and the spare shards."""
    out = tmp_path_factory.mktemp("nightly")
    images = SHARDS + NEW + CHANGED
    synth(
        SynthConfig(
            out=f"{out}/all", images=images, shards=images, digits=2, width=96, unlabelled=True
        )
    )
    shards = sorted((out / "all").glob("*.parquet"))
    archive = out / "archive"
    archive.mkdir()
    for shard in shards[:SHARDS]:
        shutil.copy2(shard, archive)
    command = f"score --archive {archive} --scores {out}/scores --model {model}"
    assert run_here(command) == 0
    return archive, command, shards[SHARDS:]


def test_the_second_night_scores_only_what_is_new_or_changed(nightly, capsys):
    archive, command, spare = nightly
    for shard in spare[:NEW]:
        shutil.copy2(shard, archive)
    for number, shard in enumerate(spare[NEW:]):
        shutil.copy2(shard, archive / f"shard-{100 * number + 7:05d}.parquet")
    for number in range(GONE):
        (archive / f"shard-{100 * number + 8:05d}.parquet").unlink()
    time.sleep(2.1)  # what was written within two seconds is not believed to have settled

    assert run_here(f"{command} --plan") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "new 10 chunks 10 images 10 chunks 10 images not scored yet" in said
    assert "changed 3 chunks 3 images 3 chunks 3 images the shard's bytes changed" in said
    assert "done 995 chunks 995 images 995 chunks 995 images current" in said
    assert "gone 2 chunks 2 chunks the shard is gone" in said
    assert "13 images to score, in about" in said

    assert run_here(f"{command} --json") == 0
    outcome = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert outcome["images"] == NEW + CHANGED
    assert outcome["totals"] == {
        "images": SHARDS + NEW - GONE,
        "scored": SHARDS + NEW - GONE,
        "rejected": 0,
        "rejected_shards": 0,
        "shards": SHARDS + NEW - GONE,
    }


def test_without_its_ledger_the_plan_is_the_same(nightly, capsys):
    archive, command, _ = nightly
    assert run_here(command) == 0
    time.sleep(2.1)
    assert run_here(command) == 0
    capsys.readouterr()
    assert run_here(f"{command} --plan --json") == 0
    with_ledger = capsys.readouterr().out
    shutil.rmtree(archive.parent / "scores/_runs/footer_cache")
    assert run_here(f"{command} --plan --json") == 0
    assert capsys.readouterr().out == with_ledger
    assert json.loads(with_ledger)["done"]["chunks"] == SHARDS + NEW - GONE
