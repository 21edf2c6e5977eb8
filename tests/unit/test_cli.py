import json
import re
import shutil
from collections.abc import Callable
from dataclasses import is_dataclass, replace
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest
import torch
from factories import (
    commit_scores,
    make_baseline,
    make_images,
    read_files,
    write_model,
    write_parquet,
)

from digitsum import cli
from digitsum.archive.import_images import ImportImagesConfig
from digitsum.archive.import_npy import ImportNpyConfig
from digitsum.archive.score_parts import known_count_digest, model_directory, part_directory
from digitsum.archive.synth import SynthConfig
from digitsum.archive.writer import write_archive
from digitsum.cli import main
from digitsum.model.baseline import PIXEL_SCALE
from digitsum.model.import_model import ImportModelConfig
from digitsum.model.saved_model import load_model
from digitsum.options import ImageShape, InspectConfig, ReportConfig
from digitsum.scoring.config import (
    CompareConfig,
    EvaluateConfig,
    ScoreConfig,
    StatusConfig,
    VerifyConfig,
)
from digitsum.scoring.lock import lock_scores
from digitsum.scoring.plan import NOT_SCORED, SHARD_GONE
from digitsum.storage.location import locate
from digitsum.training.config import TrainConfig

SHAPE = ImageShape(16, 24)
COMMANDS = {
    "synth": SynthConfig,
    "import npy": ImportNpyConfig,
    "import images": ImportImagesConfig,
    "import model": ImportModelConfig,
    "train": TrainConfig,
    "score": ScoreConfig,
    "status": StatusConfig,
    "verify": VerifyConfig,
    "evaluate": EvaluateConfig,
    "compare": CompareConfig,
    "report": ReportConfig,
    "inspect": InspectConfig,
}
# Each has a good archive IN/ok and a good model IN/model, and writes below OUT only.
WORK = {
    "train": "train --archive IN/ok --out OUT/model --digits 2",
    "score": "score --archive IN/ok --model IN/model --scores OUT/scores",
    "plan": "score --archive IN/ok --model IN/model --scores OUT/scores --plan",
    "verify": "verify --archive IN/ok --model IN/model --scores OUT/scores",
    "evaluate": "evaluate --archive IN/ok --model IN/model --report OUT/report",
}
SCORING = ["score", "plan", "verify", "evaluate"]
TRAIN_COMPOSED = "train --out OUT/model"


