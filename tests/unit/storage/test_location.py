import errno
import traceback
from pathlib import Path

import pytest
from pyarrow import fs as pafs

from digitsum.archive.parquet.files import open_parquet
from digitsum.errors import InputError, StorageError
from digitsum.storage.atomic_write import publish_bytes
from digitsum.storage.listing import list_parquet
from digitsum.storage.location import Location, locate, storage_error


@pytest.mark.parametrize("path", ["a/b c", "~/a/b c", "./x/../a/b c", "file://{}/a/b%20c"])
def test_locate_path(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    place = locate(path.format(tmp_path))
    assert place.path == str(tmp_path / "a" / "b c")
    assert place.uri == (place.path if "://" not in path else path.format(tmp_path))
    assert place.is_local


@pytest.mark.parametrize("uri", ["nosuch://bucket/a", "s3:// bucket", "file://elsewhere/a"])
def test_locate_unknown_uri(uri):
    with pytest.raises(InputError, match=f"^{uri}: "):
        locate(uri)


@pytest.mark.parametrize(
    ("given", "joined"),
    [
        ("s3://bucket/a", "s3://bucket/a/b/c.parquet"),
        ("s3://bucket/a/", "s3://bucket/a/b/c.parquet"),
        ("s3://bucket/a?region=eu", "s3://bucket/a/b/c.parquet?region=eu"),
    ],
)
def test_join_and_parent_keep_query(given, joined):
    store = pafs.SubTreeFileSystem("/", pafs.LocalFileSystem())
    place = Location(given, store, "bucket/a").join("b/c.parquet")
    assert (place.uri, place.path) == (joined, "bucket/a/b/c.parquet")
    assert place.name == "c.parquet"
    back = place.parent.parent
    assert (back.uri, back.path) == (given.replace("a/", "a"), "bucket/a")
    assert not back.is_local


@pytest.mark.parametrize("name", ["plain", "a b", "what?", "50%", "a#b", "x=1"])
def test_parent_inverts_join(name, tmp_path):
    directory = locate(str(tmp_path / name))
    place = directory.join("a.parquet")
    assert place.path == place.uri == str(tmp_path / name / "a.parquet")
    assert (place.parent.path, place.parent.uri) == (directory.path, directory.uri)


def test_parent_of_root_entry():
    parent = locate("/a.parquet").parent
    assert parent.join("b").path == "/b"
    assert locate(parent.uri).path == str(Path("/"))


def test_is_file(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    directory = locate(str(tmp_path))
    assert directory.join("file").is_file()
    assert directory.join("file").read_bytes() == b"content"
    assert not directory.is_file()
    assert not directory.join("nothing").is_file()
    with pytest.raises(InputError, match=r"nothing: cannot be read"):
        directory.join("nothing").read_bytes()


AZURE = "abfs://container@account.dfs.core.windows.net/archive"


# Each contains the secret `hidden-word`; pyarrow opens some of them.
@pytest.mark.parametrize(
    "uri",
    [
        "s3://key:hidden-word@bucket/archive",
        "s3://key%3Ahidden-word@bucket/archive",
        "s3://hidden-word@bucket/archive",
        "s3://key:hidden-word/with/slash@bucket/archive",
        "s3://key:12/hidden-word@bucket/archive",
        "s3://key:hidden-word with blank@bucket/archive",
        "s3://key:hidden-word?#@bucket/archive",
        "S3://key:hidden-word@bucket/archive",
        "s3://bucket/archive?access_key=AKIA&secret_key=hidden-word",
        "s3://bucket/archive?region=eu&session_token=hidden-word",
        "s3://bucket/archive?hidden-word",
        "s3://bucket/archive?X-Amz-Credential=a&X-Amz-Signature=hidden-word",
        "s3://bucket/archive?endpoint_override=http://user:hidden-word@host&region=eu",
        "s3://bucket/archive?endpoint_override=http%3A%2F%2Fuser%3Ahidden-word%40host&region=eu",
        "s3://bucket/archive#hidden-word",
        "gs://hidden-word@bucket/archive",
        "gs://anonymous@bucket/archive?access_token=hidden-word",
        "abfs://account:hidden-word@account.dfs.core.windows.net/container",
        f"{AZURE}?sv=2024-11-04&sig=hidden-word",
        f"{AZURE}?tenant_id=a&client_id=b&client_secret=hidden-word",
        "hdfs://user@host:8020/archive?kerb_ticket=hidden-word",
        "https://host/archive.parquet?X-Amz-Signature=hidden-word",
        "https://hidden-word@host/archive",
        "https://user:hidden-word@host/archive",
        "nosuch://user:hidden-word@host/archive",
        "file:///archive?token=hidden-word",
        "s3://[hidden-word@bucket/archive",
    ],
)
def test_locate_refuses_secrets(uri):
    with pytest.raises(InputError) as refusal:
        locate(uri)
    shown = "".join(traceback.format_exception(refusal.value))
    assert "hidden-word" not in shown.replace(f'locate("{uri}")', "")


@pytest.mark.parametrize(
    "uri",
    [
        "s3://bucket/archive?region=eu-central-1&scheme=http&endpoint_override=localhost:9000",
        "s3://bucket/a@b?region=eu-central-1&allow_bucket_creation=true",
        "gs://anonymous@bucket/archive?retry_limit_seconds=3",
        AZURE,
        f"{AZURE}?enable_tls=false",
    ],
)
def test_locate_safe_parameters(uri):
    place = locate(uri)
    assert place.uri == uri
    assert not place.is_local


ERRNO_TRANSIENT = ["EIO", "ETIMEDOUT", "ECONNRESET", "EAGAIN", "ESTALE", "EBUSY"]
ERRNO_PERMANENT = ["ENOENT", "EACCES", "ENOSPC", "EROFS", "ENOTDIR", "EISDIR"]
TRANSIENT = [
    *[OSError(getattr(errno, name), name) for name in ERRNO_TRANSIENT],
    OSError("AWS Error NETWORK_CONNECTION during HeadObject operation: curlCode: 7"),
    OSError("AWS Error SLOW_DOWN during PutObject operation: reduce your rate"),
    OSError("AWS Error SERVICE_UNAVAILABLE (HTTP status 503) during GetObject"),
    OSError("AWS Error INTERNAL_FAILURE (HTTP status 500) during ListObjectsV2"),
    OSError("google::cloud::Status(UNAVAILABLE: try again)"),
]
PERMANENT = [
    *[OSError(getattr(errno, name), name) for name in ERRNO_PERMANENT],
    OSError("AWS Error ACCESS_DENIED during HeadObject operation: No response body."),
    OSError("AWS Error NO_SUCH_BUCKET during ListObjectsV2 operation"),
    OSError("Couldn't deserialize thrift: TProtocolException"),
    OSError(""),
    OSError(errno.ENOENT, "AWS Error SLOW_DOWN"),  # the number decides
]


@pytest.mark.parametrize("error", TRANSIENT + PERMANENT, ids=str)
def test_storage_error_kind(error):
    kind = StorageError if error in TRANSIENT else InputError
    assert type(storage_error("s3://bucket/a: cannot be read", error)) is kind


def test_storage_error_message():
    error = storage_error("s3://bucket/a: cannot be read", OSError("one\n  two"))
    assert str(error) == "s3://bucket/a: cannot be read: one two"


class Refusing(pafs.FileSystemHandler):
    """A file system that refuses everything for a reason that may pass."""

    def refuse(self, *_arguments, **_named):
        raise OSError(errno.ETIMEDOUT, "timed out")

    def get_type_name(self):
        return "refusing"

    def normalize_path(self, path):
        return path

    get_file_info = get_file_info_selector = open_input_file = open_input_stream = refuse
    create_dir = copy_file = delete_dir = delete_dir_contents = delete_file = refuse
    delete_root_dir_contents = move = open_append_stream = open_output_stream = refuse


ASK = {
    "info": Location.info,
    "is_file": Location.is_file,
    "check_directory": Location.check_directory,
    "directories": Location.directories,
    "read_bytes": Location.read_bytes,
    "list": lambda place: list_parquet(place, ""),
    "list below": lambda place: list_parquet(place, "below"),
    "open": open_parquet,
    "publish": lambda place: publish_bytes(b"x", place),
}


@pytest.mark.parametrize("ask", ASK.values(), ids=ASK)
def test_refusal_for_now_is_storage_error(ask):
    place = Location("store://bucket/a", pafs.PyFileSystem(Refusing()), "bucket/a")
    with pytest.raises(StorageError, match=r"^store://bucket/a.*: cannot be .*timed out"):
        ask(place)
