import io
import json
import os
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
import torch

from digitsum.cli import main
from digitsum.errors import InputError
from digitsum.model import import_model as import_module
from digitsum.model.baseline import PIXEL_SCALE, BaselineConfig, BaselineNetwork
from digitsum.model.import_model import ImportModelConfig, import_model
from digitsum.model.saved_model import load_model

SMALL = {"height": 16, "width": 24}
MIB = 2**20


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return dict(BaselineNetwork(BaselineConfig(**SMALL, num_digits=2)).state_dict())


@pytest.fixture
def refusal(tmp_path) -> Callable[..., str]:
    """Import bytes, a state, or what is already at model.pth; check that it fails without trace."""

    def refusal(content: object = None, **options: Any) -> str:
        if isinstance(content, bytes):
            (tmp_path / "model.pth").write_bytes(content)
        elif content is not None:
            torch.save(content, tmp_path / "model.pth")
        weights, out = str(tmp_path / "model.pth"), str(tmp_path / "model")
        config = ImportModelConfig(weights=weights, out=out, **(SMALL | options))
        with pytest.raises(InputError) as raised:
            import_model(config)
        assert not (tmp_path / "model").exists()
        return str(raised.value)

    return refusal


def test_import_of_the_papers_network(tmp_path):
    torch.manual_seed(1)
    network = BaselineNetwork(BaselineConfig()).eval()
    torch.save(network.state_dict(), tmp_path / "model.pth")
    model = str(tmp_path / "model")
    digest = import_model(ImportModelConfig(weights=str(tmp_path / "model.pth"), out=model))
    imported = load_model(model)
    images = torch.rand(2, 1, 40, 168)
    with torch.inference_mode():
        assert torch.equal(imported.network(images), network(images))
    assert imported.digest == digest
    assert imported.network.config == BaselineConfig()
    assert imported.pixel_scale == PIXEL_SCALE


@pytest.mark.parametrize("zipped", [True, False])
def test_import_of_sizes_and_scale(tmp_path, state, zipped):
    weights, model = tmp_path / "model.pth", tmp_path / "model"
    torch.save(state, weights, _use_new_zipfile_serialization=zipped)
    import_model(ImportModelConfig(weights=str(weights), out=str(model), **SMALL, pixel_scale=0.5))
    imported = load_model(str(model))
    assert imported.network.config == BaselineConfig(16, 24, 2)
    assert imported.pixel_scale == 0.5
    assert all(torch.equal(imported.network.state_dict()[name], state[name]) for name in state)
    assert "model.pth" in (model / "MODEL_CARD.md").read_text()
    assert json.loads((model / "metrics.json").read_text()) == {}


def test_pickle_bomb(bomb, tmp_path, capsys):
    content, has_exploded = bomb
    weights, model = tmp_path / "model.pth", tmp_path / "model"
    weights.write_bytes(content)
    assert main(["import", "model", str(weights), "--out", str(model)]) == 2
    assert "not a state dict of plain tensors" in capsys.readouterr().err
    assert not model.exists()
    assert not has_exploded()


def test_missing_and_unknown_keys(refusal, state):
    assert "fc3.bias" in refusal(state | {"fc3.bias": torch.zeros(3)})
    for name in ("conv1.weight", "fc2.bias"):
        assert name in refusal({key: value for key, value in state.items() if key != name})


