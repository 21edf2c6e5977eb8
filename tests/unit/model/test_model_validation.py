"""Models that somebody forged to do harm (`docs/security.md`): each costs little and is refused."""

import json
import os
import shutil
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save
from torch.utils._python_dispatch import TorchDispatchMode

from digitsum.cli import main
from digitsum.errors import InputError
from digitsum.model.predictor import make_predictor
from digitsum.model.saved_model import load_model, packaged_model

WEIGHTS = Path(packaged_model(), "model.safetensors")
NOT_LOADABLE = "not a model that can be loaded"


def refusal(model: Path) -> str:
    with pytest.raises(InputError) as raised:
        load_model(str(model))
    message = str(raised.value)
    assert "\n" not in message
    assert len(message) < 600, "a message is a sentence, however much there was"
    return message


def tensor_of(name: str) -> torch.Tensor:
    return load_file(WEIGHTS)[name]


def test_forged_model_loads(forge):  # otherwise no refusal below proves anything
    large = tensor_of("body.0.weight").fill_(3e38)
    assert large.sum() == float("inf")  # but its numbers are finite
    tensors = {"head.bias": torch.zeros(11), "body.0.weight": large}
    model = load_model(str(forge(tensors=tensors, cascade_below=0.25)))
    assert (model.network_name, model.cascade_below) == ("counter", 0.25)
    assert not model.network.head.bias.any()


def test_pickle_bomb_as_weights(bomb, forge):
    content, has_exploded = bomb
    assert "not safetensors" in refusal(forge(content))
    assert not has_exploded()


@pytest.mark.parametrize("claim", [2**63, 2**64 - 1, 2**40, 100_000_000, 70_000])
def test_header_of_enormous_size(claim, forge):
    weights = struct.pack("<Q", claim) + WEIGHTS.read_bytes()[8:]
    assert "header claims" in refusal(forge(weights))


@pytest.mark.parametrize(
    "entry",
    [
        {"shape": [2**62], "data_offsets": [0, 4]},
        {"shape": [2**32, 2**32], "data_offsets": [0, 0]},
        {"shape": [1], "data_offsets": [0, 2**63]},
        {"shape": [1], "data_offsets": [4, 0]},
        {"shape": [-1], "data_offsets": [0, 4]},
        {"shape": [1], "data_offsets": [8, 12]},
        {"dtype": "os.system", "shape": [1], "data_offsets": [0, 4]},
    ],
    ids=str,
)
def test_header_of_impossible_tensors(entry, forge):
    header = json.dumps({"head.bias": {"dtype": "F32"} | entry}).encode()
    assert "not safetensors" in refusal(forge(struct.pack("<Q", len(header)) + header + bytes(4)))


def test_truncated_weights_with_a_digest(forge):
    for kept in (1, 8, 100, -4):
        assert "not safetensors" in refusal(forge(WEIGHTS.read_bytes()[:kept]))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", ["head.bias", "mixers.0.across.1.running_mean"])
def test_weights_of_nan_or_infinity(value, name, forge):
    tensor = tensor_of(name)
    tensor[-1] = value
    assert f"tensor '{name}' holds NaN or infinity" in refusal(forge(tensors={name: tensor}))


def test_weights_of_negative_variance(forge):
    name = "mixers.0.across.1.running_var"
    tensor = tensor_of(name)
    tensor[0] = -1
    assert f"'{name}' holds a variance below 0" in refusal(forge(tensors={name: tensor}))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.int8, torch.complex64])
def test_weights_of_another_dtype(dtype, forge):
    model = forge(tensors={"head.bias": tensor_of("head.bias").to(dtype)})
    assert f"tensor 'head.bias' is {dtype}" in refusal(model)


def test_weights_of_other_tensors(forge):
    assert NOT_LOADABLE in refusal(forge(tensors={"fc3.bias": torch.zeros(1)}))
    tensors = load_file(WEIGHTS)
    del tensors["head.bias"]
    assert NOT_LOADABLE in refusal(forge(save(tensors)))


@pytest.mark.parametrize("network", ["baseline", "counter"])
def test_config_of_another_network(forge, network):
    assert NOT_LOADABLE in refusal(forge(network=network, sizes={"height": 16, "width": 24}))


@pytest.mark.parametrize(
    "sizes",
    [
        {"body_channels": 10**9},
        {"column_channels": 10**18},
        {"num_mixers": 10**9},
        {"num_digits": 10**9},
        {"max_digits": 2**63},
        {"digit_offset": 10**9},
        {"height": 10**9, "width": 10**9},
        {"height": 48, "width": 4097},
        {"width": int("9" * 4000)},
        {"stem_channels": 0},
        {"row_channels": -1},
        {"row_channels": 57},
        {"height": 80, "width": 168},
        {"num_mixers": 2},
        {"num_mixers": True},
        {"num_mixers": 3.0},
        {"num_mixers": "3"},
        {"num_mixers": None},
        {"num_mixers": [3]},
        {"__class__": "os.system"},
        {"device": "cuda"},
        {"height": 4096, "width": 4096, "row_channels": 1024, "column_channels": 1024},
    ],
    ids=lambda sizes: str(sizes)[:50],
)
def test_sizes_that_do_not_fit(sizes, forge):
    assert NOT_LOADABLE in refusal(forge(changed_sizes=sizes))


