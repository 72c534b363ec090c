"""How well a detector tells stamped digits from clean ones."""

from __future__ import annotations

import torch
from backdoored_digits import Scene
from sklearn.metrics import roc_auc_score
from torch import nn

from sidedoor.defenses.detectors.base import InputDetector
from sidedoor.triggers.base import stamp


def auroc(scene: Scene, model: nn.Module, method: InputDetector, count: int = 150) -> float:
    """Of a detector fitted to a model, over stamped eligible test images and their originals."""
    eligible = scene.door.goal.eligible(scene.task, scene.test.targets)
    batch = scene.test.fetch(torch.nonzero(eligible)[:count, 0])
    stamped = stamp(scene.door.trigger, batch.x, batch.index, scene.test.space)
    detect = method.fit(method.needs.model_for(model, scene.task), method.needs.clean_for(scene.clean), scene.task,
                        scene.run)
    scores = torch.cat([detect(batch.x, batch.index), detect(stamped, batch.index)])
    return float(roc_auc_score([0] * len(batch.x) + [1] * len(batch.x), scores.numpy()))
