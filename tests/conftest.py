"""Fixtures of all tests: Ray's environment, a real S3 server, and marks by file and directory."""

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
from commands import free_port, wait_until_up
from pyarrow import fs as pafs

# Before anything imports Ray: never join a cluster that happens to run, never phone home.
os.environ.setdefault("RAY_ADDRESS", "local")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

ALONE_FILES = {"test_killed", "test_kills_on_a_cluster", "test_soak", "test_cuda"}
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
    """Mark tests by their files; put the slow ones first, so that two processes end together.

    Tests of the shared Ray come last, because it runs on beside the Rays of later tests.
    """
    for item in items:
        directory, file = item.path.parent.name, item.path.stem
        if directory == "integration" or file in ALONE_FILES:
            item.add_marker(pytest.mark.alone)
        if directory == "faults" or file in SLOW_FILES or item.get_closest_marker("alone"):
            item.add_marker(pytest.mark.slow)
    items.sort(key=lambda item: "one_ray" in getattr(item, "fixturenames", ()))
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)


@pytest.fixture(scope="session")
def s3(tmp_path_factory) -> Iterator[dict[str, str]]:
    """Start the server with a bucket `images`; give the environment that reaches it."""
    port = free_port()
    log = tmp_path_factory.mktemp("s3") / "log"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with log.open("w") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output)
    address = f"http://127.0.0.1:{port}"
    try:
        wait_until_up(address, server, log)
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
