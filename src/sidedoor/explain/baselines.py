"""Maps that look at no model, which explanations must be better than, and one that knows the trigger.

Every table of an evaluation has them: a random map, the edges of the image, and the blurred change of the pixels.
"""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from sidedoor.core import random
from sidedoor.engine import Run
from sidedoor.explain.triggered import Triggered
from sidedoor.image.edges import strength

BLUR = 1.0
"""Standard deviation in pixels, by which even a map that knows the trigger misses its edges."""

RANDOM, EDGES, CHANGE = "random", "sobel", "blurred change"
NAMES = (RANDOM, EDGES, CHANGE)


def baseline(name: str, images: Triggered, run: Run) -> Float[Tensor, "n h w"]:
    """The maps of a baseline, on the CPU: random numbers, keyed by the images' indices; the gradient of brightness of
    the triggered images; or |x' - x| behind a Gaussian blur, which no method knows, as a bound for coarse maps.
    """
    height, width = images.x.shape[-2:]
    if name == RANDOM:
        seed = random.seed_of(run.seed, f"{run.scope}random maps")
        return random.uniform(seed, images.index.cpu(), height, width)
    if name == EDGES:
        return strength(images.triggered, "sobel")[:, 0].cpu()
    change = (images.triggered - images.x).abs().amax(1, keepdim=True)
    size = min(2 * int(3 * BLUR) + 1, 2 * ((min(height, width) - 1) // 2) + 1)
    blurred: Tensor = gaussian_blur(change, [size, size], [BLUR, BLUR])[:, 0].cpu()
    return blurred
