import io
import json
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from digitsum.errors import InputError
from digitsum.model.baseline import PIXEL_SCALE, BaselineConfig, BaselineNetwork
from digitsum.model.import_model import ImportModelConfig, import_model
from digitsum.model.saved_model import load_model

SMALL = {"height": 16, "width": 24}


@pytest.fixture(scope="module")
def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return BaselineNetwork(BaselineConfig(**SMALL, num_digits=2)).state_dict()


@pytest.fixture
def refused(tmp_path) -> Callable[..., str]:
    """Import what cannot be, see that no model comes of it, and return what was said."""

    def refused(content: object, **options: Any) -> str:
        if isinstance(content, bytes):
            (tmp_path / "model.pth").write_bytes(content)
        else:
            torch.save(content, tmp_path / "model.pth")
        config = ImportModelConfig(
            weights=str(tmp_path / "model.pth"),
            out=str(tmp_path / "model"),
            **(SMALL | options),
        )
        with pytest.raises(InputError) as raised:
            import_model(config)
        assert not (tmp_path / "model").exists()
        return str(raised.value)

    return refused


class _Bomb:
    """A pickle that touches a file as it is loaded."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self._marker}",)


def test_the_papers_network_is_imported_and_predicts_the_same(tmp_path):
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
def test_sizes_digits_and_scale_are_taken_over(tmp_path, state, zipped):
    weights = tmp_path / "model.pth"
    torch.save(state, weights, _use_new_zipfile_serialization=zipped)
    model = str(tmp_path / "model")
    import_model(ImportModelConfig(weights=str(weights), out=model, **SMALL, pixel_scale=0.5))
    imported = load_model(model)
    assert imported.network.config == BaselineConfig(16, 24, 2)
    assert imported.pixel_scale == 0.5
    assert all(torch.equal(imported.network.state_dict()[name], state[name]) for name in state)
    assert "model.pth" in (tmp_path / "model" / "MODEL_CARD.md").read_text()
    assert json.loads((tmp_path / "model" / "metrics.json").read_text()) == {}


@pytest.mark.parametrize("shape", ["bare", "zipped", "legacy"])
def test_a_pickle_that_would_run_a_command_is_refused_and_does_not_run(refused, tmp_path, shape):
    marker = tmp_path / "ran"
    if shape == "bare":
        bomb = pickle.dumps(_Bomb(marker), protocol=2)
    else:
        file = io.BytesIO()
        content = {"fc2.bias": _Bomb(marker)}
        torch.save(content, file, _use_new_zipfile_serialization=shape == "zipped")
        bomb = file.getvalue()
    assert "not a state dict of plain tensors" in refused(bomb)
    assert not marker.exists()
    torch.load(io.BytesIO(bomb), weights_only=False) if shape != "bare" else pickle.loads(bomb)
    assert marker.exists()  # it would have


def test_a_whole_saved_module_is_refused(refused):
    assert "state_dict()" in refused(BaselineNetwork(BaselineConfig(**SMALL)))


def test_a_state_dict_that_lacks_or_exceeds_the_keys_is_refused_by_the_key(refused, state):
    assert "fc3.bias" in refused(state | {"fc3.bias": torch.zeros(3)})
    for name in ("conv1.weight", "fc2.bias"):
        assert name in refused({key: value for key, value in state.items() if key != name})


@pytest.mark.parametrize(
    "change",
    [{1: torch.zeros(3)}, {"conv1.bias": [0.0] * 32}, {"fc2.bias": 19}, {"fc2.bias": "a" * 19}],
    ids=["key is a number", "value is a list", "value is a number", "value is a string"],
)
def test_a_state_dict_with_something_else_in_it_is_refused(refused, state, change):
    assert "model.pth" in refused(state | change)


@pytest.mark.parametrize("content", [[1], torch.zeros(3), "weights", {}], ids=str)
def test_what_is_no_state_dict_is_refused(refused, content):
    assert "model.pth" in refused(content)


@pytest.mark.parametrize("num_classes", [1, 2, 18, 20, 36])
def test_classes_that_are_not_the_sums_of_some_digits_are_refused(refused, state, num_classes):
    head = {"fc2.bias": torch.zeros(num_classes), "fc2.weight": torch.zeros(num_classes, 256)}
    said = refused(state | head)
    assert str(num_classes) in said or "1 to 64 digits" in said


@pytest.mark.parametrize("size", [{"height": 40}, {"width": 168}, {"height": 8, "width": 8}])
def test_weights_for_images_of_another_size_are_refused_with_what_to_correct(refused, state, size):
    said = refused(state, **size)
    assert "--height and --width" in said
    assert f"{(SMALL | size)['height']}x{(SMALL | size)['width']}" in said


@pytest.mark.parametrize("size", [{"height": 0}, {"width": 7}, {"height": 5000}])
def test_sizes_that_cannot_be_are_refused(refused, state, size):
    assert "pixels a side" in refused(state, **size)


def test_a_missing_file_and_a_directory_are_refused_by_their_path(tmp_path):
    for path in (tmp_path / "absent.pth", tmp_path):
        config = ImportModelConfig(weights=str(path), out=str(tmp_path / "model"))
        with pytest.raises(InputError, match=str(path)):
            import_model(config)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content", [b"", b"a text, not a model\n", b"PK\x03\x04", b"\x80\x02.", b"\x80\x02}q"], ids=repr
)
def test_a_file_that_torch_did_not_write_is_refused(refused, content):
    assert "model.pth" in refused(content)


def test_a_file_that_was_cut_short_is_refused(refused, state):
    file = io.BytesIO()
    torch.save(state, file)
    assert "model.pth" in refused(file.getvalue()[:-1000])


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_pixel_scale_that_cannot_be_is_refused(scale):
    with pytest.raises(InputError, match="--pixel-scale"):
        ImportModelConfig(weights="model.pth", out="model", pixel_scale=scale)
