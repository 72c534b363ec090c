"""Contract checks that authors of methods run on their own: each says which rule broke, and how.

`check("badnets")` looks a registered name up, plug-ins included, and checks the contract of its kind on generated data
in about a second on one core. The other functions take the object itself, registered or not. Contracts say what every
method must do, not whether it works: that an attack succeeds or a repair helps is for its own tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any

from sidedoor import registry
from sidedoor.data.root import Where
from sidedoor.errors import ConfigError
from sidedoor.testing.attack import check_attack, check_goal, check_trigger
from sidedoor.testing.defense import check_defense
from sidedoor.testing.explain import check_explainer
from sidedoor.testing.ground import CLASSES, require
from sidedoor.testing.ownership import check_verifier
from sidedoor.testing.parts import (
    check_data,
    check_design,
    check_detector,
    check_model,
    check_operator,
    check_restorer,
    check_task,
    check_weighting,
)
from sidedoor.testing.tracking import check_response_goal, check_tracker

__all__ = ["check", "check_attack", "check_data", "check_defense", "check_design", "check_detector",
           "check_explainer", "check_goal", "check_model", "check_operator", "check_response_goal", "check_restorer",
           "check_task", "check_tracker", "check_trigger", "check_verifier", "check_weighting"]


CONTRACTS: dict[str, Callable[..., None]] = {
    "attack": check_attack, "defense": check_defense, "goal": check_goal, "task": check_task, "model": check_model,
    "data": check_data, "trigger": check_trigger, "trigger_design": check_design, "weighting": check_weighting,
    "object_detector": check_detector, "forward_operator": check_operator,
    "verifier": check_verifier, "explainer": check_explainer,
}
"""The contract of each kind of the registry."""

IMAGE = (3, 16, 16)
"""Shape of the images that a trigger is put into."""


def check(name: str, /, *, where: Where | None = None, **parameters: Any) -> None:
    """Check the contract of a registered name.

    Args:
        where: the data root, for a data set.
        parameters: of the method, over those of its `quick`; needed where it has no defaults.

    Raises:
        AssertionError: which rule broke, and how.
        ConfigError: the name is unknown, or a parameter does not fit.
    """
    entry = registry.find(name)
    kind = registry.kind_of(entry.kind)
    contract, taken = CONTRACTS[kind.name], registry.leading(kind.name, name)
    as_tagged = not parameters
    parameters = registry.quick(kind.name, name) | parameters
    if kind.base is None:
        made = registry.make(kind.name, {"name": name, **parameters})
        contract = check_restorer if "scale" in taken else check_tracker if "crop" in taken else contract
        contract(made, *([where] if "where" in taken else []))
        return
    method = _made(kind.name, name, dict.fromkeys(taken, CLASSES) | parameters)
    if is_dataclass(method) and not taken:
        require(registry.make(kind.name, registry.plain(method)) == method, f"{kind.name} {name}",
                f"written to a config and read again, {method} is another")
    further: dict[str, list[Any]] = {"trigger": [IMAGE], "attack": [entry.tags] if as_tagged else []}
    contract(method, *further.get(kind.name, []))


def _made(kind: str, name: str, parameters: dict[str, Any]) -> Any:
    """A method from objects, which a trigger's parameters need not have a form in a config for."""
    try:
        return registry.load(kind, name)(**parameters)
    except TypeError as error:
        raise ConfigError(f"{name} cannot be made from {parameters or 'its defaults'}: {error}; give its parameters to "
                          "check()") from error
