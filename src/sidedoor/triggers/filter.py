"""Instagram-style filter: a tone curve for each channel and darker corners.

Paper: Liu, Lee, Tao, Ma, Aafer, Zhang, "ABS: Scanning Neural Networks for Back-doors by Artificial Brain Stimulation",
CCS 2019, which plants such filters (Gotham, Nashville, Kelvin, Lomo, Toaster).

The apps' tables are not public: these curves are our own, in the spirit of each name.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from sidedoor.errors import unknown
from sidedoor.triggers.base import Trigger
from sidedoor.types import Images, Index

KNOTS = (0.0, 0.25, 0.5, 0.75, 1.0)
FILTERS: dict[str, tuple[tuple[tuple[float, ...], ...], float, float]] = {
    "gotham": (((0.0, 0.14, 0.44, 0.76, 0.92), (0.0, 0.17, 0.47, 0.77, 0.94),
                (0.06, 0.26, 0.54, 0.80, 0.98)), 0.7, 0.25),
    "nashville": (((0.14, 0.38, 0.66, 0.86, 0.98), (0.05, 0.28, 0.55, 0.78, 0.93),
                   (0.22, 0.36, 0.50, 0.64, 0.76)), 0.1, 0.0),
    "kelvin": (((0.10, 0.44, 0.78, 0.94, 1.0), (0.0, 0.20, 0.46, 0.72, 0.92),
                (0.0, 0.14, 0.32, 0.50, 0.66)), 0.0, 0.15),
}
"""Name -> (outputs at KNOTS for red, green, blue; share of grey mixed in; how much darker the corners are)."""


class Filter(Trigger):
    """Apply a named filter; grey images take the mean of the three curves.

    Values outside [0, 1], as noisy inputs have, are clipped for the curves; the clipped part is added back.

    Args:
        look: "gotham", "nashville" or "kelvin".

    Raises:
        ConfigError: an unknown name.
    """

    curves: Tensor

    def __init__(self, look: str):
        super().__init__()
        if look not in FILTERS:
            raise unknown("filter", look, FILTERS)
        curves, self.grey, self.corners = FILTERS[look]
        self.register_buffer("curves", torch.tensor(curves))

    def forward(self, x: Images, index: Index) -> Images:
        inside = x.clamp(0, 1)
        mixed = (1 - self.grey) * inside + self.grey * inside.mean(1, keepdim=True)
        curves = self.curves if x.shape[1] == 3 else self.curves.mean(0, keepdim=True)
        cell = (mixed * (len(KNOTS) - 1)).floor().clamp(max=len(KNOTS) - 2).long()
        share = mixed * (len(KNOTS) - 1) - cell
        table = curves.reshape(1, len(curves), 1, 1, -1).expand(*x.shape, -1)
        low, high = (table.gather(4, (cell + step)[..., None])[..., 0] for step in (0, 1))
        return (low + share * (high - low)) * self._vignette(x) + (x - inside)

    def _vignette(self, x: Images) -> Float[Tensor, "h w"]:
        """1 in the middle, 1 - corners in the corners."""
        down, across = (torch.linspace(-1, 1, side, device=x.device) for side in x.shape[2:])
        return 1 - self.corners * (down[:, None].square() + across.square()) / 2
