"""Ray Data as its guide to batch inference shows it: read, map by a class in actors, write."""

import os
import sys

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"

import ray
from model import batch_size, load_model, scored, to_pixels

archive, model, out, backend = sys.argv[1:]


class Predictor:
    """Holds the model."""

    def __init__(self):
        self.predict = load_model(model, backend, num_threads=1)

    def __call__(self, batch):
        """Score a batch."""
        sums = self.predict(to_pixels(batch["image"].tolist()))
        return scored(batch["image_id"].tolist(), sums)


# Half a CPU for each actor: with a whole one, as by default, no CPU is left to read, and it hangs.
ray.init(num_cpus=2)
images = ray.data.read_parquet(archive, columns=["image_id", "image"])
scores = images.map_batches(
    Predictor,
    batch_size=batch_size(backend),
    num_cpus=0.5,
    compute=ray.data.ActorPoolStrategy(size=2),
)
scores.write_parquet(out)
