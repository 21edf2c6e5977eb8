"""Weights from outside: what is checked of tensors before a network is given them."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from digitsum.errors import InputError, one_line
from digitsum.model.bundle_config import shown

MAX_PARAMETERS = 2**28
"""Numbers that a network may have: 1 GiB of them, 600 times what the packaged one has."""


# What safetensors says of each tensor takes some 150 bytes.
_MAX_HEADER_BYTES = 64 * 1024
MAX_WEIGHTS_BYTES = 4 * MAX_PARAMETERS + _MAX_HEADER_BYTES
_LENGTH_BYTES = 8


def load_weights(content: bytes, network: nn.Module) -> Mapping[str, Tensor]:
    """Return the tensors of a safetensors file, if they are numbers of the network's very types.

    The network may be on the meta device. That all are there and of the right shapes,
    `load_state_dict` checks. Raises InputError, naming the tensor, where one is of another type,
    holds NaN or infinity, or a variance below 0; and where the content is no such file.
    """
    header_bytes = int.from_bytes(content[:_LENGTH_BYTES], "little")
    if header_bytes > _MAX_HEADER_BYTES:
        raise InputError(
            f"the weights are no safetensors: their header claims {header_bytes:,} bytes, more "
            f"than {_MAX_HEADER_BYTES:,}"
        )
    try:
        found: dict[str, Tensor] = load_safetensors(content)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"the weights are no safetensors: {one_line(error)}") from error
    for name, expected in network.state_dict().items():
        if name not in found:
            continue
        if found[name].dtype != expected.dtype:
            raise InputError(
                f"tensor {name!r} is of {found[name].dtype}, and the network's of {expected.dtype}"
            )
        check_numbers(name, found[name])
    return found


def check_numbers(name: str, tensor: Tensor) -> None:
    """Raise InputError, naming the tensor, at NaN, infinity, or a variance below 0."""
    # The sum of finite numbers may overflow; it is only a quick way to see that there is no other.
    if not bool(torch.isfinite(tensor.sum())) and not bool(torch.isfinite(tensor).all()):
        raise InputError(
            f"tensor {shown(name)} holds NaN or infinity: such a network predicts nothing; "
            "train or save it again"
        )
    if name.endswith("running_var") and bool((tensor < 0).any()):
        raise InputError(f"tensor {name!r} holds a variance below 0; train or save it again")
