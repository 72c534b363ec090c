"""torchjd: any stateless aggregator of the library, as `torchjd:UPGrad`; needs the extra `sidedoor[mtl]`.

Paper: Quinton, Rey, "Jacobian Descent for Multi-Objective Optimization", 2024, arXiv:2406.16232; torchjd's
documentation names that of each aggregator. `torchjd:PCGrad` is an independent source for `pcgrad`'s symmetric variant.

UPGrad and DualProj solve a quadratic programme by quadprog, which is under the GPL: the extra `sidedoor[mtl-gpl]`.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from torch import nn

from sidedoor.errors import CannotComplete, ConfigError, unknown
from sidedoor.multitask.base import Aggregator, Losses, Weighting
from sidedoor.multitask.pcgrad import jacobian, spread


@dataclass(frozen=True)
class TorchJD(Weighting):
    """Aggregate the tasks' gradients as torchjd does.

    Args:
        aggregator: a class of `torchjd.aggregation`; one that keeps a state between steps is refused, since a phase
            that was interrupted could not resume it.
        options: arguments of its constructor, as pairs of a name and a number: (("c", 0.5),).
    """

    aggregator: str = "UPGrad"
    options: tuple[tuple[str, float], ...] = ()

    def start(self, tasks: int) -> Aggregator:
        """A fresh aggregator.

        Raises:
            CannotComplete: torchjd, or what this aggregator needs beside it, is not installed.
            ConfigError: unknown aggregator, or one that does not take these options.
        """
        try:
            from torchjd import aggregation
        except ImportError as error:
            raise CannotComplete("the weighting torchjd needs torchjd; pip install 'sidedoor[mtl]'") from error
        known = {name: kind for name, kind in vars(aggregation).items()
                 if inspect.isclass(kind) and issubclass(kind, aggregation.Aggregator)
                 and not inspect.isabstract(kind) and not hasattr(kind, "reset")}
        if self.aggregator not in known:
            raise unknown("stateless aggregator of torchjd", self.aggregator, sorted(known))
        try:
            return _Aggregated(known[self.aggregator](**dict(self.options)))
        except ImportError as error:
            raise CannotComplete(f"torchjd:{self.aggregator}: {error}; UPGrad and DualProj need quadprog, which is "
                                 "under the GPL: pip install 'sidedoor[mtl-gpl]'") from error
        except (TypeError, ValueError) as error:
            raise ConfigError(f"torchjd:{self.aggregator} with options {dict(self.options)}: {error}") from error


class _Aggregated(Aggregator):
    def __init__(self, aggregator: Any):
        super().__init__()
        self.aggregator = aggregator

    def backward(self, losses: Losses, parameters: list[nn.Parameter]) -> None:
        spread(self.aggregator(jacobian(losses, parameters)), parameters)
