"""Checks of a model's tensors from outside, before the network is built."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from digitsum.errors import InputError, one_line

MAX_PARAMETERS = 2**28
"""Most numbers in a network: 1 GiB, 600 times the packaged one."""
# safetensors describes a tensor in about 150 bytes.
_MAX_HEADER_BYTES = 64 * 1024
MAX_WEIGHTS_BYTES = 4 * MAX_PARAMETERS + _MAX_HEADER_BYTES
_HEADER_LENGTH_BYTES = 8
_MAX_SHOWN = 80


def load_weights(content: bytes, network: nn.Module) -> Mapping[str, Tensor]:
    """Return the tensors of a safetensors file, if they have the dtypes of the network's.

    `load_state_dict` checks that all are there, and their shapes. Raises InputError if the content
    is not such a file, or if a tensor has another dtype or holds NaN, infinity or a variance < 0.
    """
    header_bytes = int.from_bytes(content[:_HEADER_LENGTH_BYTES], "little")
    if header_bytes > _MAX_HEADER_BYTES:
        raise InputError(
            f"the weights are not safetensors: their header claims {header_bytes:,} bytes, more "
            f"than {_MAX_HEADER_BYTES:,}"
        )
    try:
        tensors: dict[str, Tensor] = load_safetensors(content)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"the weights are not safetensors: {one_line(error)}") from error
    for name, expected in network.state_dict().items():
        if name not in tensors:
            continue
        if tensors[name].dtype != expected.dtype:
            raise InputError(
                f"tensor {name!r} is {tensors[name].dtype}, but the network's is {expected.dtype}"
            )
        check_numbers(name, tensors[name])
    return tensors


def check_numbers(name: str, tensor: Tensor) -> None:
    """Raise InputError, naming the tensor, if it holds NaN, infinity, or a variance below 0."""
    # A finite sum is a quick proof; the sum of finite numbers may overflow.
    if not bool(torch.isfinite(tensor.sum())) and not bool(torch.isfinite(tensor).all()):
        raise InputError(
            f"tensor {shown(name)} holds NaN or infinity: such a network predicts nothing; "
            "train or save it again"
        )
    if name.endswith("running_var") and bool((tensor < 0).any()):
        raise InputError(f"tensor {name!r} holds a variance below 0; train or save it again")


def shown(value: object) -> str:
    """Return a value from outside as a message may show it: one short line."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):
        return f"a {type(value).__name__}"
    return text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}..."
