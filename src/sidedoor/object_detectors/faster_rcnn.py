"""Faster R-CNN with a MobileNetV3 feature pyramid (torchvision's), for small images and training from scratch.

Paper: Ren, He, Girshick, Sun, "Faster R-CNN: Towards Real-Time Object Detection with Region Proposal Networks", NeurIPS
2015, arXiv:1506.01497; Lin et al., "Feature Pyramid Networks for Object Detection", CVPR 2017, arXiv:1612.03144.

Smaller than torchvision's own: the pyramid has 64 channels and begins at an eighth of the size, the box head has 256.
All of the few hundred candidates of a small image count in the losses; the paper samples them.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FasterRCNN, FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.models.detection.roi_heads import fastrcnn_loss
from torchvision.models.detection.rpn import concat_box_prediction_layers
from torchvision.ops import MultiScaleRoIAlign

from sidedoor.metrics import detection
from sidedoor.metrics.detection import Found, Truth
from sidedoor.models.base import Normalize, Shape, require_size
from sidedoor.object_detectors.base import TAPS, WIDTHS, Detector, detections, mobilenet, targets
from sidedoor.types import Images

SIDES = (0.12, 0.22, 0.4)
"""Sides of the square anchors at the three sizes, as shares of the image's longer side."""
WIDTH, HEAD, POOLED = 64, 256, 7
EVERY = 1 << 20
"""More than there are candidates."""


def faster_rcnn(classes: int, shape: Shape) -> Detector:
    """A detector of 4 million parameters.

    Raises:
        ConfigError: images below 64×64.
    """
    require_size("faster_rcnn", shape, 64)
    return _FasterRCNN(classes, shape)


class _Maps(NamedTuple):
    """The normalised images, and the pyramid's maps."""

    images: Tensor
    features: dict[str, Tensor]

    def of(self, i: int) -> _Maps:
        return _Maps(self.images[i : i + 1], {name: f[i : i + 1] for name, f in self.features.items()})

    def listed(self) -> ImageList:
        height, width = self.images.shape[2:]
        return ImageList(self.images, [(height, width)] * len(self.images))


class _FasterRCNN(Detector):
    def __init__(self, classes: int, shape: Shape):
        super().__init__()
        self.normalize = Normalize((0.5,) * shape[0], (0.25,) * shape[0])
        backbone = BackboneWithFPN(mobilenet(shape[0]), TAPS, WIDTHS, WIDTH)
        sides = [round(side * max(shape[1:])) for side in (*SIDES, 0.6)]
        self.net = FasterRCNN(
            backbone, min_size=min(shape[1:]), max_size=max(shape[1:]),
            rpn_anchor_generator=AnchorGenerator(tuple((side,) for side in sides), ((0.5, 1.0, 2.0),) * len(sides)),
            box_roi_pool=MultiScaleRoIAlign([*TAPS.values()], POOLED, 2), box_head=TwoMLPHead(WIDTH * POOLED**2, HEAD),
            box_predictor=FastRCNNPredictor(HEAD, classes + 1), box_detections_per_img=detection.MOST,
            box_nms_thresh=0.45,
            rpn_pre_nms_top_n_train=1000, rpn_pre_nms_top_n_test=1000, rpn_post_nms_top_n_train=100,
            rpn_post_nms_top_n_test=100, rpn_batch_size_per_image=EVERY, box_batch_size_per_image=EVERY)

    def raw(self, x: Images) -> _Maps:
        images = self.normalize(x)
        return _Maps(images, self.net.backbone(images))

    def objectness(self, x: Images) -> Float[Tensor, "b n"]:
        logits, _ = self.net.rpn.head(list(self.raw(x).features.values()))
        return torch.cat([level.flatten(1) for level in logits], 1)

    def detect(self, x: Images, least: float = 0.01) -> Found:
        maps = self.raw(x)
        self.net.roi_heads.score_thresh = least
        proposals, _ = self.net.rpn(maps.listed(), maps.features)
        found, _ = self.net.roi_heads(maps.features, proposals, maps.listed().image_sizes)
        return detections(found, least)

    def losses(self, said: _Maps, truth: Truth) -> Float[Tensor, "b"]:
        return torch.stack([self._loss(said.of(i), targets(truth[i])) for i in range(len(truth))])

    def _loss(self, maps: _Maps, target: dict[str, Tensor]) -> Float[Tensor, ""]:
        """The loss of one image; torchvision gives losses of whole batches, and in training mode only."""
        rpn, heads = self.net.rpn, self.net.roi_heads
        features, images = list(maps.features.values()), maps.listed()
        objectness, deltas = rpn.head(features)
        anchors = rpn.anchor_generator(images, features)
        each = [o[0].numel() for o in objectness]
        objectness, deltas = concat_box_prediction_layers(objectness, deltas)
        labels, matched = rpn.assign_targets_to_anchors(anchors, [target])
        proposing = rpn.compute_loss(objectness, deltas, labels, rpn.box_coder.encode(matched, anchors))
        places = rpn.box_coder.decode(deltas.detach(), anchors).view(1, -1, 4)
        proposals, _ = rpn.filter_proposals(places, objectness, images.image_sizes, each)
        proposals, _, kinds, offsets = heads.select_training_samples(proposals, [target])
        pooled = heads.box_roi_pool(maps.features, proposals, images.image_sizes)
        logits, regression = heads.box_predictor(heads.box_head(pooled))
        return torch.stack([*proposing, *fastrcnn_loss(logits, regression, kinds, offsets)]).sum()
