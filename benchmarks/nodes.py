"""Cost of scheduling on several nodes: `python benchmarks/nodes.py`.

Simulated nodes on this machine share 64 actors that sleep instead of scoring: the time that an
actor waits between two chunks is Ray's. Start and end, when actors have no chunk, do not count.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections import defaultdict
from functools import partial
from itertools import pairwise
from typing import Any

import ray
from ray.cluster_utils import Cluster

from digitsum.archive.chunks import Chunk, ChunkId
from digitsum.archive.shards import Fingerprint
from digitsum.scoring.config import ComputeOptions

ACTORS = 64
CHUNKS_EACH = 6


class Sleeper:
    """Worker that takes a fixed time for a chunk; its results say who it was and when."""

    def __init__(self, seconds: float, compute: ComputeOptions) -> None:
        self._seconds = seconds

    def __call__(self, chunk: Chunk) -> dict[str, Any]:
        """Sleep."""
        started = time.time()
        time.sleep(self._seconds)
        node = ray.get_runtime_context().get_node_id()
        return {"actor": os.getpid(), "node": node, "started": started, "ended": time.time()}


def nodes(counts: list[int], seconds: float) -> None:
    """Print, for each number of nodes, how long an actor waits between two chunks."""
    for count in counts:
        # In one process, Ray would keep the tables of the first cluster: start one for each.
        child = os.fork()
        if child == 0:
            _measure(count, seconds)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        if status:
            raise SystemExit(f"{count} nodes: ended with status {status}.")


def _measure(num_nodes: int, seconds: float) -> None:
    from digitsum.ray_runtime import connect_ray
    from digitsum.scoring.executors.ray_data import RayDataExecutor

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        for _ in range(num_nodes):
            cluster.add_node(num_cpus=ACTORS // num_nodes)
        cluster.wait_for_nodes()
        os.environ["RAY_ADDRESS"] = cluster.address
        fingerprint = Fingerprint(0, 0, 50_000, "image", None, 40, 168)
        chunks = [
            Chunk(ChunkId(f"{i}.parquet", fingerprint, 0, 50_000), (0,))
            for i in range(ACTORS * CHUNKS_EACH)
        ]
        options = ComputeOptions(max_actors=ACTORS, executor="ray")
        with connect_ray():
            executor = RayDataExecutor(partial(Sleeper, seconds), options, keep_going=False)
            found = list(executor.map(chunks))
    finally:
        cluster.shutdown()
    by_actor = defaultdict(list)
    for result in found:
        by_actor[result["node"], result["actor"]].append(result)
    waits = []
    for results in by_actor.values():
        results.sort(key=lambda result: float(result["started"]))
        waits += [later["started"] - earlier["ended"] for earlier, later in pairwise(results)]
    used = len({node for node, _ in by_actor})
    mean = statistics.mean(waits)
    print(
        f"{num_nodes} nodes, {used} used, {len(by_actor)} actors, {len(found)} chunks of "
        f"{seconds:g} s: an actor waits {1000 * mean:.0f} ms for its next chunk (median "
        f"{1000 * statistics.median(waits):.0f}), {mean / seconds:.1%} of a chunk's time",
        flush=True,
    )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--seconds", type=float, default=10.0)
    given = parser.parse_args()
    nodes(given.nodes, given.seconds)
