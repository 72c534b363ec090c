"""sidedoor: plant backdoors in vision models, defend against them, and measure both.

What a plug-in or a script needs is here; names are imported when they are first used, so `import sidedoor` costs
nothing. Methods have names (`sidedoor list`), and `sidedoor.make("attack", "badnets")` makes one.
"""

from __future__ import annotations

import importlib
import importlib.metadata
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sidedoor.apps.explain import Explained as Explained
    from sidedoor.apps.explain import explain_model as explain_model
    from sidedoor.attacks.base import Attack as Attack
    from sidedoor.attacks.base import CleanLabelAttack as CleanLabelAttack
    from sidedoor.attacks.base import PoisoningAttack as PoisoningAttack
    from sidedoor.attacks.base import TrainingAttack as TrainingAttack
    from sidedoor.attacks.base import WeightAttack as WeightAttack
    from sidedoor.backdoor import select as select
    from sidedoor.backdoor.base import Access as Access
    from sidedoor.backdoor.base import AttackerRun as AttackerRun
    from sidedoor.backdoor.base import Backdoor as Backdoor
    from sidedoor.backdoor.base import Planted as Planted
    from sidedoor.backdoor.base import Poison as Poison
    from sidedoor.backdoor.dataset import PoisonedDataset as PoisonedDataset
    from sidedoor.backdoor.dataset import seal as seal
    from sidedoor.backdoor.secret import Secret as Secret
    from sidedoor.backdoor.secret import Watermark as Watermark
    from sidedoor.bench.machine import Machine as Machine
    from sidedoor.bench.record import Record as Record
    from sidedoor.bench.run import run as run
    from sidedoor.bench.spec import Spec as Spec
    from sidedoor.bench.store import Store as Store
    from sidedoor.bench.sweep import sweep as sweep
    from sidedoor.claims.release import WatermarkSettings as WatermarkSettings
    from sidedoor.claims.release import watermark as watermark
    from sidedoor.claims.result import Released as Released
    from sidedoor.claims.result import Verified as Verified
    from sidedoor.claims.verify import replay as replay
    from sidedoor.claims.verify import verify as verify
    from sidedoor.data.base import Dataset as Dataset
    from sidedoor.data.base import Splits as Splits
    from sidedoor.data.base import split as split
    from sidedoor.data.base import wrap as wrap
    from sidedoor.data.root import self_contained as self_contained
    from sidedoor.defenses.audits.base import ModelAudit as ModelAudit
    from sidedoor.defenses.base import Needs as Needs
    from sidedoor.defenses.detectors.base import InputDetector as InputDetector
    from sidedoor.defenses.filters.base import DataFilter as DataFilter
    from sidedoor.defenses.filters.base import GuidedFilter as GuidedFilter
    from sidedoor.defenses.purifiers.base import Purifier as Purifier
    from sidedoor.defenses.repair.base import Repair as Repair
    from sidedoor.defenses.repair.base import TunedRepair as TunedRepair
    from sidedoor.defenses.training.base import AidedTraining as AidedTraining
    from sidedoor.defenses.training.base import TrainingDefense as TrainingDefense
    from sidedoor.engine import Objective as Objective
    from sidedoor.engine import Player as Player
    from sidedoor.engine import Recipe as Recipe
    from sidedoor.engine import Run as Run
    from sidedoor.errors import CannotComplete as CannotComplete
    from sidedoor.errors import ConfigError as ConfigError
    from sidedoor.errors import NotApplicable as NotApplicable
    from sidedoor.evaluation import evaluate as evaluate
    from sidedoor.evidence import Exhibit as Exhibit
    from sidedoor.evidence import Finding as Finding
    from sidedoor.evidence import Localisation as Localisation
    from sidedoor.evidence import Rule as Rule
    from sidedoor.evidence import Verdict as Verdict
    from sidedoor.explain.base import Explainer as Explainer
    from sidedoor.goals.all_to_one import AllToOne as AllToOne
    from sidedoor.goals.base import Door as Door
    from sidedoor.goals.base import Goal as Goal
    from sidedoor.method import Count as Count
    from sidedoor.method import Label as Label
    from sidedoor.method import Method as Method
    from sidedoor.method import NonNegative as NonNegative
    from sidedoor.method import Positive as Positive
    from sidedoor.method import Share as Share
    from sidedoor.method import Whole as Whole
    from sidedoor.models.base import classifier as classifier
    from sidedoor.ownership.base import Answers as Answers
    from sidedoor.ownership.base import Suspect as Suspect
    from sidedoor.ownership.base import Verifier as Verifier
    from sidedoor.registry import make as make
    from sidedoor.tasks.classification import Classification as Classification
    from sidedoor.tasks.task import Supervised as Supervised
    from sidedoor.tasks.task import Task as Task
    from sidedoor.triggers.base import Trigger as Trigger
    from sidedoor.triggers.base import stamp as stamp
    from sidedoor.triggers.patch import Patch as Patch
    from sidedoor.types import Batch as Batch
    from sidedoor.types import Build as Build
    from sidedoor.types import Images as Images
    from sidedoor.types import Index as Index
    from sidedoor.types import Space as Space
    from sidedoor.vetting.filter.filtering import FilterSettings as FilterSettings
    from sidedoor.vetting.filter.filtering import filter_data as filter_data
    from sidedoor.vetting.filter.result import Filtered as Filtered
    from sidedoor.vetting.repair import Repaired as Repaired
    from sidedoor.vetting.repair import RepairSettings as RepairSettings
    from sidedoor.vetting.repair import repair_model as repair_model
    from sidedoor.vetting.result import Scan as Scan
    from sidedoor.vetting.scan import ScanSettings as ScanSettings
    from sidedoor.vetting.scan import scan as scan
    from sidedoor.zoo import load as load
    from sidedoor.zoo import network as network

