"""A process that lives long, and runs digitsum commands in itself, one after the other.

`python living.py ray|threads`: each line of stdin is a command's arguments as a JSON list, each
line of stdout a JSON object of its exit code and output. The output goes to stderr too.
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
            output = io.StringIO()
            with contextlib.redirect_stdout(output):
                code = main(json.loads(line))
            sys.stderr.write(output.getvalue())
            # Ray Data's plans refer to themselves, and wait for the collector: they do not leak.
            gc.collect()
            answer = {"code": code, "output": output.getvalue()}
            answers.write(json.dumps(answer | (ray_usage() if on_ray else {})) + "\n")


def ray_usage() -> dict[str, float]:
    """Return bytes of objects and CPUs that the node has given away although nothing runs."""
    import ray

    total, free = ray.cluster_resources(), ray.available_resources()
    names = {"object_store_bytes": "object_store_memory", "cpus_held": "CPU"}
    return {name: total[of] - free.get(of, 0.0) for name, of in names.items()}


if __name__ == "__main__":
    live(sys.argv[1] == "ray")
