"""Drivers, busy actors and whole nodes of a real Ray cluster are killed while an archive is scored.

DIGITSUM_CLUSTER_KILLS says how many of each.
"""

import os
import random
import signal
import time

import psutil
import pytest
from ray.cluster_utils import Cluster

KILLS = int(os.environ.get("DIGITSUM_CLUSTER_KILLS", "1"))
WAIT_S = 240
ACTOR = "ray::MapWorker"


@pytest.fixture(scope="module")
def cluster():
    """Start a head that scores nothing, and two nodes with room for an actor each."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    try:
        for _ in range(2):
            cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        yield cluster
    finally:
        cluster.shutdown()


def raylet_of(node) -> psutil.Process:
    [raylet] = [info.process for info in node.all_processes["raylet"]]
    return psutil.Process(raylet.pid)


def busy_actors(cluster, workers_below):
    """Find the actors at work: Ray writes the method that one is in into its title."""
    return [
        (node, actor)
        for node in cluster.worker_nodes
        for actor in workers_below(raylet_of(node), f"{ACTOR}(Map(ChunkScorer)).submit")
    ]


def kill_driver(cluster, process, workers_below, rng):
    process.kill()
    assert process.wait(WAIT_S) == -signal.SIGKILL


def kill_actor(cluster, process, workers_below, rng):
    _, actor = rng.choice(busy_actors(cluster, workers_below))
    actor.kill()


def kill_node(cluster, process, workers_below, rng):
    node, _ = rng.choice(busy_actors(cluster, workers_below))
    cluster.remove_node(node, allow_graceful=False)
    cluster.add_node(num_cpus=1)


@pytest.mark.parametrize("kill", [kill_driver, kill_actor, kill_node])
def test_the_scores_are_those_of_an_undisturbed_run(
    kill, cluster, nights, undisturbed, left, start, wait_for, workers_below, tmp_path
):
    rng = random.Random(4)
    for number in range(KILLS):
        directory, log = tmp_path / str(number), tmp_path / f"{number}.log"
        command = nights(directory) + " --backend torch"
        before = left(directory / "scores")

        def begun(directory=directory, before=before):
            changed = left(directory / "scores").items() - before.items()
            return len(changed) >= 1 and bool(busy_actors(cluster, workers_below))

        process = start(command, log, RAY_ADDRESS=cluster.address)
        wait_for(begun, process, log)
        time.sleep(rng.uniform(0, 0.2))
        wait_for(lambda: bool(busy_actors(cluster, workers_below)), process, log)
        kill(cluster, process, workers_below, rng)
        if kill is kill_driver:
            process = start(command, log, RAY_ADDRESS=cluster.address)
        assert process.wait(WAIT_S) == 0, log.read_text()
        assert left(directory / "scores") == undisturbed
