"""Locations on any file system that `pyarrow.fs` opens: a local path, `s3://`, `gs://`, ..."""

from __future__ import annotations

import errno
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit

import pyarrow as pa
from pyarrow import fs as pafs

from digitsum.errors import InputError, StorageError, one_line

NAME_NOT_UTF8 = "cannot be listed: a file in it has a name that is not UTF-8; rename that file."
_TRANSIENT_ERRORS = {
    *(errno.EAGAIN, errno.EBUSY, errno.EINTR, errno.EIO, errno.ESTALE, errno.ETIMEDOUT),
    *(errno.ECONNABORTED, errno.ECONNREFUSED, errno.ECONNRESET),
    *(errno.EHOSTUNREACH, errno.ENETUNREACH),
}
# Errors of object stores have no number; these are in the messages of pyarrow's S3 and GCS.
_TRANSIENT_MESSAGES = (
    *("AWS Error INTERNAL_FAILURE", "AWS Error NETWORK_CONNECTION", "AWS Error REQUEST_TIMEOUT"),
    *("AWS Error SERVICE_UNAVAILABLE", "AWS Error SLOW_DOWN", "AWS Error THROTTLING"),
    *("HTTP status 5", "DEADLINE_EXCEEDED", "UNAVAILABLE"),
)
# Query parameters that say how a store is reached and hold no secret. Others, such as Azure's
# `sig` and `client_secret`, would be written into manifests.
_SAFE_PARAMETERS = """
allow_bucket_creation allow_bucket_deletion allow_delayed_open background_writes
blob_storage_authority blob_storage_scheme check_directory_existence_before_creation
dfs_storage_authority dfs_storage_scheme enable_tls endpoint_override project_id region
replication retry_limit_seconds scheme smart_defaults tls_ca_dir_path tls_ca_file_path
tls_verify_certificates
"""
# In these a container, a user's name or `anonymous` may stand before the @.
_NAMED_BEFORE_HOST = ("abfs", "abfss", "gs", "gcs", "hdfs", "viewfs")
_BUCKETS = ("s3", "gs", "gcs")
_GIVE_CREDENTIALS = "give credentials by the environment instead, such as AWS_ACCESS_KEY_ID."


@dataclass(frozen=True)
class Location:
    """A file or directory: the URI that the user gave, and what opens it."""

    uri: str
    filesystem: pafs.FileSystem
    path: str

    @property
    def is_local(self) -> bool:
        """True if this is on this machine's file system."""
        return isinstance(self.filesystem, pafs.LocalFileSystem)

    @property
    def name(self) -> str:
        """Last component of the path."""
        return self.path.rstrip("/").rsplit("/", 1)[-1]

    @property
    def parent(self) -> Location:
        """Directory that contains this location."""
        path = self.path.rstrip("/").rpartition("/")[0]
        base, query = self._split_uri()
        uri = base.rpartition("/")[0] if "://" in base else str(Path(self.path).parent)
        return Location(uri + query, self.filesystem, path)

    def join(self, relative: str) -> Location:
        """Return the location `relative` (with `/` between components) below this one."""
        base, query = self._split_uri()
        path = f"{self.path.rstrip('/')}/{relative}"
        return Location(f"{base}/{relative}{query}", self.filesystem, path)

    def _split_uri(self) -> tuple[str, str]:
        """Return the URI without its query and last `/`, and its query; a path has none."""
        base, mark, query = self.uri.partition("?") if "://" in self.uri else (self.uri, "", "")
        return base.rstrip("/"), mark + query

    def info(self) -> pafs.FileInfo:
        """Return what the file system knows; `type` is NotFound if nothing is there."""
        try:
            return self.filesystem.get_file_info(self.path)
        except OSError as error:
            raise storage_error(f"{self.uri}: cannot be reached", error) from error

    def is_file(self) -> bool:
        """Return whether a file is there."""
        return bool(self.info().type == pafs.FileType.File)

    def directories(self) -> list[str]:
        """Return the names of the directories directly in this one; [] if it is absent."""
        return self.files(pafs.FileType.Directory)

    def files(self, kind: pafs.FileType = pafs.FileType.File) -> list[str]:
        """Return the names of the files directly in this directory; [] if it is absent."""
        selector = pafs.FileSelector(self.path, allow_not_found=True)
        try:
            infos = self.filesystem.get_file_info(selector)
            return sorted(info.base_name for info in infos if info.type == kind)
        except OSError as error:
            raise storage_error(f"{self.uri}: cannot be listed", error) from error
        except UnicodeDecodeError as error:
            raise InputError(f"{self.uri}: {NAME_NOT_UTF8}") from error

    def check_directory(self) -> None:
        """Raise InputError if this is a file, so that no directory can be written here."""
        if self.is_file():
            raise InputError(f"{self.uri}: is a file; give a directory to write into.")

    def check_below(self, relative: str) -> None:
        """Raise InputError if a local link leads what is written at `relative` out of here.

        A link in place of the file itself is allowed: it is replaced, not followed.
        """
        if self.is_local:
            directory = self.join(relative).parent.path
            root = os.path.realpath(self.path).rstrip("/")
            if not f"{os.path.realpath(directory)}/".startswith(f"{root}/"):
                raise InputError(
                    f"{directory}: is, or is below, a link that leads out of {self.uri}; remove it."
                )

    def read_bytes(self, most: int | None = None) -> bytes:
        """Return the content of a small file.

        Raises InputError if it cannot be read; unread, if it has more than `most` bytes.
        """
        size = None
        if most is not None:
            info = self.info()
            size = info.size
            if info.type != pafs.FileType.File:  # opening a pipe would block
                raise InputError(f"{self.uri}: is missing, or is not a file; replace it.")
            if size > most:
                raise InputError(
                    f"{self.uri}: has {size:,} bytes, but such a file has at most {most:,}; it is "
                    "damaged or another file: replace it."
                )
        try:
            with self.filesystem.open_input_file(self.path) as stream:
                return bytes(stream.read(size))
        except OSError as error:
            raise storage_error(f"{self.uri}: cannot be read", error) from error


