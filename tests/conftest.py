"""Fixtures of all tests: the environment that Ray starts in, a real S3 server, and how tests are
spread over processes.
"""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import pytest
from commands import free_port
from pyarrow import fs as pafs

# Before anything imports Ray: never join a cluster that happens to run, never phone home.
os.environ.setdefault("RAY_ADDRESS", "local")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

SERVER_START_S = 120
SLOW_DIRECTORIES = {"integration", "faults"}
SLOW_FILES = {  # of the unit tests: more than nine CPU seconds each, 210 of 310 in all
    "test_cascade",
    "test_drift_of_images",
    "test_hostile_images",
    "test_model_validation",
    "test_openvino_backend",
    "test_options",
    "test_weight_averaging",
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests by their directory; keep in one process those that share something slow.

    `make test` runs two processes: the tests on the shared Ray in one of them, every other file as
    a whole in either, the slowest first, so that both end at about the same time.
    """
    for item in items:
        directory = item.path.parent.name
        if directory in SLOW_DIRECTORIES or item.path.stem in SLOW_FILES:
            item.add_marker(pytest.mark.slow)
        if directory == "faults":
            item.add_marker(pytest.mark.faults)
        on_ray = "one_ray" in getattr(item, "fixturenames", ())
        item.add_marker(
            pytest.mark.xdist_group("ray" if on_ray else f"{directory}/{item.path.stem}")
        )
    items.sort(key=_order)


def _order(item: pytest.Item) -> int:
    groups = [mark.args[0] for mark in item.iter_markers("xdist_group")]
    return 0 if "ray" in groups else 1 if item.get_closest_marker("slow") else 2


@pytest.fixture(scope="session")
def s3(tmp_path_factory) -> Iterator[dict[str, str]]:
    """Start the server with a bucket `images`; give the environment that reaches it."""
    port = free_port()
    log = (tmp_path_factory.mktemp("s3") / "log").open("w")
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + SERVER_START_S
        while time.monotonic() < deadline:
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


@pytest.fixture(scope="session")
def s3_files(s3) -> pafs.S3FileSystem:
    """Open the server's files as another client would."""
    return file_system(s3["AWS_ENDPOINT_URL"])


def file_system(address: str) -> pafs.S3FileSystem:
    return pafs.S3FileSystem(
        access_key="testing",
        secret_key="testing",
        endpoint_override=address,
        region="us-east-1",
        allow_bucket_creation=True,
    )
