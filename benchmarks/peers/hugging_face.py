"""Hugging Face datasets: Parquet, a batched map, Parquet."""

import sys
from pathlib import Path

import datasets
from model import batch_size, load_model, scored, to_pixels

archive, model, out, backend = sys.argv[1:]
predict = load_model(model, backend, num_threads=2)
cache = Path(out).with_suffix(".cache")
images = datasets.load_dataset(
    "parquet", data_dir=archive, split="train", columns=["image_id", "image"], cache_dir=str(cache)
)
scores = images.map(
    lambda batch: scored(batch["image_id"], predict(to_pixels(batch["image"]))),
    batched=True,
    batch_size=batch_size(backend),
    remove_columns=["image"],
)
Path(out).mkdir()
scores.to_parquet(f"{out}/scores.parquet")