def locate(uri: str) -> Location:
    """Return the location of a path or URI; raises InputError if nothing can open it.

    A plain path is made absolute, so it means the same in every process of a node.
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
        shown = _without_secrets(uri)
        reason = one_line(error).replace(uri, shown)
        raise InputError(f"{shown}: not a path or URI that can be opened: {reason}") from None
    return Location(uri, filesystem, path)


def _without_secrets(uri: str) -> str:
    """Return a URI for a message, without its query, its fragment and what is before its last @.

    A malformed URI, too, keeps nothing before its last @.
    """
    without_user = re.sub(r"://.*@", "://...@", uri, flags=re.DOTALL)
    return re.sub(r"([?#]).*", r"\1...", without_user, flags=re.DOTALL)


def _check_without_secrets(uri: str) -> None:
    """Raise InputError, without repeating it, if a URI holds what may be a secret."""
    shown = _without_secrets(uri)
    try:
        parts = urlsplit(uri)
    except ValueError:
        raise InputError(f"{shown}: not a path or URI that can be opened.") from None
    before, at, host = parts.netloc.rpartition("@")
    is_name = not at or (parts.scheme in _NAMED_BEFORE_HOST and ":" not in unquote(before))
    # A bucket has no port: a colon there divides a key from a secret that contains a slash.
    if not is_name or (parts.scheme in _BUCKETS and ":" in host):
        raise InputError(
            f"{shown}: manifests would record the password or key in this URI; {_GIVE_CREDENTIALS}"
        )
    given = parse_qsl(parts.query, keep_blank_values=True)
    is_safe = all(name in _SAFE_PARAMETERS.split() and "@" not in value for name, value in given)
    if parts.fragment or not is_safe:
        raise InputError(
            f"{shown}: manifests would record what follows ? or # in this URI, so only parameters "
            "that say how a store is reached are allowed, such as region, scheme and "
            f"endpoint_override; {_GIVE_CREDENTIALS}"
        )


def storage_error(message: str, error: OSError) -> InputError:
    """Return what to raise for a file system's OSError: a StorageError if it may pass."""
    is_transient = error.errno in _TRANSIENT_ERRORS
    if error.errno is None:
        is_transient = any(text in str(error) for text in _TRANSIENT_MESSAGES)
    kind = StorageError if is_transient else InputError
    return kind(f"{message}: {one_line(error)}")
