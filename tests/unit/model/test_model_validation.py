"""SavedModels and weights of somebody who means harm: a sentence refuses each, and it costs little.

`docs/security.md` lists them. What is merely broken is in test_model.py and test_import_model.py.
"""

import hashlib
import io
import json
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save

from digitsum.cli import main
from digitsum.errors import InputError
from digitsum.model.import_model import ImportModelConfig, import_model
from digitsum.model.predictor import make_predictor
from digitsum.model.saved_model import load_model, packaged_model

MIB = 2**20
IMAGES = np.zeros((3, 40, 168), np.uint8)


@pytest.fixture
def forge(tmp_path) -> Callable[..., Path]:
    """Change the packaged model, and record the digest that goes with it, as an attacker can."""

    def forge(
        weights: bytes | dict | None = None, *, config: str | None = None, **changes: Any
    ) -> Path:
        model = tmp_path / "model"
        shutil.copytree(packaged_model(), model)
        fields = json.loads((model / "config.json").read_text())
        del fields["digest"]
        fields |= {key: value for key, value in changes.items() if key != "sizes"}
        if "sizes" in changes:
            fields["sizes"] = {**fields["sizes"], **changes["sizes"]}
        fields = (
            json.loads(config.replace("SIZES", json.dumps(fields["sizes"]))) if config else fields
        )
        if isinstance(weights, dict):
            weights = save(load_file(model / "model.safetensors") | weights)
        weights = weights or (model / "model.safetensors").read_bytes()
        content = json.dumps(fields, sort_keys=True, separators=(",", ":")).encode()
        digest = hashlib.sha256(content + b"\0" + weights).hexdigest()
        (model / "config.json").write_text(json.dumps({**fields, "digest": digest}))
        (model / "model.safetensors").write_bytes(weights)
        return model

    return forge


def refusal(model: Path) -> str:
    with pytest.raises(InputError) as raised:
        load_model(str(model))
    said = str(raised.value)
    assert "\n" not in said
    assert len(said) < 600, "a message is a sentence, however much there was"
    return said


