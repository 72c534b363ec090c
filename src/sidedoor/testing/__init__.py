"""Contract checks that authors of methods run on their own: each says which rule broke, and how.

`check("badnets")` looks a registered name up, plug-ins included, and checks the contract of its kind on generated data
in about a second on one core. The other functions take the object itself, registered or not. Contracts say what every
method must do, not whether it works: that an attack succeeds or a repair helps is for its own tests.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sidedoor import registry
from sidedoor.data.root import Where
from sidedoor.errors import ConfigError
from sidedoor.testing.attack import check_attack, check_goal, check_trigger
from sidedoor.testing.defense import check_defense
from sidedoor.testing.ground import CLASSES, require
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

__all__ = ["check", "check_attack", "check_data", "check_defense", "check_design", "check_detector",
           "check_goal", "check_model", "check_operator", "check_restorer", "check_task", "check_trigger",
           "check_weighting"]


def check(name: str, /, *, where: Where | None = None, **parameters: Any) -> None:
    """Check the contract of a registered name.

    Args:
        where: the data root, for a data set.
        parameters: of the method, where its defaults are slow or it has none, such as `epochs=1`.

    Raises:
        AssertionError: which rule broke, and how.
        ConfigError: the name is unknown, or a parameter does not fit.
    """
    kind = registry.find(name).kind
    if kind == "data":
        check_data(registry.make(kind, {"name": name, **parameters}), where)
    elif kind == "model" and "scale" in registry.leading(kind, name):
        check_restorer(registry.make(kind, {"name": name, **parameters}))
    elif kind == "model":
        check_model(registry.make(kind, {"name": name, **parameters}))
    elif kind == "detector":
        check_detector(registry.make(kind, {"name": name, **parameters}))
    elif kind == "trigger":
        check_trigger(_made(kind, name, parameters), (3, 16, 16))
    elif kind == "task":
        check_task(_made(kind, name, dict.fromkeys(registry.leading(kind, name), CLASSES) | parameters))
    else:
        method = _made(kind, name, parameters)
        require(registry.make(kind, registry.plain(method)) == method, f"{kind} {name}",
                f"written to a config and read again, {method} is another")
        contracts: dict[str, Callable[[Any], None]] = {
            "attack": check_attack, "defense": check_defense, "goal": check_goal, "design": check_design,
            "weighting": check_weighting, "operator": check_operator}
        contracts[kind](method)


def _made(kind: str, name: str, parameters: dict[str, Any]) -> Any:
    """A method from objects, which a trigger's parameters need not have a form in a config for."""
    try:
        return registry.load(kind, name)(**parameters)
    except TypeError as error:
        raise ConfigError(f"{name} cannot be made from {parameters or 'its defaults'}: {error}; give its parameters to "
                          "check()") from error
