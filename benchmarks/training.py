"""The cost of training beyond its own arithmetic: `python benchmarks/training.py`.

In interleaved rounds, on one archive: digitsum with one worker on one core, two workers on one core
each, one worker on both cores, and a plain loop over the same images in memory on both cores. All
take the same steps of the same network, with the same distortions. Of each run of digitsum the last
epoch counts, when caches are warm.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

import torch
from torch.nn.utils import clip_grad_norm_
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from digitsum.model.registry import to_input
from digitsum.training.augmentation import distort
from digitsum.training.config import TrainConfig
from digitsum.training.dataset import open_images, read_pieces
from digitsum.training.init_weights import initial_network
from digitsum.training.metrics import CURVES_FILE, history_from_json
from digitsum.training.sampling import train_share

OUT = Path("build/bench-training")
RUNS = {
    "1 worker, 1 core": ("--workers 1", "0"),
    "2 workers, 1 core each": ("--workers 2", "0,1"),
    "1 worker, 2 cores": ("--workers 1", "0,1"),
}
PLAIN = "plain loop, 2 cores"
EPOCHS = 2


def training(num_images: int, rounds: int) -> None:
    """Measure, and print medians and ratios."""
    archive = OUT / f"archive-{num_images}"
    if not archive.exists():
        command = f"synth --out {archive} --images {num_images} --shards 4"
        subprocess.run([sys.executable, "-m", "digitsum", *command.split()], check=True)
    rates = defaultdict(list)
    waits = defaultdict(list)
    starts = defaultdict(list)
    for number in range(rounds):
        for name, (options, cores) in RUNS.items():
            rate, wait, start_s = _digitsum(archive, options, cores)
            rates[name].append(rate)
            waits[name].append(wait)
            starts[name].append(start_s)
            print(
                f"round {number + 1}: {name}: {rate:,.0f} images/s, {wait:.1%} waiting for "
                f"images, first step after {start_s:.1f} s",
                flush=True,
            )
        rates[PLAIN].append(_plain_loop(archive))
        print(f"round {number + 1}: {PLAIN}: {rates[PLAIN][-1]:,.0f} images/s", flush=True)
    median = {name: statistics.median(values) for name, values in rates.items()}
    one, two, both = (median[name] for name in RUNS)
    wait = max(statistics.median(values) for values in waits.values())
    start_s = statistics.median(start for values in starts.values() for start in values)
    print(
        f"two workers are {two / one:.2f} times as fast as one of them; a plain loop takes "
        f"{both / median[PLAIN]:.2f} of the time of one worker on its cores, and "
        f"{two / median[PLAIN]:.2f} of that of two; at most {wait:.1%} of the time is waiting for "
        f"images; the first step comes after {start_s:.1f} s"
    )


def _digitsum(archive: Path, options: str, cores: str) -> tuple[float, float, float]:
    """Return images/s and data wait of the last epoch, and seconds from command to first step."""
    run = OUT / "run"
    shutil.rmtree(run, ignore_errors=True)
    command = f"train --archive {archive} --out {run}/model --name run --epochs {EPOCHS}"
    command += f" --validation-fraction 0.02 --precision fp32 {options}"
    launched = time.time()
    subprocess.run(
        ["taskset", "--cpu-list", cores, sys.executable, "-m", "digitsum", *command.split()],
        check=True,
        capture_output=True,
        env={**os.environ, "RAY_USAGE_STATS_ENABLED": "0"},
    )
    history = history_from_json((run / f"_runs/run/{CURVES_FILE}").read_text())
    first = min(path.stat().st_mtime for path in (run / "_runs/run").glob("checkpoint_*/*"))
    last = history[-1]
    return last.train_images_per_s, last.data_wait, first - history[0].seconds - launched


def _plain_loop(archive: Path) -> float:
    """Return the images/s of a user's own loop: one process, all images in memory."""
    code = f"from training import plain_loop; plain_loop({str(archive)!r})"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent)}
    ended = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, env=environment, text=True
    )
    return float(json.loads(ended.stdout)["images_per_s"])


def plain_loop(uri: str) -> None:
    """Train for the epochs on images in memory, and print the images/s of the last one."""
    torch.set_num_threads(2)
    config = TrainConfig(archive=uri, out="unused", epochs=EPOCHS, validation_fraction=0.02)
    recipe = config.recipe
    images = open_images(config)
    blocks = list(read_pieces(images.train, train_share(images.train, 1, 0)))
    pixels = torch.cat([torch.from_numpy(block.pixels) for block in blocks])
    sums = torch.cat([torch.from_numpy(block.sums) for block in blocks])
    network = initial_network(config, images.shape, start=None)
    network.to(memory_format=torch.channels_last).train()
    averaged = AveragedModel(
        network, multi_avg_fn=get_ema_multi_avg_fn(1 - recipe.averaging), use_buffers=True
    )
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3, fused=True)
    generator = torch.Generator().manual_seed(0)
    num_seen = 0
    for _ in range(EPOCHS):
        started = time.perf_counter()
        for chosen in torch.randperm(len(sums)).split(recipe.batch_size):
            batch = distort(pixels[chosen], recipe.distortion, generator, keeps_places=True)
            logits = network(to_input(batch, recipe.pixel_scale))
            log_probs = network.sum_log_probs(logits, 4, 4)
            loss = -log_probs.gather(1, sums[chosen].unsqueeze(1)).mean()
            if (pull := recipe.pull_at(num_seen)) > 0:
                loss = loss + pull * network.pull(logits, sums[chosen], 4)
            num_seen += len(chosen)
            optimizer.zero_grad()
            loss.backward()
            clip_grad_norm_(network.parameters(), recipe.max_gradient_norm)
            optimizer.step()
            averaged.update_parameters(network)
        rate = len(sums) / (time.perf_counter() - started)
    print(json.dumps({"images_per_s": rate}))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=48_000)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    training(options.images, options.rounds)
