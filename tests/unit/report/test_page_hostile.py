import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from digitsum.archive.synth import SynthConfig, synth
from digitsum.cli import main

SCRIPT = "<script>alert(1)<"  # with the tag's end wherever a name may hold a slash
IMAGE = "<img src=x onerror=alert(1)>\"'"
# What the template itself makes.
TAGS = re.compile(
    "html|head|meta|title|link|style|body|header|h1|p|main|section|h2|dl|div|dt|dd|svg|figure|img|"
    "figcaption|table|thead|tbody|tr|th|td|button|script|defs|metadata|g|path|use|text|clippath|rect|image"
)
FROM_RDF = re.compile("^(rdf|cc|dc):")  # matplotlib names itself in each SVG


class Elements(HTMLParser):
    """Collects the tags of a page, and what would be run or loaded."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text: list[str] = []
        self.active: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        for name, value in attrs:
            loads = name in ("src", "href") and not str(value).startswith("data:")
            if name.startswith("on") or (loads and tag != "use"):
                self.active.append(f"{tag} {name}={value}")

    def handle_data(self, data):
        self.text.append(data)


def check(page: str) -> str:
    """Fail if a page holds an element that is not the template's; return its text."""
    elements = Elements()
    elements.feed(page)
    assert [tag for tag in elements.tags if not (TAGS.fullmatch(tag) or FROM_RDF.match(tag))] == []
    assert elements.tags.count("script") == 1
    assert elements.active == []
    return "".join(elements.text)


@pytest.fixture(scope="module")
def scored(tmp_path_factory) -> Path:
    """Score, evaluate and compare, twice, an archive whose every name is hostile."""
    out = tmp_path_factory.mktemp("pages") / IMAGE
    archive = out / SCRIPT
    synth(SynthConfig(out=str(archive), images=60, shards=2))
    for number, path in enumerate(sorted(archive.glob("*.parquet"))):
        table = pq.read_table(path)
        ids = [f"{row}<script>alert({row})</script>{IMAGE}" for row in range(table.num_rows)]
        images = table["image"].to_pylist()
        images[0] = images[0][:-1]  # is rejected
        columns = {"image_id": ids, "image": pa.array(images, pa.binary())}
        columns["digit_sum"] = table["digit_sum"]
        pq.write_table(
            pa.table(columns).replace_schema_metadata(table.schema.metadata),
            archive / f"{number}{IMAGE}.parquet",
        )
        path.unlink()
    pq.write_table(pa.table({SCRIPT: [1], "image": [[SCRIPT]]}), archive / f"{SCRIPT}.parquet")
    use = ["--archive", str(archive), "--backend", "torch", "--executor", "threads"]
    rejected = ["--max-rejected", "90%"]
    assert main(["score", *use, "--scores", str(out / "scores"), *rejected]) == 0
    (archive / f"{SCRIPT}.parquet").unlink()
    assert main(["evaluate", *use, *rejected, "--report", str(out / "evaluation")]) == 0
    # A wrong known count gives other sums, beside the first.
    use += ["--known-count", "3"]
    assert main(["score", *use, "--scores", str(out / "scores"), *rejected]) == 0
    models = ["--models", *sorted(path.name for path in out.glob("scores/model=*"))]
    models += ["--report", str(out / "comparison")]
    places = ["--archive", str(archive), "--scores", str(out / "scores")]
    assert main(["compare", *places, *models]) == 0
    return out


@pytest.mark.parametrize(
    ("report", "texts"),
    [
        ("scores/_runs/score-*", [f"0<script>alert(0)</script>{IMAGE}", f"{SCRIPT}.parquet"]),
        ("evaluation", []),
        ("comparison", [f"<script>alert(1)</script>{IMAGE}"]),
    ],
    ids=["scoring run", "evaluation", "comparison"],
)
def test_report_hostile_names(scored, report, texts):
    page = min(scored.glob(f"{report}/report.html"))
    text = check(page.read_text())
    for expected in (str(scored / SCRIPT), *texts):
        assert expected in text


def test_report_hostile_manifest(scored, tmp_path):
    copy = tmp_path / IMAGE
    shutil.copytree(scored / "scores", copy)
    run = min(copy.glob("_runs/score-*"))
    manifest = json.loads((run / "manifest.json").read_text())
    hostile = f"{SCRIPT}/script>{IMAGE}"
    manifest |= {"run": hostile, "command": [hostile], "git_commit": hostile}
    manifest["versions"] = {hostile: hostile}
    manifest["outcome"] |= {"why_incomplete": hostile, "bottleneck": hostile}
    manifest["outcome"]["model_digest"] = hostile
    for chunk in manifest["outcome"]["chunks"]:
        chunk |= {"shard": hostile, "node": hostile, "backend": hostile}
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert main(["report", str(run)]) == 0
    assert check((run / "report.html").read_text()).count(hostile) > 6
