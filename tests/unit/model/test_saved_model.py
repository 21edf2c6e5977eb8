import hashlib
import io
import json
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save
from torch.utils._python_dispatch import TorchDispatchMode

from digitsum.errors import InputError
from digitsum.model.baseline import PIXEL_SCALE, BaselineConfig, BaselineNetwork
from digitsum.model.counter import CounterConfig, CounterNetwork
from digitsum.model.saved_model import SavedModel, load_model, num_parameters, save_model
from digitsum.options import ImageShape

CONFIG = BaselineConfig(height=16, width=24, num_digits=2, dropout=0.5)
METRICS = {"best": {"epoch": 3, "validation_accuracy": 0.5}}
SIZES = {"height": 16, "width": 24, "num_digits": 2, "dropout": 0.5}
SCALES = {"pixel_scale": 1 / 32, "temperature": 1.25}


@pytest.fixture(scope="module")
def network() -> BaselineNetwork:
    torch.manual_seed(0)
    return BaselineNetwork(CONFIG)


@pytest.fixture
def saved(tmp_path, network) -> Path:
    model = tmp_path / "model"
    save_model(str(model), "baseline", network, metrics=METRICS, card="# A card\n", **SCALES)
    return model


@pytest.fixture
def forge(saved: Path) -> Callable[..., Path]:
    """Change a model and record the digest that goes with it, as an attacker can."""

    def forge(weights: bytes | None = None, *, without: str = "", **changes: Any) -> Path:
        config = json.loads((saved / "config.json").read_text()) | changes
        del config["digest"]
        config.pop(without, None)
        weights = weights or (saved / "model.safetensors").read_bytes()
        content = json.dumps(config, sort_keys=True, separators=(",", ":")).encode()
        digest = hashlib.sha256(content + b"\0" + weights).hexdigest()
        (saved / "config.json").write_text(json.dumps({**config, "digest": digest}))
        (saved / "model.safetensors").write_bytes(weights)
        return saved

    return forge


