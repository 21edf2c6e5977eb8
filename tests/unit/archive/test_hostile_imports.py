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
from digitsum.cli import main
from digitsum.errors import InputError


def png(height: int = 8, width: int = 16) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((height, width), np.uint8)).save(stream, "PNG")
    return stream.getvalue()


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


def both(tmp_path: Path, data: bytes) -> list[Path]:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.png").write_bytes(data)
    return [tmp_path / "folder", tar_of(tmp_path / "a.tar", member("a.png", data))]


def claiming(height: int, width: int) -> bytes:
    data = bytearray(png())
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize("side", [5_000, 12_000, 50_000])
def test_import_huge_image(side, refused, tmp_path):
    for source in both(tmp_path, claiming(side, side)):
        message = refused(source)
        assert "a.png: image" in message
        assert f"{side}x{side}" in message or "bomb" in message


def test_import_huge_file(refused, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.png").touch()
    os.truncate(tmp_path / "folder" / "a.png", 2**40)  # sparse: it takes no disk
    assert "a.png: has 1,099,511,627,776 bytes, more than" in refused(tmp_path / "folder")


def test_import_huge_member(refused, tmp_path):
    path = tmp_path / "a.tar"
    info = tarfile.TarInfo("a.png")
    info.size = 8 * 2**30 - 1
    path.write_bytes(info.tobuf() + bytes(10_240))
    assert "not a whole tar" in refused(path)


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


def test_import_link_leads_out(refused, tmp_path):
    (tmp_path / "secret.png").write_bytes(png())
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.png").symlink_to(tmp_path / "secret.png")
    assert "a.png: is a link that leads out of the folder" in refused(tmp_path / "folder")


def test_import_folder_pipes_circles(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
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


def test_import_large_row_groups(tmp_path):
    (tmp_path / "folder").mkdir()
    for number in range(20):
        (tmp_path / "folder" / f"{number}.png").write_bytes(png(4096, 4096))
    command = f"import images {tmp_path}/folder --out {tmp_path}/out"
    assert main(command.split()) == 0
    groups = pq.read_metadata(tmp_path / "out" / "shard-00000.parquet")
    assert groups.num_rows == 20
    assert max(groups.row_group(g).num_rows for g in range(groups.num_row_groups)) == 16
