"""Places on any file system that `pyarrow.fs` opens: a local path, `s3://`, `gs://`, ..."""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

import pyarrow as pa
from pyarrow import fs as pafs

from digitsum.errors import InputError, StorageError, one_line

NAME_IS_NO_TEXT = "cannot be listed: the name of a file in it is no UTF-8; rename that file."
_MAY_PASS = {
    errno.EAGAIN,
    errno.EBUSY,
    errno.ECONNABORTED,
    errno.ECONNREFUSED,
    errno.ECONNRESET,
    errno.EHOSTUNREACH,
    errno.EINTR,
    errno.EIO,
    errno.ENETUNREACH,
    errno.ESTALE,
    errno.ETIMEDOUT,
}
# Object stores' errors carry no number; these are what pyarrow's S3 and GCS file systems say.
_SAID_IN_PASSING = (
    "AWS Error INTERNAL_FAILURE",
    "AWS Error NETWORK_CONNECTION",
    "AWS Error REQUEST_TIMEOUT",
    "AWS Error SERVICE_UNAVAILABLE",
    "AWS Error SLOW_DOWN",
    "AWS Error THROTTLING",
    "HTTP status 5",
    "DEADLINE_EXCEEDED",
    "UNAVAILABLE",
)
# What may be asked of a file system in a URI's query: how it is reached, and no secret. The others,
# such as Azure's `sig` and `client_secret`, would be written into manifests.
_PARAMETERS = {
    "allow_bucket_creation",
    "allow_bucket_deletion",
    "allow_delayed_open",
    "background_writes",
    "blob_storage_authority",
    "blob_storage_scheme",
    "check_directory_existence_before_creation",
    "dfs_storage_authority",
    "dfs_storage_scheme",
    "enable_tls",
    "endpoint_override",
    "project_id",
    "region",
    "replication",
    "retry_limit_seconds",
    "scheme",
    "smart_defaults",
    "tls_ca_dir_path",
    "tls_ca_file_path",
    "tls_verify_certificates",
}
# Before the @ of these stands a container, a user's name or `anonymous`.
_NAMED_BEFORE_HOST = ("abfs", "abfss", "gs", "gcs", "hdfs", "viewfs")
_BUCKETS = ("s3", "gs", "gcs")
_WHERE_SECRETS_GO = "give credentials by the environment instead, such as AWS_ACCESS_KEY_ID."


@dataclass(frozen=True)
class Location:
    """A file or directory: the URI a user gave, and what opens it."""

    uri: str
    filesystem: pafs.FileSystem
    path: str

    @property
    def is_local(self) -> bool:
        """Whether the place is on this machine's file system."""
        return isinstance(self.filesystem, pafs.LocalFileSystem)

    @property
    def name(self) -> str:
        """The last component of the path."""
        return self.path.rstrip("/").rsplit("/", 1)[-1]

    @property
    def parent(self) -> Location:
        """The directory that holds this place."""
        base, mark, query = self.uri.partition("?") if "://" in self.uri else (self.uri, "", "")
        uri = base.rstrip("/").rpartition("/")[0] if "://" in base else str(Path(self.path).parent)
        return Location(
            uri + mark + query, self.filesystem, self.path.rstrip("/").rpartition("/")[0]
        )

    def join(self, relative: str) -> Location:
        """Return the place `relative` (with `/` between components) below this one."""
        base, mark, query = self.uri.partition("?") if "://" in self.uri else (self.uri, "", "")
        return Location(
            f"{base.rstrip('/')}/{relative}{mark}{query}",
            self.filesystem,
            f"{self.path.rstrip('/')}/{relative}",
        )

    def info(self) -> pafs.FileInfo:
        """Return what the file system says of the place; its `type` is NotFound where absent."""
        try:
            return self.filesystem.get_file_info(self.path)
        except OSError as error:
            raise storage_error(f"{self.uri}: cannot be reached", error) from error

    def is_file(self) -> bool:
        """Whether a file is there."""
        return bool(self.info().type == pafs.FileType.File)

    def directories(self) -> list[str]:
        """Return the names of the directories right below this one; [] where it is absent."""
        return self._below(pafs.FileType.Directory)

    def files(self) -> list[str]:
        """Return the names of the files right below this directory; [] where it is absent."""
        return self._below(pafs.FileType.File)

    def _below(self, kind: pafs.FileType) -> list[str]:
        selector = pafs.FileSelector(self.path, allow_not_found=True)
        try:
            found = self.filesystem.get_file_info(selector)
            return sorted(info.base_name for info in found if info.type == kind)
        except OSError as error:
            raise storage_error(f"{self.uri}: cannot be listed", error) from error
        except UnicodeDecodeError as error:
            raise InputError(f"{self.uri}: {NAME_IS_NO_TEXT}") from error

    def check_directory(self) -> None:
        """Raise InputError where a file stands in the way of writing into a directory here."""
        if self.is_file():
            raise InputError(f"{self.uri}: is a file; give a directory to write into.")

    def check_below(self, relative: str) -> None:
        """Raise InputError where a link leads what is written at `relative` out of this directory.

        On a local file system. A link in the very place of a file is replaced, not followed.
        """
        if self.is_local:
            root, directory = self.path, self.join(relative).parent.path
            real = os.path.realpath(directory)
            if not f"{real}/".startswith(f"{os.path.realpath(root).rstrip('/')}/"):
                raise InputError(
                    f"{directory}: is or lies below a link that leads out of {self.uri}; remove it."
                )

    def read_bytes(self, most: int | None = None) -> bytes:
        """Return the whole content of a small file; raises InputError where it cannot be read.

        With `most`, also where it has more bytes than that, of which no more are read.
        """
        size = None if most is None else self._size_within(most)
        try:
            with self.filesystem.open_input_file(self.path) as stream:
                return bytes(stream.read(size))
        except OSError as error:
            raise storage_error(f"{self.uri}: cannot be read", error) from error

    def _size_within(self, most: int) -> int:
        info = self.info()
        if info.type != pafs.FileType.File:  # a pipe would be waited for
            raise InputError(f"{self.uri}: is missing, or no file; replace it.")
        if info.size > most:
            raise InputError(
                f"{self.uri}: has {info.size:,} bytes, more than the {most:,} that such a file can "
                "need; it is another one, or was damaged."
            )
        return int(info.size)