@pytest.mark.parametrize("content", [[1], torch.zeros(3), "weights", {}], ids=str)
def test_not_a_state_dict(refusal, content):
    assert "model.pth" in refusal(content)
    assert "state_dict()" in refusal(BaselineNetwork(BaselineConfig(**SMALL)))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda t: [0.0] * 32, "'conv2.bias' is list"),
        (lambda t: torch.full_like(t, float("nan")), "'conv2.bias' holds NaN or infinity"),
        (lambda t: torch.full_like(t.double(), 1e300), "'conv2.bias' holds NaN or infinity"),
        (lambda t: t.to(torch.int8), "'conv2.bias' is torch.int8"),
        (lambda t: t.to(torch.bool), "'conv2.bias' is torch.bool"),
        (lambda t: t.to_sparse(), "'conv2.bias' is torch.float32"),
        (lambda t: t.new_zeros(1).expand(10**12), "size mismatch for conv2.bias"),
        (lambda t: "os.system", "'conv2.bias' is str"),
    ],
)
def test_tensor_that_is_not_plain_numbers(refusal, state, change, reason):
    assert reason in refusal(state | {"conv2.bias": change(state["conv2.bias"])})


@pytest.mark.parametrize("num_classes", [2, 18, 20, 36])
def test_classes_that_are_not_sums(refusal, state, num_classes):
    head = {"fc2.bias": torch.zeros(num_classes), "fc2.weight": torch.zeros(num_classes, 256)}
    assert f"{num_classes} classes" in refusal(state | head)


@pytest.mark.parametrize("num_classes", [1, 9 * 65 + 1, 10**12 + 1])
def test_too_many_classes(refusal, state, num_classes):
    message = refusal(state | {"fc2.bias": torch.zeros(1).expand(num_classes)})
    assert f"{num_classes} classes" in message or "an integer from 1 to 64" in message


@pytest.mark.parametrize("change", [{1: torch.zeros(3)}, {"fc2.bias": 19}, {"fc2.bias": "a" * 19}])
def test_state_dict_of_other_types(refusal, state, change):
    assert "model.pth" in refusal(state | change)


@pytest.mark.parametrize(
    "size", [{"height": 40}, {"height": 8, "width": 8}, {"height": 0}, {"width": 7}]
)
def test_another_image_size(refusal, state, size):
    message = refusal(state, **size)
    assert "--height and --width" in message
    assert f"{(SMALL | size)['height']}x{(SMALL | size)['width']}" in message


def test_missing_file_and_directory(tmp_path):
    for path in (tmp_path / "absent.pth", tmp_path):
        config = ImportModelConfig(weights=str(path), out=str(tmp_path / "model"))
        with pytest.raises(InputError, match=str(path)):
            import_model(config)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content", [b"", b"a text, not a model\n", b"PK\x03\x04", b"\x80\x02.", b"\x80\x02}q"], ids=repr
)
def test_file_of_another_format(refusal, state, content):
    assert "model.pth" in refusal(content)
    file = io.BytesIO()
    torch.save(state, file)
    assert "model.pth" in refusal(file.getvalue()[:-1000])


def test_zip_bomb(refusal, state, tmp_path, monkeypatch):
    monkeypatch.setattr(import_module, "MAX_WEIGHTS_BYTES", 8 * MIB)
    torch.save(state, tmp_path / "whole.pth")
    with (
        zipfile.ZipFile(tmp_path / "whole.pth") as whole,
        zipfile.ZipFile(tmp_path / "model.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for entry in whole.namelist():
            bomb.writestr(entry, whole.read(entry))
        bomb.writestr("model/data/99", bytes(8 * MIB))
    assert (tmp_path / "model.pth").stat().st_size < 3 * MIB
    assert "more than the 8,388,608" in refusal()


def test_enormous_file_and_pipe(refusal, tmp_path):
    (tmp_path / "model.pth").touch()
    os.truncate(tmp_path / "model.pth", 2**40)
    assert "1,099,511,627,776 bytes, more than" in refusal()
    (tmp_path / "model.pth").unlink()
    os.mkfifo(tmp_path / "model.pth")
    assert "not a file" in refusal()


@pytest.mark.parametrize("scale", [0.0, -1.0, 1e7, float("nan"), float("inf")])
def test_impossible_pixel_scale(scale):
    with pytest.raises(InputError, match="--pixel-scale"):
        ImportModelConfig(weights="model.pth", out="model", pixel_scale=scale)
