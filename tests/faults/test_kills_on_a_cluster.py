"""Drivers, busy actors and whole nodes of a Ray cluster are killed while an archive is scored.

DIGITSUM_CLUSTER_KILLS is how many of each.
"""

import os
import random
import signal
import time

import psutil
import pytest
from commands import below
from on_ray import WAIT_S, check_ends, start, wait_for
from ray.cluster_utils import Cluster
from without_ray import left_behind

KILLS = int(os.environ.get("DIGITSUM_CLUSTER_KILLS", "1"))
BUSY_ACTOR = "ray::MapWorker(Map(_Actor)).submit"


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


def busy_actors(cluster):
    """Return the busy actors with their nodes: Ray writes an actor's method into its title."""
    busy = []
    for node in cluster.worker_nodes:
        [raylet] = [info.process for info in node.all_processes["raylet"]]
        actors = below(psutil.Process(raylet.pid), BUSY_ACTOR)
        busy += [(node, actor) for actor in actors]
    return busy


def kill_driver(cluster, process, rng):
    process.kill()
    assert process.wait(WAIT_S) == -signal.SIGKILL


def kill_actor(cluster, process, rng):
    _, actor = rng.choice(busy_actors(cluster))
    actor.kill()


def kill_node(cluster, process, rng):
    node, _ = rng.choice(busy_actors(cluster))
    cluster.remove_node(node, allow_graceful=False)
    cluster.add_node(num_cpus=1)


@pytest.mark.parametrize("kill", [kill_driver, kill_actor, kill_node])
def test_scores_after_kill(kill, cluster, nights, undisturbed, tmp_path):
    rng = random.Random(4)
    for number in range(KILLS):
        directory, log = tmp_path / str(number), tmp_path / f"{number}.log"
        command = nights(directory) + " --backend torch"
        before = left_behind(directory / "scores")

        def has_begun(directory=directory, before=before):
            has_part = bool(left_behind(directory / "scores").items() - before.items())
            return has_part and bool(busy_actors(cluster))

        process = start(command, log, RAY_ADDRESS=cluster.address)
        wait_for(has_begun, process, log)
        time.sleep(rng.uniform(0, 0.2))
        wait_for(lambda: bool(busy_actors(cluster)), process, log)
        kill(cluster, process, rng)
        if kill is kill_driver:
            process = start(command, log, RAY_ADDRESS=cluster.address)
        check_ends(process, log)
        assert left_behind(directory / "scores") == undisturbed