_HOMES = {
    "apps.explain": ("Explained", "explain_model"),
    "attacks.base": ("Attack", "CleanLabelAttack", "PoisoningAttack", "TrainingAttack", "WeightAttack"),
    "backdoor": ("select",),
    "backdoor.base": ("Access", "AttackerRun", "Backdoor", "Planted", "Poison"),
    "backdoor.dataset": ("PoisonedDataset", "seal"), "bench.machine": ("Machine",), "bench.record": ("Record",),
    "bench.run": ("run",), "bench.spec": ("Spec",), "bench.store": ("Store",), "bench.sweep": ("sweep",),
    "backdoor.secret": ("Secret", "Watermark"), "claims.release": ("WatermarkSettings", "watermark"),
    "claims.result": ("Released", "Verified"), "claims.verify": ("replay", "verify"),
    "data.base": ("Dataset", "Splits", "split", "wrap"), "data.root": ("self_contained",),
    "defenses.audits.base": ("ModelAudit",), "defenses.base": ("Needs",),
    "defenses.detectors.base": ("InputDetector",), "defenses.filters.base": ("DataFilter", "GuidedFilter"),
    "defenses.purifiers.base": ("Purifier",), "defenses.repair.base": ("Repair", "TunedRepair"),
    "defenses.training.base": ("AidedTraining", "TrainingDefense"), "engine": ("Objective", "Player", "Recipe", "Run"),
    "errors": ("CannotComplete", "ConfigError", "NotApplicable"), "evaluation": ("evaluate",),
    "evidence": ("Exhibit", "Finding", "Localisation", "Rule", "Verdict"), "goals.all_to_one": ("AllToOne",),
    "explain.base": ("Explainer",), "goals.base": ("Door", "Goal"),
    "method": ("Count", "Label", "Method", "NonNegative", "Positive", "Share", "Whole"),
    "models.base": ("classifier",), "ownership.base": ("Answers", "Suspect", "Verifier"), "registry": ("make",),
    "tasks.classification": ("Classification",),
    "tasks.task": ("Supervised", "Task"), "triggers.base": ("Trigger", "stamp"), "triggers.patch": ("Patch",),
    "types": ("Batch", "Build", "Images", "Index", "Space"),
    "vetting.filter.filtering": ("FilterSettings", "filter_data"), "vetting.filter.result": ("Filtered",),
    "vetting.repair": ("RepairSettings", "Repaired", "repair_model"), "vetting.result": ("Scan",),
    "vetting.scan": ("ScanSettings", "scan"), "zoo": ("load", "network"),
}
_HOME = {name: module for module, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME)


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.metadata.version("sidedoor")
    if name not in _HOME:
        raise AttributeError(f"module 'sidedoor' has no attribute {name!r}")
    home = f"sidedoor.{_HOME[name]}"
    if name == "select":
        return importlib.import_module(f"{home}.{name}")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
