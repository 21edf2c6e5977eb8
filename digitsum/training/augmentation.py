"""Random distortions of handwriting: placement, a smooth bend, and thinner or thicker strokes.

The bend is that of Simard, Steinkraus and Platt, "Best practices for convolutional neural networks
applied to visual document analysis", ICDAR 2003. Hand-written because torchvision's transforms
distort all images of a batch alike.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

# At strength 1, in pixels: the standard deviation of the bending field, and the distance between
# the points that it is interpolated from.
_BEND = 1.2
_BEND_SPACING = 7
# At strength 1, the most that a glyph is turned (radians), scaled, sheared and moved (fraction of
# half its size).
_TURN = 0.22
_SCALE_X, _SCALE_Y = 0.18, 0.15
_SHEAR = 0.3
_MOVE = 0.1
_THICKEN, _THIN = 0.8, 0.45
_HARDEN = 0.8
_FAINT = 0.02
# So few images stay within a core's cache: measured three times as fast as 16,384.
_CACHED_IMAGES = 512


def distort(
    pixels_nhw: Tensor, strength: float, generator: torch.Generator, *, keeps_places: bool
) -> Tensor:
    """Return images, uint8 (n, h, w), each distorted independently; not at all at strength 0.

    Images of several digits keep their places: they are only bent, and get other strokes.
    """
    if strength == 0 or len(pixels_nhw) == 0:
        return pixels_nhw
    parts = []
    for part in torch.split(pixels_nhw, _CACHED_IMAGES):
        ink_n1hw = part.unsqueeze(1).float().div_(255)
        grid = _placement(ink_n1hw, 0.0 if keeps_places else strength, generator)
        grid = grid + _bend(ink_n1hw, strength, generator)
        ink_n1hw = F.grid_sample(ink_n1hw, grid, align_corners=False)
        ink_nhw = _restroke(ink_n1hw, strength, generator).squeeze(1)
        parts.append(ink_nhw.mul_(255).round_().to(torch.uint8))
    return torch.cat(parts)


def _placement(ink_n1hw: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Return the place that each pixel is taken from, (n, h, w, 2), x and y in -1..1."""
    n = len(ink_n1hw)
    turn, scale_x, scale_y, shear, move_x, move_y = strength * _uniform(6, n, generator)
    cos, sin = torch.cos(_TURN * turn), torch.sin(_TURN * turn)
    across, down = 1 + _SCALE_X * scale_x, 1 + _SCALE_Y * scale_y
    affine_n23 = torch.stack(
        [
            torch.stack([cos / across, (sin + _SHEAR * shear) / across, _MOVE * move_x], dim=1),
            torch.stack([-sin / down, cos / down, _MOVE * move_y], dim=1),
        ],
        dim=1,
    )
    return F.affine_grid(affine_n23, list(ink_n1hw.shape), align_corners=False)


def _bend(ink_n1hw: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Return a smooth random field of displacements, (n, h, w, 2), in units of -1..1."""
    n, _, height, width = ink_n1hw.shape
    points = (n, 2, height // _BEND_SPACING + 1, width // _BEND_SPACING + 1)
    field = torch.randn(points, generator=generator, device=generator.device)
    field = F.interpolate(field, size=(height, width), mode="bicubic", align_corners=True)
    to_units = field.new_tensor([2 / width, 2 / height])
    return field.permute(0, 2, 3, 1) * (strength * _BEND * to_units)


def _restroke(ink_n1hw: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Return ink 0..1 with strokes thinner or thicker, and their edges harder."""
    thicker, harder = strength * _uniform(2, len(ink_n1hw), generator)[:, :, None, None, None]
    most = F.max_pool2d(ink_n1hw, 3, stride=1, padding=1)
    least = -F.max_pool2d(-ink_n1hw, 3, stride=1, padding=1)
    drawn = torch.where(
        thicker > 0,
        ink_n1hw + (most - ink_n1hw) * (_THICKEN * thicker.clamp(0, 1)),
        ink_n1hw + (least - ink_n1hw) * (_THIN * (-thicker).clamp(0, 1)),
    )
    hardened = (drawn - 0.5) * (1 + _HARDEN * harder.abs()) + 0.5
    restroked: Tensor = hardened.clamp_(0, 1) * (drawn > _FAINT)
    return restroked


def _uniform(rows: int, n: int, generator: torch.Generator) -> Tensor:
    """Return numbers in -1..1, (rows, n)."""
    return torch.rand(rows, n, generator=generator, device=generator.device) * 2 - 1
