"""A plain loop, the first thing to write: pyarrow, a batch, the network, pyarrow."""

import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from model import batch_size, load_model, scored, to_pixels

archive, model, out, backend = sys.argv[1:]
predict = load_model(model, backend, num_threads=2)
Path(out).mkdir()
for shard in sorted(Path(archive).glob("*.parquet")):
    tables = []
    for batch in pq.ParquetFile(shard).iter_batches(
        batch_size(backend), columns=["image_id", "image"]
    ):
        sums = predict(to_pixels(batch["image"].to_pylist()))
        tables.append(pa.table(scored(batch["image_id"].to_pylist(), sums)))
    pq.write_table(pa.concat_tables(tables), Path(out) / shard.name)