def locate(uri: str) -> Location:
    """Return the place that a path or URI names; raises InputError where nothing can open it.

    A plain path is made absolute, so that it means the same place in every process of a node.
    """
    if "://" not in uri:
        try:
            path = os.path.abspath(Path(uri).expanduser())  # noqa: PTH100 (it resolves `..`)
        except RuntimeError as error:
            raise InputError(f"{uri}: {one_line(error)}; give another path.") from error
        return Location(path, pafs.LocalFileSystem(), path)
    _check_without_secrets(uri)
    try:
        filesystem, path = pafs.FileSystem.from_uri(uri)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        shown = without_secrets(uri)
        said = one_line(error).replace(uri, shown)
        raise InputError(f"{shown}: not a path or URI that can be opened: {said}") from None
    return Location(uri, filesystem, path)


def without_secrets(uri: str) -> str:
    """Return a URI, for a message, without what may be a secret of it; a path as it is.

    That is what stands before its last @, its query and its fragment. A malformed URI, which may
    have its secret anywhere before the @, is shortened so too.
    """
    scheme, mark, rest = uri.partition("://")
    if not mark:
        return uri
    _, at, after = rest.rpartition("@")
    if at:
        rest = f"...@{after}"
    for end in "?#":
        rest, found, _ = rest.partition(end)
        if found:
            rest += f"{end}..."
    return f"{scheme}://{rest}"


def _check_without_secrets(uri: str) -> None:
    """Raise InputError where a URI holds what is, or may be, a secret; it is not repeated.

    Manifests, model cards, reports and logs name the places of a run.
    """
    shown = without_secrets(uri)
    try:
        parts = urlsplit(uri)
    except ValueError:
        raise InputError(f"{shown}: not a path or URI that can be opened.") from None
    before, at, host = parts.netloc.rpartition("@")
    is_name = not at or (parts.scheme in _NAMED_BEFORE_HOST and ":" not in unquote(before))
    # A bucket has no port: such a colon is that of a key and a secret with a slash in it.
    if not is_name or (parts.scheme in _BUCKETS and ":" in host):
        raise InputError(
            f"{shown}: a URI with a password or key in it would be written into manifests; "
            f"{_WHERE_SECRETS_GO}"
        )
    given = parse_qsl(parts.query, keep_blank_values=True)
    is_setting = all(name in _PARAMETERS and "@" not in value for name, value in given)
    if parts.fragment or not is_setting:
        raise InputError(
            f"{shown}: what follows ? or # in a URI is written into manifests, so that only what "
            "says how a store is reached is taken, such as region, scheme and endpoint_override; "
            f"{_WHERE_SECRETS_GO}"
        )


def storage_error(said: str, error: OSError) -> InputError:
    """Return what to raise for an OSError of a file system: a StorageError where it may pass."""
    may_pass = error.errno in _MAY_PASS
    if error.errno is None:
        may_pass = any(said in str(error) for said in _SAID_IN_PASSING)
    kind = StorageError if may_pass else InputError
    return kind(f"{said}: {one_line(error)}")
