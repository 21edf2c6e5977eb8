"""The seams that read bytes from elsewhere, each as a function of bytes.

The fuzzer calls a target, and `test_corpus.py` calls it for every input that is kept. It returns if
the bytes were read correctly or refused by a DigitsumError of one line; any other error is a
finding.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from mutators import Mutator, mutate_image, mutate_parquet, mutate_plain, mutate_tar

from digitsum.errors import DigitsumError


@contextmanager
def refused_in_a_line() -> Iterator[None]:
    """Let a DigitsumError of one line end the block; any other error is a finding and passes."""
    try:
        yield
    except DigitsumError as error:
        message = str(error)
        assert message, "the error has no message"
        assert "\n" not in message, f"the error has several lines: {message!r}"


@dataclass(frozen=True)
class Target:
    """A seam; its modules are imported when it is used, because torch takes seconds."""

    module: str
    """Module of `function`."""
    function: str
    """Reads bytes, and writes into an empty directory."""
    seeds: str
    """Module and function that yields small valid inputs."""
    mutate: Mutator = mutate_plain
    max_size: int = 4096
    """Bytes of the largest input that is tried."""

    def load(self) -> Callable[[bytes, Path], object]:
        """Return the function."""
        found: Callable[[bytes, Path], object] = getattr(import_module(self.module), self.function)
        return found

    def inputs(self) -> Iterator[bytes]:
        module, _, function = self.seeds.partition(".")
        yield from getattr(import_module(module), function)()


PARQUET, IMPORTS, MODELS = "parquet_targets", "import_targets", "model_targets"
TARGETS = {
    "shard": Target(PARQUET, "score_shard", "seeds.shards", mutate_parquet, 8192),
    "layout": Target("layouts", "read_layout", "seeds.layouts", max_size=512),
    "image": Target(IMPORTS, "decode_image", "seeds.images", mutate_image),
    "part": Target(PARQUET, "read_forged_part", "parquet_targets.parts", mutate_parquet, 8192),
    "footer_cache": Target(
        PARQUET, "read_footer_cache_file", "parquet_targets.footer_caches", mutate_parquet, 8192
    ),
    "rejects": Target(PARQUET, "read_run_rejects", "parquet_targets.rejects", mutate_parquet),
    "model": Target(MODELS, "load_forged_model", "model_targets.models", max_size=16384),
    "weights": Target(MODELS, "import_weights", "model_targets.weights"),
    "manifest": Target("run_targets", "read_manifest_of_a_run", "run_targets.manifests"),
    "npy": Target(IMPORTS, "import_arrays", "seeds.arrays"),
    "npz": Target(IMPORTS, "load_npz", "seeds.npzs"),
    "idx": Target(IMPORTS, "load_idx", "seeds.idxs"),
    "tar": Target(IMPORTS, "import_tar", "seeds.tars", mutate_tar, 16384),
    "labels": Target(IMPORTS, "import_labels", "seeds.labels"),
}
