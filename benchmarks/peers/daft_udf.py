"""Daft: read, a class that Daft calls batch by batch, write."""

import sys

import daft
from model import batch_size, load_model, scored, to_pixels

archive, model, out, backend = sys.argv[1:]
SCORED = daft.DataType.struct(
    {"predicted_sum": daft.DataType.int16(), "finished_at": daft.DataType.float64()}
)


@daft.cls(max_concurrency=1)
class Predictor:
    """Holds the model."""

    def __init__(self):
        self.predict = load_model(model, backend, num_threads=2)

    @daft.method.batch(return_dtype=SCORED, batch_size=batch_size(backend))
    def score(self, images):
        """Score a batch."""
        columns = scored([], self.predict(to_pixels(images.to_pylist())))
        pairs = zip(columns["predicted_sum"], columns["finished_at"], strict=True)
        return [{"predicted_sum": int(s), "finished_at": float(t)} for s, t in pairs]


images = daft.read_parquet(f"{archive}/*.parquet").select("image_id", "image")
scores = images.select("image_id", Predictor().score(images["image"]).alias("scored"))
scores.select(
    "image_id",
    scores["scored"].get("predicted_sum").alias("predicted_sum"),
    scores["scored"].get("finished_at").alias("finished_at"),
).write_parquet(out)
