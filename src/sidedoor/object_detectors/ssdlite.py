"""SSDLite with a MobileNetV3 backbone (torchvision's), for small images and training from scratch.

Paper: Liu et al., "SSD: Single Shot MultiBox Detector", ECCV 2016, arXiv:1512.02325; Sandler et al., "MobileNetV2:
Inverted Residuals and Linear Bottlenecks", CVPR 2018, arXiv:1801.04381 (its depthwise-separable heads); Howard et al.,
"Searching for MobileNetV3", ICCV 2019, arXiv:1905.02244.

Boxes are predicted at an eighth, a sixteenth and a thirty-second of the size rather than from a sixteenth on, for
images of 64 to 128 pixels.
"""

from __future__ import annotations

from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torchvision.models._utils import IntermediateLayerGetter
from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.ssd import SSD
from torchvision.models.detection.ssdlite import SSDLiteHead
from torchvision.ops import box_iou

from sidedoor.metrics import detection
from sidedoor.metrics.detection import Found, Truth
from sidedoor.models.base import Normalize, Shape, require_size
from sidedoor.object_detectors.base import TAPS, WIDTHS, Detector, detections, mobilenet, targets
from sidedoor.types import Images

SCALES = (0.1, 0.2, 0.37, 0.6)
"""Sides of the default boxes at the three sizes, as shares of the image's, and the one that would come next."""

Heads = dict[str, Tensor]


def ssdlite(classes: int, shape: Shape) -> Detector:
    """A detector of 3 million parameters.

    Raises:
        ConfigError: images below 64×64.
    """
    require_size("ssdlite", shape, 64)
    return _SSDLite(classes, shape)


class _SSDLite(Detector):
    def __init__(self, classes: int, shape: Shape):
        super().__init__()
        self.normalize = Normalize((0.5,) * shape[0], (0.25,) * shape[0])
        backbone = IntermediateLayerGetter(mobilenet(shape[0]), TAPS)
        anchors = DefaultBoxGenerator([[2, 3], [2, 3], [2, 3]], scales=list(SCALES))
        norm = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)
        head = SSDLiteHead(WIDTHS, anchors.num_anchors_per_location(), classes + 1, norm)
        self.ssd = SSD(backbone, anchors, shape[1:], classes + 1, head=head, detections_per_img=detection.MOST)

    def raw(self, x: Images) -> tuple[Heads, list[Tensor]]:
        """Logits of the classes, the first the background, and the boxes' offsets; the default boxes."""
        images = self.normalize(x)
        features = list(self.ssd.backbone(images).values())
        size = (x.shape[2], x.shape[3])
        heads: Heads = self.ssd.head(features)
        return heads, self.ssd.anchor_generator(ImageList(images, [size] * len(x)), features)

    def objectness(self, x: Images) -> Float[Tensor, "b n"]:
        logits = self.raw(x)[0]["cls_logits"]
        return logits[..., 1:].logsumexp(2) - logits[..., 0]

    def detect(self, x: Images, least: float = 0.01) -> Found:
        heads, anchors = self.raw(x)
        self.ssd.score_thresh = least
        found = self.ssd.postprocess_detections(heads, anchors, [(x.shape[2], x.shape[3])] * len(x))
        return detections(found, least)

    def losses(self, said: tuple[Heads, list[Tensor]], truth: Truth) -> Float[Tensor, "b"]:
        heads, anchors = said
        return torch.stack([self._loss({k: v[i : i + 1] for k, v in heads.items()}, anchors[i], truth[i])
                            for i in range(len(truth))])

    def _loss(self, heads: Heads, anchors: Tensor, truth: Tensor) -> Float[Tensor, ""]:
        """The loss of one image; torchvision gives that of a batch."""
        target = targets(truth)
        if len(target["boxes"]):
            matched = self.ssd.proposal_matcher(box_iou(target["boxes"], anchors))
        else:
            matched = anchors.new_full((len(anchors),), -1, dtype=torch.int64)
        losses: dict[str, Tensor] = self.ssd.compute_loss([target], heads, [anchors], [matched])
        return torch.stack([*losses.values()]).sum()
