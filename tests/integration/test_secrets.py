"""Credentials that a run is given stand in no file that it leaves, and in nothing that it says."""

import base64
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyarrow import fs as pafs

from digitsum.cli import main

ROOT = Path(__file__).parents[2]
SECRETS = {
    "AWS_ACCESS_KEY_ID": "AKIASENTINELKEYID",
    "AWS_SECRET_ACCESS_KEY": "sentinel+secret/access=key",
    "AWS_SESSION_TOKEN": "sentinel-session-token-abcdef",
    "HF_TOKEN": "hf_sentinelTokenOfAnotherService",
    "MLFLOW_TRACKING_PASSWORD": "sentinel-tracking-password",
}
PROXY_PASSWORD = "sentinel-proxy-password"
ALL = [*SECRETS.values(), PROXY_PASSWORD]


def spellings(secret: str) -> Iterator[bytes]:
    """Yield how a secret may stand in a file: as it is, as UTF-16, and in base64 at any place."""
    plain = secret.encode()
    yield plain
    yield secret.encode("utf-16-le")
    for before in range(3):
        # The characters at both ends depend on what stands beside the secret.
        yield base64.b64encode(bytes(before) + plain)[4:-4]


def found_in(content: bytes) -> list[str]:
    return [secret for secret in ALL if any(spelled in content for spelled in spellings(secret))]


def test_what_looks_for_secrets_finds_them():
    for secret in ALL:
        for before in ("", "a", "ab", "abc"):
            text = f"{before}{secret}z"
            assert found_in(text.encode()) == [secret]
            assert found_in(text.encode("utf-16-le")) == [secret]
            assert found_in(base64.b64encode(text.encode())) == [secret]
    assert found_in(b"nothing of the kind") == []


def leaks(*places: Path) -> dict[str, list[str]]:
    """Return the secrets in each file below some places, in Parquet also in what is compressed."""
    files = [path for place in places for path in place.rglob("*") if path.is_file()]
    assert files
    found = {}
    for path in files:
        content = path.read_bytes()
        if path.suffix == ".parquet":
            table = pq.read_table(path, partitioning=None)
            content += repr((table.schema, table.to_pylist())).encode()
        # With the file's own name, and those of the directories above it.
        if secrets := found_in(content + str(path).encode()):
            found[str(path)] = secrets
    return found


@pytest.fixture(scope="module")
def environment(s3) -> Iterator[dict[str, str]]:
    """Give the environment of a user with credentials; Ray's session lies in RAY_TMPDIR."""
    # A short path, for Ray's sockets lie below it and may have 107 characters.
    directory = Path(tempfile.mkdtemp(prefix="ray-"))
    proxy = f"http://user:{PROXY_PASSWORD}@127.0.0.1:9"
    reached = {"AWS_ENDPOINT_URL": s3["AWS_ENDPOINT_URL"], "AWS_REGION": "us-east-1"}
    of_user = {"HTTPS_PROXY": proxy, "https_proxy": proxy, "NO_PROXY": "127.0.0.1,localhost"}
    own = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    try:
        yield (
            own
            | reached
            | SECRETS
            | of_user
            | {
                "PYTHONPATH": str(ROOT),
                "RAY_TMPDIR": str(directory),
            }
        )
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def run(environment: dict[str, str], command: str, code: int = 0) -> bytes:
    line = [sys.executable, "-m", "digitsum", *command.split()]
    done = subprocess.run(line, env=environment, capture_output=True, timeout=300)
    said = done.stdout + done.stderr
    assert done.returncode == code, said.decode(errors="replace")
    return said


@pytest.fixture(scope="module")
def copied(s3) -> pafs.S3FileSystem:
    return pafs.S3FileSystem(
        access_key="testing",
        secret_key="testing",
        endpoint_override=s3["AWS_ENDPOINT_URL"],
        region="us-east-1",
    )


@pytest.mark.timeout(1200)
def test_a_night_leaves_no_secret_anywhere(environment, copied, tmp_path):
    """Archive, scores, runs, model, reports, event files, Ray's session, and what is printed."""
    work = "s3://images/secrets"
    said = run(environment, f"synth --out {work}/archive --images 120 --shards 2 --digits 1")
    train = f"train --archive {work}/archive --digits 1 --out {work}/model --name one"
    said += run(environment, f"{train} --epochs 1 --batch-size 32")
    use = f"--archive {work}/archive --model {work}/model"
    said += run(environment, f"score {use} --scores {work}/threads --executor threads")
    said += run(environment, f"score {use} --scores {work}/ray --executor ray")
    said += run(environment, f"evaluate {use} --report {work}/report --executor threads")
    said += run(environment, f"inspect {work}/ray")
    assert found_in(said) == []
    pafs.copy_files(
        "images/secrets",
        str(tmp_path),
        source_filesystem=copied,
        destination_filesystem=pafs.LocalFileSystem(),
    )
    for leaf in ("ray/_runs/*/manifest.json", "ray/_runs/*/report.html", "model/MODEL_CARD.md"):
        assert list(tmp_path.glob(leaf)), leaf
    assert list(tmp_path.rglob("events.out.tfevents*"))
    session = Path(environment["RAY_TMPDIR"])
    assert list(session.rglob("raylet.out"))
    assert leaks(tmp_path, session) == {}


def test_a_store_that_refuses_is_told_of_without_its_credentials(environment, tmp_path):
    refused = environment | {"AWS_ENDPOINT_URL": f"http://user:{PROXY_PASSWORD}@127.0.0.1:9"}
    said = run(refused, "inspect s3://images/none", code=2)
    assert said.startswith(b"digitsum: ")
    assert found_in(said) == []


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
def test_a_secret_in_a_uri_ends_a_command_before_anything_is_written(
    command, uri, unlabelled, tmp_path, capfd
):
    line = command.format(uri=uri, out=tmp_path / "out", archive=unlabelled)
    assert main(line.split()) == 2
    out, err = capfd.readouterr()
    assert err.startswith("digitsum: ")
    assert found_in((out + err).encode()) == []
    assert not (tmp_path / "out").exists()