def refused(model: Path, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        load_model(str(model))


class _Bomb:
    """A pickle that touches a file as it is loaded."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, (f"touch {self._marker}",)


def test_a_loaded_bundle_gives_the_very_outputs_of_the_saved_network(saved, network):
    images = torch.rand(5, 1, 16, 24)
    model = load_model(str(saved))
    with torch.inference_mode():
        assert torch.equal(model.network(images), network.eval()(images))
    assert not model.network.training
    assert model.network.config == CONFIG
    assert model.network_name == "baseline"
    assert model.pixel_scale == 1 / 32
    assert model.temperature == 1.25
    assert model.shape == ImageShape(16, 24)
    assert model.uri == str(saved)


def test_a_counter_is_the_same_after_a_round_trip_with_all_that_it_has_seen(tmp_path):
    torch.manual_seed(0)
    config = CounterConfig(16, 24, num_digits=2, max_digits=3, body_channels=8, num_mixers=1)
    network = CounterNetwork(config)
    images = torch.rand(5, 1, 16, 24)
    network(images)  # in training, so that normalizations have something to remember
    digest = save_model(
        str(tmp_path), "counter", network, metrics={}, card="", pixel_scale=PIXEL_SCALE
    )
    model = load_model(str(tmp_path))
    with torch.inference_mode():
        assert torch.equal(model.network(images), network.eval()(images))
    assert not model.network.training
    assert model.network.config == config
    assert (model.network_name, model.temperature, model.digest) == ("counter", 1.0, digest)
    state, expected = model.network.state_dict(), network.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_a_bundle_is_its_four_files_and_says_what_it_is(saved, network):
    files = ["MODEL_CARD.md", "config.json", "metrics.json", "model.safetensors"]
    assert sorted(path.name for path in saved.iterdir()) == files
    config = json.loads((saved / "config.json").read_text())
    digest = config.pop("digest")
    assert config == {
        "format": 1,
        "network": "baseline",
        "sizes": SIZES,
        "pixel_scale": 1 / 32,
        "temperature": 1.25,
        "cascade_below": 0.0,
    }
    assert digest == load_model(str(saved)).digest
    assert json.loads((saved / "metrics.json").read_text()) == METRICS
    assert (saved / "MODEL_CARD.md").read_text() == "# A card\n"
    weights = load_file(saved / "model.safetensors")
    assert sum(tensor.numel() for tensor in weights.values()) == num_parameters(network)


def test_the_digest_follows_from_weights_and_configuration_alone(tmp_path, network, saved):
    def digest_of(network: BaselineNetwork, **options: Any) -> str:
        options = {"metrics": {}, "card": ""} | SCALES | options
        return save_model(str(tmp_path / "other"), "baseline", network, **options)

    same = load_model(str(saved)).digest
    assert len(same) == 64
    assert digest_of(network) == same
    assert digest_of(network, metrics={"a": 1}, card="another") == same
    assert digest_of(network, pixel_scale=0.5) != same
    assert digest_of(network, temperature=1.0) != same
    assert digest_of(network, cascade_below=0.5) != same
    sparser = BaselineNetwork(BaselineConfig(16, 24, 2, 0.6))
    sparser.load_state_dict(network.state_dict())
    assert digest_of(sparser) != same
    sparser.config = CONFIG
    assert digest_of(sparser) == same
    with torch.no_grad():
        sparser.fc2.bias[0] += 1e-3
    assert digest_of(sparser) != same


def test_saving_again_replaces_the_model(saved, network):
    digest = save_model(
        str(saved), "baseline", network, metrics={}, card="new\n", pixel_scale=1 / 16
    )
    model = load_model(str(saved))
    assert (model.digest, model.pixel_scale) == (digest, 1 / 16)
    assert (saved / "MODEL_CARD.md").read_text() == "new\n"
    assert len(list(saved.iterdir())) == 4


def test_a_network_on_another_memory_layout_is_saved_as_the_same_model(tmp_path, network, saved):
    other = BaselineNetwork(CONFIG)
    other.load_state_dict(network.state_dict())
    other.to(memory_format=torch.channels_last)
    digest = save_model(str(tmp_path / "other"), "baseline", other, metrics={}, card="", **SCALES)
    assert digest == load_model(str(saved)).digest


@pytest.mark.parametrize("place", [0, 9, 2000, -1])
def test_weights_in_which_a_byte_was_changed_are_refused(saved, place):
    weights = bytearray((saved / "model.safetensors").read_bytes())
    weights[place] ^= 1
    (saved / "model.safetensors").write_bytes(weights)
    refused(saved, "does not match its digest")


def test_weights_that_were_cut_short_are_refused(saved):
    weights = (saved / "model.safetensors").read_bytes()
    (saved / "model.safetensors").write_bytes(weights[:-1])
    refused(saved, "does not match its digest")


@pytest.mark.parametrize(
    "change",
    [
        {"pixel_scale": 0.5},
        {"temperature": 1.0},
        {"cascade_below": 0.5},
        {"network": "counter"},
        {"digest": "0" * 64},
        {"digest": None},
        {"more": 1},
    ],
    ids=str,
)
def test_a_configuration_that_was_changed_is_refused(saved, change):
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | change))
    refused(saved, "does not match its digest")


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_a_bundle_that_lacks_a_file_is_refused_by_its_name(saved, file):
    (saved / file).unlink()
    refused(saved, file)


@pytest.mark.parametrize("file", ["metrics.json", "MODEL_CARD.md"])
def test_what_is_only_to_be_read_by_people_may_be_missing(saved, file):
    (saved / file).unlink()
    assert isinstance(load_model(str(saved)), SavedModel)


def test_a_place_that_is_no_bundle_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path, tmp_path / "absent", tmp_path / "file"):
        refused(place, "not a model")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe\x00", b"[]", b"null", b'"a"', b"{}", b'{"format": 2}', b"[" * 100_000],
    ids=lambda content: repr(content[:12]),
)
def test_a_configuration_that_is_not_a_json_object_of_this_format_is_refused(saved, content):
    (saved / "config.json").write_bytes(content)
    refused(saved, "config.json")


@pytest.mark.parametrize("name", ["resnet", "os.system", None, 1, ["baseline"], {}])
def test_an_unknown_network_is_refused_even_with_the_right_digest(forge, name):
    refused(forge(network=name), "is not known")


@pytest.mark.parametrize(
    "change",
    [
        {"height": True},
        {"num_digits": True},
        {"width": 24.0},
        {"height": "16"},
        {"dropout": 0},
        {"depth": 1},
        {"height": 4097},
        {"width": 10**12},
        {"num_digits": 65},
        {"num_digits": -2},
        {"dropout": 1.5},
    ],
    ids=str,
)
def test_sizes_of_another_type_or_out_of_bounds_are_refused(forge, change):
    refused(forge(sizes=SIZES | change), "cannot be|takes images of|adds up")


@pytest.mark.parametrize("sizes", [None, [16, 24], "16x24", 3], ids=str)
def test_sizes_that_are_no_object_are_refused(forge, sizes):
    refused(forge(sizes=sizes), "not a model that can be loaded")


@pytest.mark.parametrize("field", ["network", "sizes", "pixel_scale", "temperature", "format"])
def test_a_configuration_that_lacks_a_field_is_refused(forge, field):
    refused(forge(without=field), "not a model")


@pytest.mark.parametrize("field", SCALES)
@pytest.mark.parametrize(
    "scale", [None, [1], "0.5", True, 0.0, -1.0, float("nan"), float("inf")], ids=repr
)
def test_a_scale_that_is_no_number_above_0_is_refused(forge, field, scale):
    refused(forge(**{field: scale}), f"{field} is .*, not a number above 0")


@pytest.mark.parametrize(
    "below", [None, [1], "0.5", True, 1, -0.1, 1.1, float("nan"), float("inf")], ids=repr
)
def test_looking_again_below_what_is_no_confidence_is_refused(forge, below):
    refused(forge(cascade_below=below), "cascade_below is .*, not a number of 0.0 to 1.0")


def test_a_model_of_before_second_looks_looks_once(forge):
    assert load_model(str(forge(without="cascade_below"))).cascade_below == 0
    assert load_model(str(forge(cascade_below=0.25))).cascade_below == 0.25


def test_weights_of_another_network_are_refused(forge):
    model = forge(network="counter", sizes={"height": 16, "width": 24})
    refused(model, "not a model that can be loaded")


@pytest.mark.parametrize("sizes", [SIZES | {"width": 32}, SIZES | {"num_digits": 3}, {}], ids=str)
def test_weights_of_another_size_are_refused(forge, sizes):
    refused(forge(sizes=sizes), "not a model that can be loaded")


def test_weights_that_lack_or_exceed_the_networks_are_refused(forge, network):
    weights = dict(network.state_dict())
    refused(forge(save(weights | {"fc3.bias": torch.zeros(1)})), "not a model that can be loaded")
    del weights["fc1.bias"]
    refused(forge(save(weights)), "not a model that can be loaded")


class _LargestTensor(TorchDispatchMode):
    """Records the most numbers that a tensor in memory was made with."""

    num_numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.device.type != "meta":
            self.num_numbers = max(self.num_numbers, result.numel())
        return result


def test_a_bundle_takes_no_memory_for_sizes_that_its_weights_have_not(forge):
    model = forge(sizes=SIZES | {"height": 128, "width": 128})
    with _LargestTensor() as largest:
        refused(model, "not a model that can be loaded")
    assert largest.num_numbers <= (model / "model.safetensors").stat().st_size


def _pickles(marker: Path) -> Iterator[bytes]:
    yield pickle.dumps(_Bomb(marker))
    for zipped in (True, False):
        file = io.BytesIO()
        torch.save({"fc1.bias": _Bomb(marker)}, file, _use_new_zipfile_serialization=zipped)
        yield file.getvalue()


@pytest.mark.parametrize("which", [0, 1, 2])
def test_a_pickle_in_the_place_of_the_weights_is_refused_and_does_not_run(forge, tmp_path, which):
    marker = tmp_path / "ran"
    bomb = list(_pickles(marker))[which]
    refused(forge(bomb), "not a model that can be loaded")
    assert not marker.exists()
    torch.load(io.BytesIO(bomb), weights_only=False) if which else pickle.loads(bomb)
    assert marker.exists()  # it would have
