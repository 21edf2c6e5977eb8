"""Tests of README and docs: their code is run, or parsed if it needs what is not here."""

import re
import shlex
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import kubernetes_validate
import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from digitsum import cli
from digitsum.archive.synth import SynthConfig, synth
from digitsum.cli import main
from digitsum.model.saved_model import packaged_model

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
KUBERNETES = "1.33"
# A command, and the options after it, up to what a shell or a comment would end it with.
_COMMAND = re.compile(r"(?:digitsum |-m digitsum |jobs/(?:train|score|evaluate)\.py )[^\n#>\"&]*")


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks() -> Iterator[Block]:
    for page in PAGES:
        text = page.read_text()
        for found in re.finditer(r"^```([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            line = text.count("\n", 0, found.start()) + 1
            yield Block(page.name, line, found[1], found[2])


def commands(text: str) -> list[list[str]]:
    """Return the arguments of every digitsum command in a text."""
    joined = text.replace("\\\n", " ")
    joined = re.sub(r"command: \[([^\]]*)\]", lambda m: m[1].replace(", ", " "), joined)
    found = []
    for match in _COMMAND.findall(joined):
        words = shlex.split(match)
        if words[0] == "-m":
            words = words[1:]
        script = re.fullmatch(r"jobs/(\w+)\.py", words[0])
        words = [script[1], *words[1:]] if script else words[1:]
        if words and not words[0].isupper():
            found.append(words)
    return found


ALL = list(blocks())
COMMANDS = [(str(block), command) for block in ALL for command in commands(block.text)]


def test_blocks_found():
    assert len(ALL) > 10
    assert len(COMMANDS) > 10


@pytest.mark.parametrize(
    ("place", "arguments"), COMMANDS, ids=lambda x: x if isinstance(x, str) else " ".join(x)[:60]
)
def test_commands_parse(place, arguments, monkeypatch):
    given = []
    for config in cli._COMMANDS:
        monkeypatch.setitem(cli._COMMANDS, config, given.append)
    assert main(arguments) == 0, place
    assert len(given) == 1


@pytest.fixture(scope="module")
def scored(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("scored")
    synth(SynthConfig(out=str(out / "archive"), images=60, shards=2, split="test"))
    command = f"score --archive {out}/archive --scores {out}/scores --executor threads"
    assert main([*command.split(), "--backend", "torch"]) == 0
    return out


@pytest.mark.parametrize("block", [b for b in ALL if b.language == "python"], ids=str)
def test_python_runs(block, scored, monkeypatch, capsys):
    monkeypatch.chdir(scored)
    exec(compile(block.text, str(block), "exec"), {})


def test_architecture_names_files():
    text = (ROOT / "docs/architecture.md").read_text()
    named = set(re.findall(r"`([\w/]+(?:\.py|/))`", text))
    assert len(named) > 30
    missing = [f for f in named if not (ROOT / "digitsum" / f).exists() and not (ROOT / f).exists()]
    assert not missing


def test_csv_without_formulas(tmp_path, monkeypatch):
    [block] = [b for b in ALL if b.language == "python" and "to_csv" in b.text]
    formulas = ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "\n=1"]
    safe = ["a=1", "shard-0.parquet#1", "1-2", ""]
    part = tmp_path / "scores/model=a/shard"
    part.mkdir(parents=True)
    (tmp_path / "scores/CURRENT").write_text("model=a\n")
    ids = [*formulas, *safe]
    rows = {"image_id": ids, "predicted_sum": [1] * len(ids), "error": [None, *ids[1:]]}
    pd.DataFrame(rows).to_parquet(part / "0.parquet")
    monkeypatch.chdir(tmp_path)
    exec(compile(block.text, str(block), "exec"), {})
    written = pd.read_csv("scores.csv", dtype=str, keep_default_na=False, lineterminator="\n")
    assert len(written) == len(ids)
    for column in ("image_id", "error"):
        for cell in written[column]:
            assert not cell.lstrip(" \n").startswith(("=", "+", "-", "@", "\t", "\r")), cell
    assert written["image_id"].tolist()[-len(safe) :] == safe


@pytest.mark.parametrize("block", [b for b in ALL if b.language.startswith("python t")], ids=str)
def test_python_compiles(block):
    compile(block.text, str(block), "exec")


@pytest.mark.parametrize("block", [b for b in ALL if b.language == "yaml"], ids=str)
def test_yaml_fits_kubernetes(block):
    found = yaml.safe_load(block.text)
    if found["kind"] != "RayJob":
        kubernetes_validate.validate(found, KUBERNETES, strict=True)
        return
    # No registry has KubeRay's schema: check the pods in it, which are Kubernetes'.
    cluster = found["spec"]["rayClusterSpec"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}}
        kubernetes_validate.validate({**pod, "spec": group["template"]["spec"]}, KUBERNETES)


def test_readme_walk_through(tmp_path, monkeypatch, capsys):
    """Run the commands of "Use it on your own images", with a copied model for the trained one."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for number in range(2):
        np.save(f"data{number}.npy", rng.integers(256, size=(20, 40, 168), dtype=np.uint8))
        np.save(f"lab{number}.npy", rng.integers(37, size=20))
    folder = tmp_path / "folder"
    folder.mkdir()
    names = [f"{number}.png" for number in range(10)]
    for name in names:
        pixels = rng.integers(256, size=(40, 168), dtype=np.uint8)
        Image.fromarray(pixels, mode="L").save(folder / name)
    lines = ["image_id,digit_sum", *(f"{name},7" for name in names)]
    Path("sums.csv").write_text("\n".join(lines))
    shutil.make_archive("scans", "tar", folder)
    shutil.copytree(packaged_model(), "models/first")
    used = ROOT.joinpath("README.md").read_text()
    used = used[used.index("## Use it") : used.index("- **The network**")]
    own = [
        command
        for text in re.findall(r"```sh\n(.*?)```", used, re.DOTALL)
        for command in commands(text)
    ]
    assert [command[0] for command in own].count("score") == 2
    for command in own:
        if command[0] == "train":
            continue
        if command[0] == "synth":
            command = [*command, "--images", "300"]
        assert main(command) == 0, command
    assert Path("evaluation/report.html").exists()
    assert Path("scores/CURRENT").exists()
