"""A torch DataLoader with two workers that read and decode; the network on two threads."""

import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from model import batch_size, load_model, scored, to_pixels
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

COLUMNS = ["image_id", "image"]


class Images(IterableDataset):
    """The images of every second shard, for each of two workers."""

    def __init__(self, archive):
        self.shards = sorted(Path(archive).glob("*.parquet"))

    def __iter__(self):
        worker = get_worker_info()
        for shard in self.shards[worker.id :: worker.num_workers]:
            for batch in pq.ParquetFile(shard).iter_batches(batch_size(backend), columns=COLUMNS):
                yield batch["image_id"].to_pylist(), to_pixels(batch["image"].to_pylist())


archive, model, out, backend = sys.argv[1:]
predict = load_model(model, backend, num_threads=2)
Path(out).mkdir()
tables = []
for image_ids, pixels in DataLoader(Images(archive), batch_size=None, num_workers=2):
    tables.append(pa.table(scored(image_ids, predict(np.asarray(pixels)))))
pq.write_table(pa.concat_tables(tables), Path(out) / "scores.parquet")
