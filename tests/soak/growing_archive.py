"""An archive that changes from round to round, and a check of its scores after each."""

import random
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from rounds import Act, Change

from digitsum.archive.synth import SynthConfig, synth

SHARD_IMAGES, ROWS_OF_GROUP = 200, 50


class GrowingArchive:
    """Shards of the same few hundred images, whose ids differ."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "archive"
        self.path.mkdir()
        composed = directory / "composed"
        synth(SynthConfig(out=str(composed), images=SHARD_IMAGES, unlabelled=True))
        [shard] = composed.glob("*.parquet")
        self._images = pq.read_table(shard)
        self._elsewhere = directory / "written"
        self._version: Counter[int] = Counter()
        self.damaged: set[str] = set()
        """Stems of the shards that cannot be read in full."""

    def change(self, change: Change) -> None:
        stem = f"shard-{change.shard:05}"
        place = self.path / f"{stem}.parquet"
        if change.act is Act.REMOVE:
            place.unlink()
        elif change.act is Act.DAMAGE:
            self.damaged.add(stem)
            self._elsewhere.write_bytes(_damaged(place.read_bytes(), change.shard))
            self._elsewhere.replace(place)
        else:
            self.damaged.discard(stem)
            self._version[change.shard] += 1
            ids = pa.array(self._ids(stem, self._version[change.shard]))
            table = self._images.set_column(0, self._images.schema.field(0), ids)
            pq.write_table(table, self._elsewhere, row_group_size=ROWS_OF_GROUP)
            self._elsewhere.replace(place)

    def faults_of(self, scores: Path) -> list[str]:
        """Return a sentence for each shard whose rows the scores do not hold once each, in order.

        A damaged shard may have parts of what it is now or was before.
        """
        faults = []
        scored = {}
        for directory in scores.glob("model=*/*"):
            if parts := sorted(directory.glob("rows-*.parquet")):
                tables = [pq.read_table(p, columns=["image_id"], partitioning=None) for p in parts]
                scored[directory.name] = pa.concat_tables(tables)["image_id"].to_pylist()
        for place in sorted(self.path.glob("*.parquet")):
            stem = place.stem
            ids = scored.pop(stem, [])
            expected = self._ids(stem, self._version[int(stem.removeprefix("shard-"))])
            if stem in self.damaged:
                if len(ids) != len(set(ids)):
                    faults.append(f"{stem}: is damaged, and has rows twice")
            elif ids != expected:
                lost, more = Counter(expected) - Counter(ids), Counter(ids) - Counter(expected)
                faults.append(f"{stem}: {lost.total()} rows lost, {more.total()} too many")
        return [*faults, *(f"{stem}: is gone, and has scores" for stem in scored)]

    @staticmethod
    def _ids(stem: str, version: int) -> list[str]:
        return [f"{stem}-{version}-{row}" for row in range(SHARD_IMAGES)]


def _damaged(content: bytes, seed: int) -> bytes:
    """Return a shard cut short, or with random bytes in its images."""
    rng = random.Random(seed)
    if seed % 2:
        return content[: len(content) // 2]
    middle = len(content) // 2
    return content[:middle] + rng.randbytes(64) + content[middle + 64 :]
