"""What the four numbers are called, and how they are written, for the task that they belong to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sidedoor.bench.record import Record


@dataclass(frozen=True)
class Terms:
    """Names of the clean, attack, recovered and idle number.

    Args:
        shares: whether they are shares, written in percent; else similarities, written with three decimals.
        note: what they mean, in words.
    """

    clean: str
    attack: str
    recovered: str
    idle: str
    shares: bool
    note: str

    def heading(self, name: str) -> str:
        """The heading of a column of one of the four numbers."""
        return f"{getattr(self, name)}{' %' if self.shares else ''}"

    def written(self, value: float | None, missing: str = "–") -> str:
        """One number as tables write it."""
        if value is None or value != value:
            return missing
        return f"{value * 100:.1f}" if self.shares else f"{value:.3f}"


TERMS = {
    "classification": Terms(
        "C-Acc", "ASR", "R-Acc", "Idle", True,
        "C-Acc: accuracy on clean inputs. ASR: share of triggered inputs that reach the attacker's goal, of those that "
        "are not there anyway. R-Acc: accuracy on triggered inputs. Idle: the ASR without any trigger."),
    "restoration": Terms(
        "Normal", "Effect", "Recovered", "Idle", False,
        "Structural similarities in [0, 1]. Normal: output to the true image, on clean inputs. Effect: output to the "
        "attacker's target, on triggered inputs. Recovered: output to the true image, on triggered inputs. Idle: "
        "output to the attacker's target, on clean inputs."),
    "restored_classification": Terms(
        "Accuracy", "Fooled", "Recovered", "Without trigger", True,
        "Of classifiers behind the network. Accuracy: right on restored clean inputs. Fooled: another class than of "
        "the true image, on triggered inputs. Recovered: right on triggered inputs. Without trigger: another class "
        "than of the true image, on clean inputs."),
    "restored_detection": Terms(
        "F1", "Fabricated", "Recovered", "Without trigger", True,
        "Of detectors behind the network. F1: of detections on restored clean inputs. Fabricated: triggered inputs "
        "with a box that the true image has not. Recovered: F1 on triggered inputs. Without trigger: clean inputs with "
        "a box that the true image has not."),
}
OTHER = Terms("Clean", "Attack", "Recovered", "Idle", False, "The four numbers of each task, in [0, 1].")


def terms_of(records: Sequence[Record]) -> Terms:
    """The terms of the task that all records share, else terms that fit any."""
    tasks = {(record.spec.get("task") or {"name": "classification"})["name"] for record in records}
    return TERMS.get(str(tasks.pop()), OTHER) if len(tasks) == 1 else OTHER
