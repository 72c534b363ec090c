"""Fourier: undersampled columns of the Fourier transform, as in accelerated magnetic resonance imaging.

Paper: Lustig, Donoho, Pauly, "Sparse MRI: The Application of Compressed Sensing for Rapid MR Imaging", Magnetic
Resonance in Medicine 2007.

Images are real, so the adjoint is the real part of the inverse transform of what was measured, zero elsewhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from sidedoor.forward_operators.base import Operator, drawn_rows
from sidedoor.method import Share
from sidedoor.types import Images


@dataclass(frozen=True)
class Fourier(Operator):
    """The orthonormal transform on a Cartesian mask: (b, 2c, h, m), real parts before imaginary ones.

    Args:
        ratio: share of the columns.
        centre: share of all columns that are always sampled, the lowest frequencies; the rest is random.
        seed: determines the random columns.
    """

    ratio: Share = 0.25
    centre: Share = 0.08
    seed: int = 0

    def measure(self, x: Images) -> Tensor:
        spectrum = torch.fft.fft2(x, norm="ortho")[..., self._columns(x.shape[3]).to(x.device)]
        return torch.cat([spectrum.real, spectrum.imag], 1)

    def adjoint(self, y: Tensor, size: tuple[int, ...]) -> Images:
        real, imaginary = y.chunk(2, 1)
        spectrum = torch.zeros(*real.shape[:2], *size, dtype=torch.complex(real[:0], real[:0]).dtype, device=y.device)
        spectrum[..., self._columns(size[1]).to(y.device)] = torch.complex(real, imaginary)
        image: Tensor = torch.fft.ifft2(spectrum, norm="ortho").real
        return image

    def _columns(self, width: int) -> Tensor:
        """Which columns, as the transform numbers them: frequency 0 first, negative ones last."""
        low = min(max(1, round(self.centre * width)), max(1, round(self.ratio * width)))
        centre = torch.arange(-(low // 2), low - low // 2) % width
        others = torch.tensor([k for k in range(width) if k not in set(centre.tolist())], dtype=torch.int64)
        more = max(1, round(self.ratio * width)) - low
        kept = others[drawn_rows(len(others), more / len(others), self.seed)] if more else others[:0]
        return torch.cat([centre, kept]).sort().values