def loaded_apart(model: Path) -> tuple[str, int]:
    """Load a model in a process of its own; return what it said and the MiB that loading took."""
    code = r"""
import re, sys
from pathlib import Path
from digitsum.errors import InputError
from digitsum.model.saved_model import load_model, packaged_model
load_model(packaged_model())  # what torch takes is not the attack's
# Not getrusage's maximum, which begins with that of the process that this one was forked from.
peak = lambda: int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
before = peak()
try:
    load_model(sys.argv[1])
except InputError as error:
    print(error)
print((peak() - before) // 1024)
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(model)], capture_output=True, text=True, check=True
    )
    *said, peak = done.stdout.splitlines()
    return "".join(said), int(peak)


class _Bomb:
    """A pickle that makes a file as it is loaded."""

    def __init__(self, marker: Path) -> None:
        self._marker = marker

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.mkdir, (str(self._marker),)


def test_the_forgery_itself_loads(forge):  # else nothing below would say anything
    assert load_model(str(forge({}))).network_name == "counter"


@pytest.mark.parametrize("kind", ["pickle", "zip", "tar, as torch once wrote"])
def test_a_pickle_bomb_runs_neither_as_weights_nor_where_it_is_imported(
    kind, forge, tmp_path, capsys
):
    marker, file = tmp_path / "ran", io.BytesIO()
    if kind == "pickle":
        file.write(pickle.dumps({"fc2.bias": _Bomb(marker)}))
    else:
        torch.save({"fc2.bias": _Bomb(marker)}, file, _use_new_zipfile_serialization=kind == "zip")
    assert "no safetensors" in refusal(forge(file.getvalue()))
    path = tmp_path / "model.pth"
    path.write_bytes(file.getvalue())
    assert main(["import", "model", str(path), "--out", str(tmp_path / "made")]) == 2
    assert "not a state dict of plain tensors" in capsys.readouterr().err
    assert not (tmp_path / "made").exists()
    assert not marker.exists()
    torch.load(path, weights_only=False) if kind != "pickle" else pickle.loads(file.getvalue())
    assert marker.exists()  # it would have


@pytest.mark.parametrize("claim", [2**63, 2**64 - 1, 2**40, 100_000_000, 70_000])
def test_a_header_that_claims_to_be_great_is_refused_whatever_it_claims(claim, forge):
    weights = Path(packaged_model(), "model.safetensors").read_bytes()
    assert "header claims" in refusal(forge(struct.pack("<Q", claim) + weights[8:]))


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
def test_a_header_whose_tensors_cannot_be_is_refused(entry, forge):
    header = json.dumps({"head.bias": {"dtype": "F32"} | entry}).encode()
    assert "no safetensors" in refusal(forge(struct.pack("<Q", len(header)) + header + bytes(4)))


@pytest.mark.parametrize("kept", [0, 1, 8, 100, -4])
def test_weights_that_were_cut_short_are_refused_even_with_the_right_digest(kept, forge):
    weights = Path(packaged_model(), "model.safetensors").read_bytes()[:kept] or b"\0"
    assert "no safetensors" in refusal(forge(weights))


@pytest.mark.parametrize("wrong", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("tensor", ["head.bias", "mixers.0.across.1.running_mean"])
def test_weights_that_are_no_numbers_are_refused_naming_the_tensor(wrong, tensor, forge):
    values = load_file(Path(packaged_model(), "model.safetensors"))[tensor]
    values[-1] = wrong
    assert f"tensor '{tensor}' holds NaN or infinity" in refusal(forge({tensor: values}))


def test_weights_whose_sum_overflows_are_numbers(forge):
    name = "body.0.weight"
    values = load_file(Path(packaged_model(), "model.safetensors"))[name].fill_(3e38)
    assert load_model(str(forge({name: values}))).network_name == "counter"


def test_a_variance_below_0_is_refused_naming_the_tensor(forge):
    name = "mixers.0.across.1.running_var"
    values = load_file(Path(packaged_model(), "model.safetensors"))[name]
    values[0] = -1
    assert f"'{name}' holds a variance below 0" in refusal(forge({name: values}))


@pytest.mark.parametrize("kind", [torch.float64, torch.float16, torch.int8, torch.complex64])
def test_weights_of_another_type_are_refused_naming_the_tensor(kind, forge):
    values = load_file(Path(packaged_model(), "model.safetensors"))["head.bias"].to(kind)
    assert f"tensor 'head.bias' is of {kind}" in refusal(forge({"head.bias": values}))


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
        {"width": int("9" * 4000)},
        {"stem_channels": 0},
        {"row_channels": -1},
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
def test_sizes_beyond_all_bounds_are_refused_and_cost_nothing(sizes, forge):
    assert "not a model that can be loaded" in refusal(forge(sizes=sizes))


def test_a_network_of_the_bounds_costs_nothing_until_its_weights_are_there(forge):
    most = {"row_channels": 1024, "column_channels": 1024, "body_channels": 1024, "num_mixers": 16}
    said, peak = loaded_apart(forge(sizes=most | {"height": 1024, "width": 4096}))
    assert "size mismatch" in said
    assert peak < 100  # and its weights would be 700


@pytest.mark.parametrize(
    "change",
    [
        ('"format": 1', '"class": "os.system", "format": 1'),
        ('"counter"', '"digitsum.cli.main"'),
        ("SIZES", "[]"),
        ("2.0", "true"),
        ("2.0", "NaN"),
        ("2.0", "1e400"),
        ("2.0", "1e30"),
        ("3.0", "1e-9"),
        (', "temperature": 3.0', ""),
        ('"format": 1', '"format": true'),
        ('"format": 1', '"format": 1.0'),
    ],
    ids=str,
)
def test_a_configuration_of_other_fields_or_types_is_refused(change, forge):
    fields = '"network": "counter", "sizes": SIZES, "pixel_scale": 2.0, "temperature": 3.0'
    config = f'{{"format": 1, {fields}}}'.replace(*change)
    assert "not a model" in refusal(forge(config=config))


@pytest.mark.parametrize(
    "content",
    [b'{"format": 1' + b"0" * 5000 + b"}", b'{"a":' * 20_000, b'{"format": 1, "digest": []}'],
    ids=["a number of 5,000 digits", "nested 20,000 times", "a digest that is none"],
)
def test_json_that_means_to_exhaust_is_refused(content, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    refusal(tmp_path)


def test_files_larger_than_they_can_need_be_are_not_read(forge):
    model = forge({})
    for name, size in (("config.json", 10**6), ("model.safetensors", 2 * 2**30)):
        content = (model / name).read_bytes()
        os.truncate(model / name, size)  # sparse: it takes no disk
        said, peak = loaded_apart(model)
        assert "more than the" in said
        assert name in said
        assert peak < 50
        (model / name).write_bytes(content)
    os.truncate(model / "metrics.json", 10 * 2**30)  # no score depends on it
    said, peak = loaded_apart(model)
    assert (said, peak < 50) == ("", True)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "metrics.json"])
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(name, forge):
    model = forge({})
    (model / name).unlink()
    os.mkfifo(model / name)
    if name == "metrics.json":
        assert load_model(str(model)).reference is None
    else:
        assert name in refusal(model)


def test_a_bundle_that_was_changed_after_its_digest_was_recorded_scores_nothing(
    tmp_path, make_batch, capsys
):
    model = tmp_path / "model"
    shutil.copytree(packaged_model(), model)
    assert main(f"synth --out {tmp_path}/archive --images 4 --shards 1".split()) == 0
    weights = bytearray((model / "model.safetensors").read_bytes())
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
def test_metrics_may_say_anything_and_are_passed_over(metrics, forge, capsys):
    model = forge({})
    (model / "metrics.json").write_text(json.dumps(metrics))
    assert main(["inspect", str(model)]) == 0
    assert "accuracy" not in capsys.readouterr().out
    assert load_model(str(model)).reference is None


@pytest.mark.parametrize("backend", ["torch", "openvino"])
def test_predictors_are_built_of_the_network_and_of_no_file(backend, forge):
    if backend == "openvino":
        pytest.importorskip("openvino")
    directory = forge({})
    (directory / "model.xml").write_text("<net/>")
    model = load_model(str(directory))
    shutil.rmtree(directory)
    predicted = make_predictor(model, backend=backend, batch_size=2).predict(IMAGES)
    assert len(predicted.sums) == 3


def imported(path: Path, **options: Any) -> str:
    config = ImportModelConfig(
        weights=str(path), out=str(path.parent / "made"), height=16, width=24, **options
    )
    with pytest.raises(InputError) as raised:
        import_model(config)
    assert not (path.parent / "made").exists()
    return str(raised.value)


@pytest.fixture
def state() -> dict[str, torch.Tensor]:
    from digitsum.model.baseline import BaselineConfig, BaselineNetwork

    return dict(BaselineNetwork(BaselineConfig(16, 24, 2)).state_dict())


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (lambda t: t.fill_(float("nan")), "'conv2.bias' holds NaN or infinity"),
        (lambda t: t.double().fill_(1e300), "'conv2.bias' holds NaN or infinity"),
        (lambda t: t.to(torch.int8), "'conv2.bias' is torch.int8"),
        (lambda t: t.to(torch.bool), "'conv2.bias' is torch.bool"),
        (lambda t: t.to_sparse(), "'conv2.bias' is torch.float32"),
        (lambda t: t.new_zeros(1).expand(10**12), "size mismatch for conv2.bias"),
        (lambda t: "os.system", "'conv2.bias' is str"),
    ],
)
def test_imported_weights_that_are_no_plain_numbers_are_refused_naming_them(
    wrong, reason, state, tmp_path
):
    torch.save(state | {"conv2.bias": wrong(state["conv2.bias"])}, tmp_path / "model.pth")
    assert reason in imported(tmp_path / "model.pth")


@pytest.mark.parametrize("num_classes", [10**12 + 1, 9 * 65 + 1])
def test_imported_weights_that_claim_to_add_up_many_digits_are_refused(
    num_classes, state, tmp_path
):
    state["fc2.bias"] = torch.zeros(1).expand(num_classes)
    torch.save(state, tmp_path / "model.pth")
    assert imported(tmp_path / "model.pth")


def test_a_zip_that_holds_a_thousand_times_its_size_is_not_unpacked(state, tmp_path):
    torch.save(state, tmp_path / "whole.pth")
    with (
        zipfile.ZipFile(tmp_path / "whole.pth") as whole,
        zipfile.ZipFile(tmp_path / "model.pth", "w", zipfile.ZIP_DEFLATED) as bomb,
    ):
        for entry in whole.namelist():
            bomb.writestr(entry, whole.read(entry))
        with bomb.open("model/data/99", "w") as filled:
            for _ in range(1100):
                filled.write(bytes(MIB))
    assert (tmp_path / "model.pth").stat().st_size < 3 * MIB
    assert "more than the 1,073" in imported(tmp_path / "model.pth")


def test_a_model_file_that_is_enormous_or_a_pipe_is_not_read(tmp_path):
    (tmp_path / "model.pth").touch()
    os.truncate(tmp_path / "model.pth", 2**40)
    assert "1,099,511,627,776 bytes, more than" in imported(tmp_path / "model.pth")
    (tmp_path / "model.pth").unlink()
    os.mkfifo(tmp_path / "model.pth")
    assert "is no file" in imported(tmp_path / "model.pth")
