import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from digitsum.errors import InputError
from digitsum.model.baseline import BaselineConfig, BaselineNetwork
from digitsum.model.saved_model import load_model, num_parameters, save_model
from digitsum.options import ImageShape

CONFIG = BaselineConfig(height=16, width=24, num_digits=2, dropout=0.5)
METRICS = {"best": {"epoch": 3, "validation_accuracy": 0.5}}
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


def check_refused(model: Path, reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        load_model(str(model))


def test_load_baseline(saved, network):
    model = load_model(str(saved))
    assert not model.network.training
    assert model.network.config == CONFIG
    assert (model.network_name, model.uri) == ("baseline", str(saved))
    assert (model.pixel_scale, model.temperature) == (1 / 32, 1.25)
    assert model.shape == ImageShape(16, 24)
    assert all(map(torch.equal, model.network.state_dict().values(), network.state_dict().values()))


def test_load_counter(tmp_path, make_counter):
    network, images = make_counter().train(), torch.rand(5, 1, 16, 48)
    for _ in range(3):  # gives the normalizations statistics of their own
        network(images)
    digest = save_model(str(tmp_path), "counter", network, metrics={}, card="", pixel_scale=0.5)
    model = load_model(str(tmp_path))
    with torch.inference_mode():
        assert torch.equal(model.network(images), network.eval()(images))
    assert model.network.config == network.config
    assert (model.network_name, model.temperature, model.digest) == ("counter", 1.0, digest)
    assert model.network.state_dict().keys() == network.state_dict().keys()


def test_save_writes_four_files(saved, network):
    options = {"metrics": METRICS, "card": "# A card\n"} | SCALES
    save_model(str(saved), "baseline", network, **options | {"card": "an old one"})
    save_model(str(saved), "baseline", network, **options)
    files = ["MODEL_CARD.md", "config.json", "metrics.json", "model.safetensors"]
    assert sorted(path.name for path in saved.iterdir()) == files
    config = json.loads((saved / "config.json").read_text())
    assert config.pop("digest") == load_model(str(saved)).digest
    assert config == {
        "format": 1,
        "network": "baseline",
        "sizes": {"height": 16, "width": 24, "num_digits": 2, "dropout": 0.5},
        "pixel_scale": 1 / 32,
        "temperature": 1.25,
        "cascade_below": 0.0,
    }
    assert json.loads((saved / "metrics.json").read_text()) == METRICS
    assert (saved / "MODEL_CARD.md").read_text() == "# A card\n"
    weights = load_file(saved / "model.safetensors")
    assert sum(tensor.numel() for tensor in weights.values()) == num_parameters(network)


def test_digest_is_of_weights_and_config(tmp_path, network, saved):
    def digest_of(network: BaselineNetwork = network, **options: Any) -> str:
        options = {"metrics": {}, "card": ""} | SCALES | options
        return save_model(str(tmp_path / "other"), "baseline", network, **options)

    same = load_model(str(saved)).digest
    assert len(same) == 64
    assert digest_of(metrics={"a": 1}, card="another") == digest_of() == same
    for changed in ("pixel_scale", "temperature", "cascade_below"):
        assert digest_of(**{changed: 0.5}) != same
    sparser = BaselineNetwork(BaselineConfig(16, 24, 2, 0.6))
    sparser.load_state_dict(network.state_dict())
    assert digest_of(sparser) != same
    sparser.config = CONFIG
    assert digest_of(sparser) == same
    assert digest_of(sparser.to(memory_format=torch.channels_last)) == same
    with torch.no_grad():
        sparser.fc2.bias[0] += 1e-3
    assert digest_of(sparser) != same


@pytest.mark.parametrize("place", [0, 9, 2000, -1, None])
def test_changed_weights(saved, place):
    weights = bytearray((saved / "model.safetensors").read_bytes())
    if place is None:
        weights.pop()
    else:
        weights[place] ^= 1
    (saved / "model.safetensors").write_bytes(weights)
    check_refused(saved, "does not match its digest")


@pytest.mark.parametrize(
    "change",
    [
        {"pixel_scale": 0.5},
        {"temperature": 1.0},
        {"cascade_below": 0.5},
        {"network": "counter"},
        {"digest": "0" * 64},
    ],
    ids=str,
)
def test_changed_config(saved, change):
    config = json.loads((saved / "config.json").read_text())
    (saved / "config.json").write_text(json.dumps(config | change))
    check_refused(saved, "does not match its digest")


@pytest.mark.parametrize("file", ["config.json", "model.safetensors"])
def test_missing_file(saved, file):
    for for_people in ("metrics.json", "MODEL_CARD.md"):
        (saved / for_people).unlink()
    assert load_model(str(saved)).reference is None
    (saved / file).unlink()
    check_refused(saved, file)


def test_not_a_model(tmp_path):
    (tmp_path / "file").write_text("")
    for place in (tmp_path, tmp_path / "absent", tmp_path / "file"):
        check_refused(place, "not a model")


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"\xff\xfe\x00", b"[]", b"null", b'"a"', b"{}", b'{"format": 2}', b"[" * 100_000],
    ids=lambda content: repr(content[:12]),
)
def test_config_of_another_format(saved, content):
    (saved / "config.json").write_bytes(content)
    check_refused(saved, "config.json")
