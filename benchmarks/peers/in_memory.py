"""Upper bound: the back-end alone, on two cores, with images in memory; nothing is written.

No other tool that runs this back-end can be faster.
"""

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from model import BATCH_SIZE, load_model, scored, to_pixels

archive, model, out, backend = sys.argv[1:]
images = pq.read_table(archive, columns=["image_id", "image"])
half = len(images) // 2


def score(part):
    """Score one half of the images, on one core."""
    predict = load_model(model, backend, num_threads=1)
    pixels = to_pixels(part["image"].to_pylist())
    image_ids = part["image_id"].to_pylist()
    return [
        pa.table(scored(image_ids[i : i + BATCH_SIZE], predict(pixels[i : i + BATCH_SIZE])))
        for i in range(0, len(pixels), BATCH_SIZE)
    ]


with ThreadPoolExecutor(2) as threads:
    halves = list(threads.map(score, [images.slice(0, half), images.slice(half)]))
Path(out).mkdir()
pq.write_table(pa.concat_tables([*halves[0], *halves[1]]), Path(out) / "scores.parquet")
