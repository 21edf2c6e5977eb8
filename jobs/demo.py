"""`make demo`: composes images, trains, evaluates and scores, all on this machine."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

from digitsum.cli import main
from digitsum.ray_runtime import connect_ray

OUT = Path("demo")
STEPS = (
    "synth --out demo/test --split test --images 2000 --shards 4 --true-digits",
    "synth --out demo/archive --split test --images 4000 --shards 4 --seed 1 --unlabelled",
    "train --preset quick --out demo/model --name demo",
    "evaluate --archive demo/test --model demo/model --report demo/evaluation",
    "score --archive demo/archive --scores demo/scores --model demo/model",
)


def demo() -> int:
    """Run the steps one after the other; return the first exit code that is not 0.

    They share one Ray, because starting it takes as long as some of the steps.
    """
    started = time.monotonic()
    shutil.rmtree(OUT, ignore_errors=True)
    with connect_ray(state_api=True):
        for step in STEPS:
            print(f"\n$ digitsum {step}", flush=True)
            code = main(step.split())
            if code:
                return code
    _print_results(time.monotonic() - started)
    return 0


def _print_results(seconds: float) -> None:
    evaluation = json.loads((OUT / "evaluation/evaluation.json").read_text())
    manifest = next((OUT / "scores/_runs").glob("*/manifest.json"))
    scored = json.loads(manifest.read_text())["outcome"]
    curves = json.loads((OUT / "_runs/demo/curves.json").read_text())
    print(
        f"""
Done in {seconds:.0f} s.
  trained    {len(curves)} epochs, {curves[-1]["train_images_per_s"]:,.0f} images/s
  accuracy   {evaluation["accuracy"]:.1%} of the sums of {evaluation["images"]:,} images right, \
{evaluation["digits_accuracy"]:.1%} with every digit right
  confidence {evaluation["accuracy_at_80"]:.1%} of the most confident 80% right
  scored     {scored["images"]:,} images, {scored["images_per_s"]:,.0f} images/s with the actors' \
start, {scored["rejected"]} rejected
It learned from sums alone, in minutes; README.md has the results of the full recipe.

  demo/model                       the model
  demo/_runs/demo/report.html       how it was trained
  demo/evaluation/report.html       how often it is right, and what it confuses
  demo/scores                       the predicted sums, Parquet
  {manifest.parent}/report.html     how the scoring went, and some of the images"""
    )


if __name__ == "__main__":
    sys.exit(demo())
