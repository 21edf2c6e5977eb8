"""Fuzzing of the seams that read bytes from elsewhere, each for its share of a time: `make fuzz`.

  export PYTHONPATH=build/fuzz/atheris:tests
  .venv/bin/python tests/fuzz/fuzz.py --seconds 600                all of them
  .venv/bin/python tests/fuzz/fuzz.py shard --seconds 60           one of them
  .venv/bin/python tests/fuzz/fuzz.py shard FILE                   one input again

The fuzzer, atheris (libFuzzer for Python), is guided by the coverage of digitsum, Pillow, tarfile,
zipfile, gzip and csv. Compiled code (pyarrow, Pillow's decoders, safetensors) is watched for
crashes, hangs and memory, but does not guide. Each seam has a process of its own, because a crash
ends the process. Findings are in build/fuzz/found/SEAM; `make test` replays those that are kept in
tests/fuzz/corpus/SEAM. build/fuzz/corpus holds what was reached, for the next run to go on from.
"""

import argparse
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent
BUILD = HERE.parents[1] / "build" / "fuzz"
KEPT = HERE / "corpus"
GUIDES = ("digitsum", "PIL", "tarfile", "zipfile", "gzip", "csv")
MEMORY = Path("/dev/shm")
TIMEOUT_S = 20
MEMORY_MB = 3000


def main() -> int:
    """Fuzz all seams, or one; return 1 if something was found."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("seam", nargs="?", help="only this one")
    parser.add_argument("input", nargs="?", type=Path, help="a file to try again, and no other")
    parser.add_argument("--seconds", type=int, default=600, help="for all seams together")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options, for_libfuzzer = parser.parse_known_args()
    if options.child:
        fuzz(options.seam, for_libfuzzer)
    from targets import TARGETS

    names = [options.seam] if options.seam else list(TARGETS)
    if options.input:
        return subprocess.call(command(names[0], str(options.input.resolve())))
    found = []
    for name in names:
        seconds = max(2, options.seconds // len(names))
        began = time.monotonic()
        failed = run(name, seconds)
        print(f"{name:12}{time.monotonic() - began:6.0f} s  {last_line(name)}", flush=True)
        found += [name] if failed else []
    for name in found:
        print(f"{name}: something was found; see {BUILD}/found/{name} and {log_of(name)}")
    return 1 if found else 0


def run(name: str, seconds: int) -> bool:
    """Fuzz a seam for a time; return True if something was found."""
    corpus, found = BUILD / "corpus" / name, BUILD / "found" / name
    shutil.rmtree(found, ignore_errors=True)
    for directory in (corpus, found):
        directory.mkdir(parents=True, exist_ok=True)
    kept = KEPT / name
    with log_of(name).open("w") as log:
        arguments = [f"-max_total_time={seconds}", f"-artifact_prefix={found}/"]
        directories = [str(corpus)] + [str(kept)] * kept.is_dir()
        done = subprocess.run(
            command(name, *arguments, *directories), stdout=log, stderr=log, check=False
        )
    return done.returncode != 0


def command(name: str, *arguments: str) -> list[str]:
    """Return the command that fuzzes a seam with arguments of libFuzzer's."""
    limits = (f"-timeout={TIMEOUT_S}", f"-rss_limit_mb={MEMORY_MB}")
    return [sys.executable, __file__, "--child", name, *limits, *arguments]


def log_of(name: str) -> Path:
    return BUILD / f"{name}.log"


def last_line(name: str) -> str:
    """Return libFuzzer's last line of figures."""
    lines = log_of(name).read_text(errors="replace").splitlines()
    figures = (line for line in reversed(lines) if line.startswith("#") and "cov:" in line)
    return next(figures, "nothing ran").replace("\t", " ")


def fuzz(name: str, arguments: list[str]) -> None:
    """Fuzz a seam in this process, which libFuzzer ends."""
    import atheris

    # Only what is imported here guides the fuzzer.
    with atheris.instrument_imports(include=list(GUIDES)):
        from targets import TARGETS

        target = TARGETS[name]
        read = target.load()
    corpus = BUILD / "corpus" / name
    if corpus.is_dir():
        for number, seed in enumerate(target.inputs()):
            (corpus / f"seed-{number:02}").write_bytes(seed)
    # In memory, because a disk syncs each file.
    memory = MEMORY if MEMORY.is_dir() else None
    parent = tempfile.TemporaryDirectory(prefix="digitsum-fuzz-", dir=memory)

    def try_one(data: bytes) -> None:
        with tempfile.TemporaryDirectory(dir=parent.name) as place:
            read(data, Path(place))

    def mutated(data: bytes, max_size: int, seed: int) -> bytes:
        return target.mutate(bytes(data), max_size, random.Random(seed), atheris.Mutate)

    limit = f"-max_len={target.max_size}"
    atheris.Setup([sys.argv[0], limit, *arguments], try_one, custom_mutator=mutated)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.exit(main())