@pytest.fixture(autouse=True)
def _no_ray(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a command that would start Ray fail at once."""
    monkeypatch.setenv("RAY_ADDRESS", "these-tests-start-no-ray://")


def write_labelled(directory: Path, *sums: int, shape: ImageShape = SHAPE) -> None:
    images = replace(make_images(len(sums), shape), digit_sums=np.array(sums, np.int16))
    write_archive(str(directory), [images], shape, [len(sums)], labelled=True)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> Path:
    """Give a directory of good and bad inputs."""
    directory = tmp_path_factory.mktemp("in")
    images = [bytes(SHAPE.num_pixels)] * 3
    write_labelled(directory / "ok", *range(19))
    write_labelled(directory / "wide", 1, 2, shape=ImageShape(16, 32))
    write_labelled(directory / "narrow", *range(19), shape=ImageShape(16, 15))
    write_labelled(directory / "tiny", *range(19), shape=ImageShape(4, 4))
    write_labelled(directory / "too_large", 3, 19)
    write_labelled(directory / "negative", 3, -1)
    for name, columns in {
        "null_sum": {"image": images, "digit_sum": [1, None, 2]},
        "float_sum": {"image": images, "digit_sum": [1.0] * 3},
        "unlabelled": {"image": images},
        "no_image": {"picture": images, "digit_sum": [1, 2, 3]},
        "floats": {"image": [[0.5]] * 3, "digit_sum": [1, 2, 3]},
    }.items():
        write_parquet(directory / name / "a.parquet", columns)
    (directory / "empty").mkdir()
    (directory / "text").mkdir()
    (directory / "text" / "a.parquet").write_text("this is not Parquet")
    (directory / "file").write_text("a file")
    network = make_baseline()
    write_model(directory / "counter")
    for name in ("model", "changed"):
        write_model(directory / name, network, pixel_scale=PIXEL_SCALE)
    (directory / "changed" / "config.json").write_text('{"format": 1}')
    torch.save(network.state_dict(), directory / "model.pth")
    np.save(directory / "data.npy", np.zeros((5, 16, 24), np.uint8))
    glyphs = np.full((200, 28, 28), 200, np.uint8)
    np.savez(directory / "glyphs.npz", images=glyphs, labels=np.arange(200) % 10)
    return directory


@pytest.fixture
def run(inputs, tmp_path, capsys) -> Callable[[str], tuple[int, str, str]]:
    """Run a command line, IN and OUT replaced; return its exit code, stdout and stderr."""

    def run(line: str) -> tuple[int, str, str]:
        places = {"IN": inputs, "OUT": tmp_path / "out"}
        arguments = [re.sub(r"\b(IN|OUT)\b", lambda m: str(places[m[0]]), a) for a in line.split()]
        try:
            code = main(arguments)
        except SystemExit as end:  # what cannot be parsed
            code = end.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def refused(run, inputs, tmp_path) -> Callable[[str], str]:
    """Run bad input; check that it only writes one sentence to stderr; return that."""

    def refused(line: str) -> str:
        before = read_files(inputs)
        code, out, err = run(line)
        assert (code, out) == (2, "")
        assert re.fullmatch(r"digitsum: [^\n]+\n", err), err
        assert err[:-1].isprintable()
        assert not (tmp_path / "out").exists()
        assert read_files(inputs) == before
        return err

    return refused


@pytest.mark.parametrize("command", WORK)
@pytest.mark.parametrize(
    ("archive", "message"),
    [
        ("IN/absent", "absent: no such file or directory"),
        ("IN/empty", "empty: holds no .parquet files"),
        ("IN/text", "text/a.parquet: not a whole Parquet file"),
        ("IN/file", "file: not a whole Parquet file"),
        ("IN/no_image", "has no column 'image', only 'picture', 'digit_sum'"),
        ("IN/floats", "column 'image' is of type list<element: double>"),
        ("nosuch://bucket/a", "nosuch://bucket/a"),
    ],
)
def test_unreadable_archive_is_refused(refused, command, archive, message):
    assert message in refused(WORK[command].replace("IN/ok", archive))


@pytest.mark.parametrize("command", SCORING)
@pytest.mark.parametrize(
    ("model", "archive", "message"),
    [
        ("model", "wide", "images are 16x32, but the model was trained on 16x24"),
        ("counter", "narrow", "images are 16x15, but the model reads images 16 pixels high and 16"),
    ],
)
def test_images_of_another_shape(refused, command, model, archive, message):
    line = WORK[command].replace("IN/model", f"IN/{model}").replace("IN/ok", f"IN/{archive}")
    assert f"shard-00000.parquet: {message}" in refused(line)


@pytest.mark.parametrize("command", SCORING)
@pytest.mark.parametrize(
    ("model", "known_count", "message"),
    [
        ("model", 3, "--known-count 3: the model adds up 2 digits"),
        ("model", 0, "--known-count 0: the model adds up 2 digits"),
        ("counter", 0, "--known-count 0: images of 16x24 hold 1 to 6 digits"),
        ("counter", 7, "--known-count 7: images of 16x24 hold 1 to 6 digits"),
    ],
)
def test_known_count_is_refused(refused, command, model, known_count, message):
    line = WORK[command].replace("/model", f"/{model}") + f" --known-count {known_count}"
    assert message in refused(line)


@pytest.mark.parametrize("command", ["train", "evaluate"])
@pytest.mark.parametrize(
    ("archive", "message"),
    [
        ("too_large", "holds 19, outside 0..18"),
        ("negative", "holds -1, outside 0..18"),
        ("null_sum", "holds 1 nulls"),
        ("float_sum", "of type double, but sums are integers"),
        ("unlabelled", "has no column 'digit_sum'"),
    ],
)
def test_wrong_labels_are_refused(refused, command, archive, message):
    options = " --height 16 --width 24"
    assert message in refused(WORK[command].replace("IN/ok", f"IN/{archive}") + options)


@pytest.mark.parametrize("command", SCORING)
@pytest.mark.parametrize("model", ["absent", "empty", "file", "changed"])
def test_wrong_model_is_refused(refused, command, model):
    out = refused(WORK[command].replace("IN/model", f"IN/{model}"))
    assert re.search(
        rf"{model}(/config.json)?: (not a model|the model's content does not match)", out
    )


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            WORK["train"].replace("IN/ok", "IN/tiny") + " --network baseline",
            "'height' is 4; give an integer from 8 to 4096",
        ),
        (WORK["train"].replace("IN/ok", "IN/tiny"), "'height' is 4; give"),
        (WORK["train"].replace("IN/ok", "IN/narrow"), "; give an integer from"),
        (
            WORK["train"] + " --network baseline --digits 65",
            "'num_digits' is 65; give an",
        ),
        (WORK["train"] + " --preset paper", "--preset paper: --network counter has"),
        (WORK["train"] + " --min-digits 3", "--min-digits 3"),
        (WORK["train"] + " --distortion 3", "--distortion 3"),
        (TRAIN_COMPOSED + " --digits 12", "12 digits do not fit"),
        (TRAIN_COMPOSED + " --validation IN/ok", "--validation without --archive"),
        (TRAIN_COMPOSED + " --glyphs IN/absent", "no such glyphs"),
        (WORK["evaluate"].replace("IN/model", "IN/counter") + " --known-count 1", "outside 0..9"),
        (WORK["train"] + " --validation IN/wide", "images are 16x32"),
        (WORK["train"] + " --digits 65", "'num_digits' is 65; give an"),
        (WORK["train"] + " --digits 1", "outside 0..9"),
        (WORK["train"] + " --epochs 0", "--epochs 0: give at least 1"),
        (WORK["train"] + " --workers 3", "--workers"),
        (WORK["train"] + " --name ../x", "--name"),
        (WORK["score"] + " --chunk-images 0", "--chunk-images 0"),
        (WORK["score"] + " --min-actors 2 --max-actors 1", "--max-actors 1"),
        (WORK["score"] + " --gpus-per-actor 1.5", "--gpus-per-actor 1.5"),
        (WORK["score"] + " --gpus-per-actor inf", "--gpus-per-actor inf"),
        (WORK["score"] + " --id-column nosuch", "'nosuch'"),
        (WORK["score"] + " --max-rejected 101%", "--max-rejected 101%: give 0% to 100%"),
        (WORK["score"] + " --max-rejected few", "--max-rejected few: give a percentage"),
        (WORK["verify"] + " --chunk-images 0", "--chunk-images 0"),
        (WORK["verify"] + " --sample -1", "--sample -1"),
        ("status OUT/scores", "scores: holds no scores and no runs"),
        ("status IN/file", "file: holds no scores and no runs"),
        (WORK["evaluate"] + " --label-column nosuch", "'nosuch'"),
        *((line + " --height 16", "--height and --width") for line in WORK.values()),
        *((line + " --height 16 --width 32", "16x32") for line in WORK.values()),
        ("synth --out OUT/a --images 0", "--images 0"),
        ("synth --out OUT/a --images 5 --digits 12", "12 digits do not fit"),
        ("synth --out OUT/a --images 5 --glyphs IN/absent", "no such glyphs"),
        ("synth --out IN/ok --images 5 --glyphs IN/absent", "no such glyphs"),
        ("import npy IN/absent --out OUT/a", "absent: no such file"),
        ("import images IN/empty --out OUT/a", "holds no image files"),
        ("import model IN/absent --out OUT/b", "absent: not a file"),
        ("import model IN/file --out OUT/b --height 16 --width 24", "file: not a state dict"),
        ("import model IN/model.pth --out OUT/b", "correct --height and --width"),
    ],
)
def test_bad_value_is_refused(refused, line, message):
    assert message in refused(line)


@pytest.mark.parametrize(
    "line",
    [
        WORK["train"].replace("OUT/model", "IN/file"),
        WORK["score"].replace("OUT/scores", "IN/file"),
        WORK["plan"].replace("OUT/scores", "IN/file"),
        WORK["evaluate"].replace("OUT/report", "IN/file"),
        "synth --out IN/file --images 5 --glyphs IN/glyphs.npz",
        "import model IN/model.pth --height 16 --width 24 --out IN/file",
    ],
)
def test_output_that_is_a_file(refused, line):
    assert "/file: " in refused(line)


@pytest.mark.parametrize(
    "line",
    [
        *("", "nosuch", "import", "train", "synth --out OUT/a"),
        *(f"{WORK['train']} {option}" for option in ("--epochs many", "--model no", "--nosuch 1")),
    ],
)
def test_unparsable_command_line(run, tmp_path, line):
    code, out, err = run(line)
    assert (code, out) == (2, "")
    assert err
    assert "Traceback" not in err
    assert not (tmp_path / "out").exists()


def options_of(config: type) -> set[str]:
    hints = get_type_hints(config)
    nested = {n for n, kind in hints.items() if is_dataclass(kind)}
    return (set(hints) - nested).union(*(options_of(hints[name]) for name in nested))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_each_option(run, command):
    code, out, err = run(f"{command} --help")
    assert (code, err) == (0, "")
    mentioned = set(re.findall(r"^[│ ] (?:-h, )?--([a-z-]+) ", out, re.MULTILINE))
    mentioned |= {name.lower() for name in re.findall(r"^[│ ] \[?([A-Z]+)\]? ", out, re.MULTILINE)}
    options = {name.replace("_", "-") for name in options_of(COMMANDS[command])}
    assert mentioned == options | {"help"}


def test_help_has_each_command(run):
    for line, names in (
        ("", "synth import inspect train evaluate score status verify compare report"),
        ("import", "npy images model"),
    ):
        code, out, err = run(f"{line} --help")
        assert (code, err) == (0, "")
        assert re.findall(r"^[│ ] +[•*] (\w+) ", out, re.MULTILINE) == names.split()


def test_make_import_and_plan(run, tmp_path):
    place = tmp_path / "out"
    code, out, err = run("synth --out OUT/made --images 7 --shards 2 --glyphs IN/glyphs.npz")
    assert (code, err) == (0, "")
    assert out == f"{place}/made: 7 images of 40x168 pixels in 2 shards\n"

    code, out, err = run("import npy IN/data.npy --out OUT/imported")
    assert (code, err) == (0, "")
    assert out == f"{place}/imported: 5 images of 16x24 pixels in 1 shards\n"

    code, out, err = run("import model IN/model.pth --height 16 --width 24 --out OUT/model")
    assert (code, err) == (0, "")
    digest = load_model(str(place / "model")).digest
    assert out == f"{place}/model: model written, model {digest}\n"

    line = "score --archive OUT/imported --model OUT/model --scores OUT/scores --plan"
    code, out, err = run(f"{line} --json")
    nothing = {"chunks": 0, "images": 0, "reasons": {}}
    new = {"chunks": 1, "images": 5}
    assert (code, err, json.loads(out)) == (
        0,
        "",
        {
            "new": new | {"reasons": {NOT_SCORED: new}},
            "changed": nothing,
            "done": nothing,
            "gone": {"parts": 0, "reasons": {}},
            "rejected": {"shards": 0, "reasons": {}},
            "model_digest": digest,
            "version": 1,
        },
    )
    code, out, err = run(line)
    lines = out.splitlines()
    assert lines[0].split() == ["new", "1", "chunks", "5", "images"]
    assert lines[1].split() == ["1", "chunks", "5", "images", *NOT_SCORED.split()]
    assert lines[-1] == "5 images to score; no earlier run shows how long that takes"
    assert not (place / "scores").exists()


@pytest.mark.parametrize(
    ("model", "known_count"), [("model", None), ("counter", None), ("counter", 2)], ids=str
)
def test_score_when_all_is_done(run, inputs, tmp_path, model, known_count):
    line = WORK["score"].replace("IN/model", f"IN/{model}") + " --json"
    line += f" --known-count {known_count}" if known_count else ""
    model = load_model(str(inputs / model))
    scores = tmp_path / "out" / "scores"
    commit_scores(inputs / "ok", scores, model, known_count=known_count)
    model = model_directory(known_count_digest(model.digest, known_count))
    gone = scores / model / "gone" / "rows-0.parquet"
    gone.parent.mkdir()
    gone.write_bytes(b"the part of a shard that is no more")
    code, out, err = run(line)
    assert (code, err) == (0, "")
    scored = json.loads(out)
    assert (scored["images"], scored["rejected"], scored["images_per_s"]) == (0, 0, 0)
    done = {"chunks": 1, "images": 19}
    assert scored["plan"]["done"] == done | {"reasons": {"unchanged": done}}
    assert scored["plan"]["gone"] == {"parts": 1, "reasons": {SHARD_GONE: 1}}
    assert scored["totals"] == {
        "images": 19,
        "scored": 19,
        "rejected": 0,
        "rejected_shards": 0,
        "shards": 1,
    }
    assert not gone.exists()
    assert (scores / "CURRENT").read_text() == f"{model}\n"
    (manifest,) = (scores / "_runs").glob("*/manifest.json")
    outcome = json.loads(manifest.read_text())["outcome"]
    assert outcome == scored | {"chunks": []}
    assert (outcome["archive"], outcome["complete"]) == (str(inputs / "ok"), True)
    assert (outcome["why_incomplete"], outcome["rejected_shards"]) == (None, {})
    assert outcome["reference"] is None
    plan = json.loads((manifest.parent / "plan.json").read_text())
    assert plan == scored["plan"]
    again = json.loads(run(line)[1])
    assert again["plan"]["gone"] == {"parts": 0, "reasons": {}}
    assert again["totals"] == scored["totals"]


@pytest.fixture
def done(inputs, tmp_path) -> Path:
    """Commit the scores of IN/ok to OUT/scores."""
    scores = tmp_path / "out" / "scores"
    commit_scores(inputs / "ok", scores, load_model(str(inputs / "model")))
    return scores


def test_score_held_exit_code_4(run, done):
    before = read_files(done)
    with lock_scores(locate(str(done)), "score-other"):
        code, out, err = run(WORK["score"])
    assert (code, out) == (4, "")
    assert re.fullmatch(rf"digitsum: {done}: is held by run score-other[^\n]+\n", err)
    assert read_files(done).items() >= before.items()
    assert not (done / "CURRENT").exists()
    assert run(WORK["score"])[0] == 0


def test_score_rejected_exit_code_3(run, inputs, tmp_path):
    archive, scores = tmp_path / "archive", tmp_path / "out" / "scores"
    model = load_model(str(inputs / "model"))
    shutil.copytree(inputs / "ok", archive)
    commit_scores(archive, scores, model)
    (archive / "bad.parquet").write_text("no Parquet")
    part = scores / part_directory(model.digest, "bad.parquet") / "rows-0.parquet"
    part.parent.mkdir()
    part.write_text("the part of what it was before")
    line = WORK["score"].replace("IN/ok", str(archive))
    code, out, err = run(f"{line} --max-rejected 49%")
    assert code == 3
    assert "0 images scored" in out
    assert re.fullmatch(r"digitsum: 1 of 2 shards were rejected, more than the 49% [^\n]+\n", err)
    assert not (scores / "CURRENT").exists()
    (run_of_it,) = (scores / "_runs").glob("score-*")
    outcome = json.loads((run_of_it / "manifest.json").read_text())["outcome"]
    assert outcome["complete"] is False
    assert outcome["why_incomplete"] == err.removeprefix("digitsum: ").strip()
    assert list(outcome["rejected_shards"]) == ["bad.parquet"]
    assert [path.name for path in (run_of_it / "rejected").iterdir()] == ["shards.parquet"]

    code, out, err = run(f"{line} --max-rejected 50%")
    assert (code, err) == (0, "")
    assert (scores / "CURRENT").exists()
    assert part.exists()


def test_status_of_scores(run, done):
    assert run("status OUT/scores")[:1] == (2,)
    assert run(WORK["score"])[0] == 0
    (done / "_runs" / "score-99999999T000000.000000Z").mkdir()
    code, out, err = run("status OUT/scores")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    model = (done / "CURRENT").read_text().strip()
    assert lines[0] == f"{done}: current scores in {model}"
    assert lines[1].endswith("Z: ended before it was complete, or is still running")
    assert lines[2].endswith(": 0 images scored and 0 rejected in 0.0 s; complete")
    assert len(lines) == 3
    found = json.loads(run("status OUT/scores --json")[1])
    assert (found["scores"], found["current"]) == (str(done), model)
    assert [len(one) > 1 for one in found["runs"]] == [False, True]


def test_verify_scores(run, done):
    code, out, err = run(WORK["verify"])
    assert (code, err) == (0, "")
    assert (
        "19 images in 1 chunks are scored once each, in order, 0 of them rejected; 19 were scored "
        "again" in out
    )
    code, figures, err = run(WORK["verify"] + " --json")
    counts = {"chunks": 1, "images": 19, "rejected": 0, "recomputed": 19, "faults": []}
    assert json.loads(figures) == counts
    assert json.loads(run(WORK["verify"] + " --sample 3 --json")[1])["recomputed"] == 3

    (part,) = done.glob("model=*/*/rows-*")
    part.write_bytes(b"")
    code, fault, err = run(WORK["verify"])
    assert code == 2
    assert "no current scores: the part is broken" in fault
    assert json.loads(run(WORK["verify"] + " --json")[1])["faults"] == [fault.rstrip("\n")]
    assert re.fullmatch(r"digitsum: [^\n]+: the scores are not those of [^\n]+\n", err)


def test_ctrl_c_exit_code_130(run, monkeypatch):
    def interrupted(config):
        raise KeyboardInterrupt

    monkeypatch.setitem(cli._COMMANDS, ScoreConfig, interrupted)
    assert run(WORK["score"]) == (130, "", "digitsum: interrupted; what was committed stays.\n")
