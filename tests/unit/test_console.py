"""Terminals and logs: data cannot control them."""

import io
import json
import logging
import os
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from digitsum.archive.chunks import Chunk, ChunkId
from digitsum.archive.reader import Rows
from digitsum.archive.shards import Fingerprint
from digitsum.archive.synth import SynthConfig, synth
from digitsum.cli import main
from digitsum.console import printable, printable_lines
from digitsum.model.saved_model import packaged_model
from digitsum.report.build import report_of
from digitsum.scoring.config import ComputeOptions
from digitsum.scoring.executors.executor import LostChunk
from digitsum.scoring.executors.threads import ThreadsExecutor
from digitsum.storage.location import locate
from digitsum.training.dataset import warn_undecodable

# Clears the screen, names the window, writes to the clipboard, then forges a line of output.
HOSTILE = "\x1b[2J\x1b]0;owned\x07\x1b]52;c;cm0gLXJm\x07\x9b31m\r\n0 faults\u202e"
CHUNK = Chunk(
    ChunkId(f"a{HOSTILE}", Fingerprint(1, 1, 1, "image", None, 4, 4), first_row=0, num_rows=1), (0,)
)
CONTROLS = {"Cc", "Cf", "Cs", "Zl", "Zp"}


def controls(text: str) -> set[str]:
    """Return the characters of a text that a terminal would not just show."""
    return {c for c in text if unicodedata.category(c) in CONTROLS} - {"\n"}


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a shard/ü 数字 é.parquet", "a shard/ü 数字 é.parquet"),
        ("\x1b[31m", r"\x1b[31m"),
        ("a\nb\tc\x7f", r"a\nb\tc\x7f"),
        ("\x9b31m", r"\x9b31m"),
        ("a\u202eb\u2028c", r"a\u202eb\u2028c"),
        ("\udcff", r"\udcff"),
        ("\U000e0041", r"\U000e0041"),
        ("", ""),
    ],
)
def test_printable_escapes_controls(text, shown):
    assert printable(text) == shown
    assert printable_lines("a\x1b\nb\n") == "a\\x1b\nb\n"


@given(st.text())
def test_printable_any_text(text):
    shown = printable(text)
    assert not controls(shown)
    assert len(shown.splitlines()) <= 1
    shown.encode()
    assert printable(shown) == shown


@pytest.fixture
def hostile(tmp_path) -> Path:
    """Make an archive whose ids, shards' names and columns are hostile."""
    out = tmp_path / "archive"
    synth(SynthConfig(out=str(out), images=30, shards=3, digits=1, width=48))
    first, second, third = sorted(out.glob("*.parquet"))
    table = pq.read_table(first)
    ids = [f"{number}{HOSTILE}" for number in range(table.num_rows)]
    images = table["image"].to_pylist()
    images[3] = images[3][:-1]
    columns = {"image_id": ids, "image": pa.array(images, pa.binary())}
    pq.write_table(pa.table(columns).replace_schema_metadata(table.schema.metadata), first)
    first.rename(out / f"a{HOSTILE}.parquet")
    pq.write_table(pa.table({HOSTILE: [1], "image": [[HOSTILE]]}), second)
    second.rename(out / f"b{HOSTILE}.parquet")
    third.rename(out / "c.parquet")
    (out / f"d{HOSTILE}.parquet").write_bytes(b"none")
    return out


def printed(capfd) -> str:
    out, err = capfd.readouterr()
    assert not controls(out + err)
    return out + err


def test_hostile_archive_is_escaped(hostile, capfd, tmp_path):
    scores = tmp_path / f"scores{HOSTILE}"
    both = ["--archive", str(hostile), "--scores", str(scores), "--known-count", "1"]
    score = ["score", *both, "--executor", "threads", "--backend", "torch"]
    assert main([*score, "--plan"]) == 0
    assert main([*score, "--max-rejected", "90%"]) == 0
    assert r"\x1b[2J" in printed(capfd)
    assert main([*score, "--max-rejected", "0"]) == 3
    printed(capfd)
    assert main(["verify", *both]) == 2
    faults = printed(capfd)
    assert r"\x1b]0;owned" in faults
    assert "0 faults" in faults
    assert "\n0 faults" not in f"\n{faults}", "a name forges a line"
    for place in (hostile, scores, *hostile.glob("*"), *scores.glob("_runs/score-*")):
        main(["inspect", str(place)])
        printed(capfd)
    (scores / "CURRENT").write_text(f"model={HOSTILE}")
    assert main(["status", str(scores)]) == 0
    assert r"\x1b" in printed(capfd)


def test_hostile_model_is_escaped(capfd, tmp_path):
    source = Path(packaged_model())
    for file in source.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    metrics = {"best": {"validation_accuracy": HOSTILE}, "test": {"accuracy": 1, "images": HOSTILE}}
    (tmp_path / "metrics.json").write_text(json.dumps(metrics))
    assert main(["inspect", str(tmp_path)]) == 0  # metrics may say anything
    printed(capfd)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"network": HOSTILE}))
    assert main(["inspect", str(tmp_path)]) == 2
    printed(capfd)


def test_unencodable_name_in_argument(hostile, monkeypatch):
    """The locale may not be UTF-8, or a name on disk is not."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict")
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "stderr", stream)
    assert main(["inspect", str(hostile / "none\udcff")]) == 2
    stream.flush()
    assert rb"none\udcff" in stream.buffer.getvalue()


def test_unencodable_name_on_disk(hostile, capfd):
    (hostile / os.fsdecode(b"e\xff.parquet")).write_bytes(b"none")
    assert main(["inspect", str(hostile)]) == 0
    assert "cannot be read" in printed(capfd)


def test_failed_chunk_is_escaped(caplog):
    def fail(_):
        raise ValueError(HOSTILE)

    executor = ThreadsExecutor(lambda _: fail, ComputeOptions(), keep_going=True)
    assert list(executor.map([CHUNK])) == [LostChunk(CHUNK)]
    assert "a chunk failed" in caplog.messages[0]
    assert not controls(caplog.messages[0])


def test_failed_report_is_escaped(capfd, tmp_path):
    assert report_of(locate(str(tmp_path / HOSTILE))) == []
    assert "no report was made" in printed(capfd)


def test_skipped_training_images_are_escaped(caplog):
    rows = Rows(0, pa.array(["a"]), np.zeros((1, 4, 4), np.uint8), {0: HOSTILE}, None)
    with caplog.at_level(logging.WARNING):
        warn_undecodable(CHUNK.shard, rows, np.array([0]))
    assert "left out" in caplog.messages[0]
    assert not controls(caplog.messages[0])
