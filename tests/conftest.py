"""What all tests share: the environment Ray runs in, and a real S3 server."""

import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import pytest
from pyarrow import fs as pafs

# Before anything imports Ray: never join a cluster that happens to run, never phone home.
os.environ.setdefault("RAY_ADDRESS", "local")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

SERVER_START_S = 60


@pytest.fixture(scope="session")
def s3(tmp_path_factory) -> Iterator[dict[str, str]]:
    """Start the server with a bucket `images`; give the environment in which it is S3."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (tmp_path_factory.mktemp("s3") / "log").open("w")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        ended = time.monotonic() + SERVER_START_S
        while time.monotonic() < ended:
            try:
                urllib.request.urlopen(address, timeout=5)
                break
            except OSError:
                time.sleep(0.2)
        file_system(address).create_dir("images")
        yield os.environ | {
            "AWS_ENDPOINT_URL": address,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
    finally:
        server.terminate()
        server.wait(30)
        log.close()


def file_system(address: str) -> pafs.S3FileSystem:
    return pafs.S3FileSystem(
        access_key="testing",
        secret_key="testing",
        endpoint_override=address,
        region="us-east-1",
        allow_bucket_creation=True,
    )


@pytest.fixture
def s3_files(s3) -> pafs.S3FileSystem:
    """Open the server's files as another client would."""
    return file_system(s3["AWS_ENDPOINT_URL"])
