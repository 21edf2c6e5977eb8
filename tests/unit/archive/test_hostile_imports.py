"""Hostile folders and tars of images, given to `digitsum import images`."""

import io
import os
import tarfile
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from digitsum.archive.import_images import MAX_FILE_BYTES, ImportImagesConfig, import_images
from digitsum.errors import InputError


def png(height: int = 8, width: int = 16) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((height, width), np.uint8)).save(stream, "PNG")
    return stream.getvalue()


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "folder").mkdir()
    return tmp_path / "folder"


@pytest.fixture
def refused(tmp_path) -> Callable[[Path], str]:
    """Import what is refused, check that there is no archive, and return the message."""

    def refused(source: Path) -> str:
        with pytest.raises(InputError) as raised:
            import_images(ImportImagesConfig(source=str(source), out=str(tmp_path / "out")))
        assert list((tmp_path / "out").glob("*")) == []
        return str(raised.value)

    return refused


def num_imported(source: Path) -> int:
    config = ImportImagesConfig(source=str(source), out=str(source.parent / "out"))
    return import_images(config).num_images


def tar_of(path: Path, *members: tuple[tarfile.TarInfo, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:
        for member, content in members:
            tar.addfile(member, io.BytesIO(content))
    return path


def member(name: str, content: bytes = b"", **fields) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, content


@pytest.mark.parametrize("is_tar", [False, True])
@pytest.mark.parametrize("side", [5_000, 12_000, 50_000])
def test_import_huge_image(side, is_tar, refused, folder, tmp_path):
    claim = bytearray(png())
    claim[16:24] = side.to_bytes(4, "big") * 2
    claim[29:33] = crc32(claim[12:29]).to_bytes(4, "big")
    (folder / "a.png").write_bytes(claim)
    tar = tar_of(tmp_path / "a.tar", member("a.png", claim))
    message = refused(tar if is_tar else folder)
    assert "a.png: image" in message
    assert f"{side}x{side}" in message or "bomb" in message


def test_import_huge_file(refused, folder):
    (folder / "a.png").touch()
    os.truncate(folder / "a.png", 2**40)  # sparse: it takes no disk
    assert "a.png: has 1,099,511,627,776 bytes, more than" in refused(folder)


def test_import_huge_member(refused, tmp_path):
    info, _ = member("a.png")
    info.size = 8 * 2**30 - 1
    (tmp_path / "a.tar").write_bytes(info.tobuf() + bytes(10_240))
    assert "not a whole tar" in refused(tmp_path / "a.tar")


def test_import_expanding_tar(refused, tmp_path):
    path = tar_of(tmp_path / "a.tgz", member("a.png", bytes(MAX_FILE_BYTES + 1)), mode="w:gz")
    assert path.stat().st_size < 2**20
    assert "more than the" in refused(path)


@pytest.mark.parametrize("name", ["../a.png", "/etc/a.png", "b/../../a.png", "..//a.png"])
def test_import_member_leads_out(name, refused, tmp_path):
    message = refused(tar_of(tmp_path / "a.tar", member(name, png())))
    assert "its name leads out of the tar" in message


def test_import_tar_links_devices(tmp_path):
    path = tar_of(
        tmp_path / "a.tar",
        member("link.png", type=tarfile.SYMTYPE, linkname="/etc/passwd"),
        member("hard.png", type=tarfile.LNKTYPE, linkname="../../secret.png"),
        member("device.png", type=tarfile.CHRTYPE, devmajor=1, devminor=5),
        member("pipe.png", type=tarfile.FIFOTYPE),
        member("a.png", png()),
    )
    assert num_imported(path) == 1


def test_import_link_leads_out(refused, folder, tmp_path):
    (tmp_path / "secret.png").write_bytes(png())
    (folder / "a.png").symlink_to(tmp_path / "secret.png")
    assert "a.png: is a link that leads out of the folder" in refused(folder)


def test_import_folder_pipes_circles(folder, tmp_path):
    (folder / "a.png").write_bytes(png())
    os.mkfifo(folder / "pipe.png")
    (folder / "device.png").symlink_to("/dev/zero")
    (folder / "nothing.png").symlink_to(tmp_path / "nothing")
    (folder / "circle").symlink_to(folder)
    (folder / "circle2").symlink_to(folder)
    assert num_imported(folder) == 1


def test_import_source_is_pipe(refused, tmp_path):
    os.mkfifo(tmp_path / "source.tar")
    assert "source.tar" in refused(tmp_path / "source.tar")


def test_import_large_row_groups(folder, tmp_path):
    for number in range(20):
        (folder / f"{number}.png").write_bytes(png(4096, 4096))
    assert num_imported(folder) == 20
    groups = pq.read_metadata(tmp_path / "out" / "shard-00000.parquet")
    assert max(groups.row_group(g).num_rows for g in range(groups.num_row_groups)) == 16
