"""A process that lives long, and runs digitsum commands in itself, one after the other.

`python living.py ray|threads`: each line of stdin is a command's arguments as a JSON list, each
line of stdout an `Answer`. What the commands print goes to stderr.
"""

import contextlib
import gc
import io
import json
import os
import sys

from digitsum.cli import main
from digitsum.ray_runtime import connect_ray


def live(on_ray: bool) -> None:
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # also what C++ prints
    with connect_ray() if on_ray else contextlib.nullcontext():
        for line in sys.stdin:
            said = io.StringIO()
            with contextlib.redirect_stdout(said):
                code = main(json.loads(line))
            sys.stderr.write(said.getvalue())
            # Ray Data's plans refer to themselves, and wait for a collection that comes now and
            # then: what waits is not lost.
            gc.collect()
            found = {"code": code, "said": said.getvalue(), **(held_by_ray() if on_ray else {})}
            answers.write(json.dumps(found) + "\n")


def held_by_ray() -> dict[str, float]:
    """Return what of the node is taken although nothing runs: bytes of objects, and CPUs."""
    import ray

    there, free = ray.cluster_resources(), ray.available_resources()
    names = {"object_store_bytes": "object_store_memory", "cpus_held": "CPU"}
    return {name: there[of] - free.get(of, 0.0) for name, of in names.items()}


if __name__ == "__main__":
    live(sys.argv[1] == "ray")
