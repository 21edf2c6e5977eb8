"""A whole night on S3: it is complete, and none of its credentials is in a file or an output."""

import base64
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
from commands import ROOT, printed_json, run_digitsum, short_directory
from pyarrow import fs as pafs

from digitsum.cli import main

SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIASENTINELKEYID",
    "AWS_SECRET_ACCESS_KEY": "sentinel+secret/access=key",
    "AWS_SESSION_TOKEN": "sentinel-session-token-abcdef",
    "HF_TOKEN": "hf_sentinelTokenOfAnotherService",
    "MLFLOW_TRACKING_PASSWORD": "sentinel-tracking-password",
}
PROXY_PASSWORD = "sentinel-proxy-password"
ALL = [*SECRETS.values(), PROXY_PASSWORD]
IMAGES = 120


def spellings(secret: str) -> Iterator[bytes]:
    """Yield a secret as it may appear in a file: plain, as UTF-16, and in base64 at any offset."""
    plain = secret.encode()
    yield plain
    yield secret.encode("utf-16-le")
    for before in range(3):
        # The characters at both ends depend on the bytes beside the secret.
        yield base64.b64encode(bytes(before) + plain)[4:-4]


def secrets_in(content: bytes) -> list[str]:
    return [secret for secret in ALL if any(spelled in content for spelled in spellings(secret))]


def test_secrets_in_finds_each_spelling():
    for secret in ALL:
        for before in ("", "a", "ab", "abc"):
            text = f"{before}{secret}z"
            assert secrets_in(text.encode()) == [secret]
            assert secrets_in(text.encode("utf-16-le")) == [secret]
            assert secrets_in(base64.b64encode(text.encode())) == [secret]
    assert secrets_in(b"no secret") == []


def leaks(*directories: Path) -> dict[str, list[str]]:
    """Return the secrets in each file below directories; Parquet is read decompressed too."""
    files = [path for root in directories for path in root.rglob("*") if path.is_file()]
    assert files
    leaking = {}
    for path in files:
        content = path.read_bytes()
        if path.suffix == ".parquet":
            table = pq.read_table(path, partitioning=None)
            content += repr((table.schema, table.to_pylist())).encode()
        # The names of the file and of its directories count too.
        if secrets := secrets_in(content + str(path).encode()):
            leaking[str(path)] = secrets
    return leaking


@pytest.fixture(scope="module")
def environment(s3) -> Iterator[dict[str, str]]:
    """Give the environment of a user with credentials; Ray's session is below RAY_TMPDIR."""
    proxy = f"http://user:{PROXY_PASSWORD}@127.0.0.1:9"
    of_user = {
        "AWS_ENDPOINT_URL": s3["AWS_ENDPOINT_URL"],
        "AWS_REGION": "us-east-1",
        "HTTPS_PROXY": proxy,
        "https_proxy": proxy,
        "NO_PROXY": "127.0.0.1,localhost",
        "PYTHONPATH": str(ROOT),
    }
    inherited = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    with short_directory("ray-") as directory:
        yield inherited | SECRETS | of_user | {"RAY_TMPDIR": str(directory)}


class Night(NamedTuple):
    copy: Path
    """All that the commands wrote to S3, copied to disk."""
    session: Path
    output: str
    """All that the commands printed."""
    summaries: list[dict]
    """The JSON of two runs of scoring, one after the other."""


@pytest.fixture(scope="module")
def night(environment, s3_files, tmp_path_factory) -> Night:
    """Train, score, evaluate and inspect on S3, by threads and on Ray."""
    work = "s3://images/secrets"
    train = f"--archive {work}/archive --out {work}/models/one --name one --digits 1 --epochs 1"
    use = f"--archive {work}/archive --model {work}/models/one"
    outputs = [
        run_digitsum(command, environment)
        for command in (
            f"synth --out {work}/archive --images {IMAGES} --shards 2 --digits 1 --width 48",
            f"train {train} --batch-size 32",
            f"score {use} --scores {work}/threads --executor threads --json",
            f"score {use} --scores {work}/threads --executor threads --json",
            f"score {use} --scores {work}/ray --executor ray",
            f"evaluate {use} --report {work}/report --executor threads",
            f"inspect {work}/ray",
        )
    ]
    copy = tmp_path_factory.mktemp("night")
    pafs.copy_files(
        "images/secrets",
        str(copy),
        source_filesystem=s3_files,
        destination_filesystem=pafs.LocalFileSystem(),
    )
    summaries = [printed_json(output) for output in outputs[2:4]]
    return Night(copy, Path(environment["RAY_TMPDIR"]), "".join(outputs), summaries)


def test_night_leaves_no_secret(night):
    assert secrets_in(night.output.encode()) == []
    for pattern in ("ray/_runs/*/manifest.json", "ray/_runs/*/report.html", "models/one/*CARD.md"):
        assert list(night.copy.glob(pattern)), pattern
    assert list(night.copy.rglob("events.out.tfevents*"))
    assert list(night.session.rglob("raylet.out"))
    assert leaks(night.copy, night.session) == {}


def test_night_on_s3_is_complete(night):
    names = {path.name for path in (night.copy / "models/_runs/one").rglob("*")}
    assert {"curves.json", "report.html", "manifest.json", "optimized.safetensors"} <= names
    assert [summary["images"] for summary in night.summaries] == [IMAGES, 0]
    ids = ds.dataset(night.copy / "archive").to_table(columns=["image_id"])["image_id"].to_pylist()
    for executor in ("threads", "ray"):
        scores = night.copy / executor
        current = (scores / "CURRENT").read_text().strip()
        rows = ds.dataset(scores / current).to_table()
        assert rows["image_id"].to_pylist() == ids
        assert rows["predicted_sum"].null_count == 0


def test_refusing_store_keeps_its_secret(environment):
    refusing = environment | {"AWS_ENDPOINT_URL": f"http://user:{PROXY_PASSWORD}@127.0.0.1:9"}
    output = run_digitsum("inspect s3://images/none", refusing, code=2)
    assert output.startswith("digitsum: ")
    assert secrets_in(output.encode()) == []


@pytest.mark.parametrize(
    "uri",
    [
        f"s3://AKIA:{PROXY_PASSWORD}@images/a",
        f"s3://images/a?access_key=AKIA&secret_key={PROXY_PASSWORD}",
        f"s3://images/a?region=eu&X-Amz-Signature={PROXY_PASSWORD}",
        f"abfs://c@account.dfs.core.windows.net/a?sv=1&sig={PROXY_PASSWORD}",
    ],
)
@pytest.mark.parametrize(
    "command",
    [
        "score --archive {uri} --scores {out}/scores",
        "score --archive {archive} --scores {uri}",
        "score --archive {archive} --scores {out}/scores --model {uri}",
        "train --archive {uri} --out {out}/model",
        "train --archive {archive} --out {uri}",
        "evaluate --archive {uri} --report {out}/report",
        "synth --images 1 --out {uri}",
        "inspect {uri}",
        "report {uri}",
        "status {uri}",
    ],
)
def test_secret_in_uri_is_refused(command, uri, unlabelled, tmp_path, capfd):
    line = command.format(uri=uri, out=tmp_path / "out", archive=unlabelled)
    assert main(line.split()) == 2
    out, err = capfd.readouterr()
    assert err.startswith("digitsum: ")
    assert secrets_in((out + err).encode()) == []
    assert not (tmp_path / "out").exists()