class LargestTensor(TorchDispatchMode):
    """Records the number of elements of the largest tensor made in memory."""

    num_elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if isinstance(result, torch.Tensor) and result.device.type != "meta":
            self.num_elements = max(self.num_elements, result.numel())
        return result


def test_sizes_take_no_memory_without_weights(forge):
    most = {"row_channels": 1024, "column_channels": 1024, "body_channels": 1024, "num_mixers": 16}
    model = forge(changed_sizes=most | {"height": 1024, "width": 4096})
    with LargestTensor() as largest:
        assert NOT_LOADABLE in refusal(model)
    assert largest.num_elements <= WEIGHTS.stat().st_size  # the network would have 170 million


NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("class", ["os.system"]),
        ("network", ["resnet", "os.system", "digitsum.cli.main", None, 1, ["baseline"], {}]),
        ("format", [True, 1.0, 2, "1", None]),
        ("sizes", [None, [], [16, 24], "16x24", 3]),
        ("pixel_scale", [None, [1], "0.5", True, 0.0, -1.0, 1e-9, 1e30, NAN, INFINITY]),
        ("temperature", [None, [1], "0.5", True, 0.0, -1.0, 1e-9, 1e30, NAN, INFINITY]),
        ("cascade_below", [None, [1], "0.5", True, -0.1, 1.1, NAN, INFINITY]),
    ],
)
def test_config_of_wrong_fields(field, values, forge):
    for value in values:
        message = refusal(forge(**{field: value}))
        reasons = f"({field}: ", f"network {value!r} is not known", "does not match its digest"
        assert any(reason in message for reason in reasons)


@pytest.mark.parametrize(
    "field", ["network", "sizes", "pixel_scale", "temperature", "cascade_below", "format"]
)
def test_config_that_lacks_a_field(field, forge):
    assert f"({field}: Field required)" in refusal(forge(without=field))


@pytest.mark.parametrize(
    "content",
    [b'{"format": 1' + b"0" * 5000 + b"}", b'{"a":' * 20_000, b'{"format": 1, "digest": []}'],
    ids=["a number of 5,000 digits", "nested 20,000 times", "a digest that is a list"],
)
def test_config_that_exhausts_json(content, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    refusal(tmp_path)


def check_unread(model: Path, name: str, reason: str) -> None:
    if name == "metrics.json":
        assert load_model(str(model)).reference is None
    else:
        message = refusal(model)
        assert name in message
        assert reason in message


@pytest.mark.parametrize(
    ("name", "size"),
    [("config.json", 10**6), ("model.safetensors", 2 * 2**30), ("metrics.json", 10 * 2**30)],
)
def test_enormous_files_are_not_read(name, size, forge):
    model = forge()
    load_model(str(model))  # imports what it needs
    os.truncate(model / name, size)  # sparse: it takes no disk
    tracemalloc.start()
    check_unread(model, name, "bytes, but such a file has at most")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 50e6


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "metrics.json"])
def test_pipes_do_not_block(name, forge):
    model = forge()
    (model / name).unlink()
    os.mkfifo(model / name)
    check_unread(model, name, "")


def test_changed_model_scores_nothing(tmp_path, capsys):
    model = tmp_path / "model"
    shutil.copytree(packaged_model(), model)
    assert main(f"synth --out {tmp_path}/archive --images 4 --shards 1".split()) == 0
    weights = bytearray(WEIGHTS.read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    places = f"--archive {tmp_path}/archive --scores {tmp_path}/scores --model {model}"
    assert main(f"score {places} --executor threads".split()) == 2
    assert "does not match its digest" in capsys.readouterr().err
    assert not (tmp_path / "scores").exists()


@pytest.mark.parametrize(
    "metrics",
    [
        {"best": 3, "test": []},
        {"best": {"validation_accuracy": "x"}},
        {"test": {"accuracy": None, "images": {}}},
        [],
        {"reference": {"sums": [True, -1, "x"]}},
        {"reference": [1]},
    ],
    ids=str,
)
def test_wrong_metrics_are_passed_over(metrics, forge, capsys):
    model = forge()
    (model / "metrics.json").write_text(json.dumps(metrics))
    assert main(["inspect", str(model)]) == 0
    assert "accuracy" not in capsys.readouterr().out
    assert load_model(str(model)).reference is None


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_predictors_read_no_file(backend, forge):
    if backend == "openvino":
        pytest.importorskip("openvino")
    directory = forge()
    (directory / "model.xml").write_text("<net/>")
    model = load_model(str(directory))
    shutil.rmtree(directory)
    predictor = make_predictor(model, backend=backend, batch_size=2)
    assert len(predictor.predict(np.zeros((3, 40, 168), np.uint8)).sums) == 3
