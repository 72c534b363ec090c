"""Hyper-parameters are checked when a method is made."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, dataclass
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidedoor.errors import ConfigError
from sidedoor.method import Bounds, Count, Label, Method, NonNegative, Positive, Share, Whole, check_labels


@dataclass(frozen=True)
class Example(Method):
    rate: Share = 0.1
    count: Count = 1
    lr: Positive = 1e-3
    decay: NonNegative = 0.0
    kind: Literal["a", "b"] = "a"
    whole: Whole = 0
    labels: tuple[int, ...] = (0, 1)
    pair: tuple[int, float] = (1, 2.0)
    limit: float | None = None
    angle: Annotated[float, Bounds(-180, 180)] = 0.0
    flag: bool = False
    anything: Any = None


@pytest.mark.parametrize(("field", "value"), [
    ("rate", 0), ("rate", 1.0), ("count", 10**9), ("lr", 1e-12), ("decay", 0), ("kind", "b"), ("labels", ()),
    ("labels", (3, 2, 1)), ("pair", (0, 1)), ("limit", None), ("limit", 2), ("angle", -180), ("flag", True),
    ("anything", object),
])
def test_what_fits_is_stored_as_it_is(field: str, value: object) -> None:
    assert getattr(Example(**{field: value}), field) is value


@pytest.mark.parametrize(("field", "value", "message"), [
    ("rate", 1.5, r"Example.rate = 1.5 given; expected between 0 and 1"),
    ("rate", -0.1, r"Example.rate = -0.1 given; expected between 0 and 1"),
    ("rate", float("nan"), r"Example.rate = nan given; expected between 0 and 1"),
    ("rate", "0.5", r"Example.rate = '0.5' given; expected float"),
    ("rate", None, r"Example.rate = None given; expected float"),
    ("count", 0, r"Example.count = 0 given; expected at least 1"),
    ("count", 2.0, r"Example.count = 2.0 given; expected int"),
    ("count", True, r"Example.count = True given; expected int"),
    ("whole", -1, r"Example.whole = -1 given; expected at least 0"),
    ("decay", float("inf"), r"Example.decay = inf given; expected a finite number"),
    ("pair", (1, float("nan")), r"Example.pair\[1\] = nan given; expected a finite number"),
    ("lr", 0, r"Example.lr = 0 given; expected a positive number"),
    ("decay", -1e-9, r"Example.decay = -1e-09 given; expected at least 0"),
    ("kind", "c", r"Example.kind = 'c' given; expected one of 'a', 'b'"),
    ("labels", [0, 1], r"Example.labels = \[0, 1\] given; expected a .*"),
    ("labels", (0, "1"), r"Example.labels\[1\] = '1' given; expected int"),
    ("pair", (1, 2.0, 3), r"Example.pair has 3 entries; expected 2"),
    ("pair", (1.0, 2.0), r"Example.pair\[0\] = 1.0 given; expected int"),
    ("limit", "x", r"Example.limit = 'x' given; expected float \| None"),
    ("angle", 181, r"Example.angle = 181 given; expected between -180 and 180"),
    ("flag", 1, r"Example.flag = 1 given; expected bool"),
])
def test_what_does_not_fit_is_refused_by_name(field: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}$") as error:
        Example(**{field: value})
    assert error.value.exit_code == 4


@dataclass(frozen=True)
class Named(Method):
    label: Label = 0
    others: tuple[Label, ...] = ()
    inner: Method = Example()
    number: int = 99


@pytest.mark.parametrize(("method", "message"), [
    (Named(4), "Named.label = 4 given"), (Named(others=(1, 7)), r"Named.others = \(1, 7\) given"),
    (Named(inner=Named(others=(4,))), "Named.others = 4 given"),
], ids=repr)
def test_a_class_that_the_data_do_not_have_is_refused_by_name(method: Method, message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}; the data have classes 0 to 3$"):
        check_labels(method, [1] * 4)
    check_labels(method, [1] * 8)


def test_a_class_without_a_training_sample_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"^Named.others = \(0, 2\) given; the training data have no sample of class"):
        check_labels(Named(others=(0, 2)), [5, 5, 0, 5])
    check_labels(Named(others=(0, 1)), [5, 5, 0, 5])


@given(st.floats(0, 1), st.integers(1, 10**6))
def test_methods_are_values(rate: float, count: int) -> None:
    one, two = Example(rate=rate, count=count), Example(rate=rate, count=count)
    assert one == two
    assert hash(one) == hash(two)
    assert pickle.loads(pickle.dumps(one)) == one
    assert eval(repr(one)) == one


def test_methods_are_frozen() -> None:
    with pytest.raises(FrozenInstanceError):
        Example().rate = 0.2  # type: ignore[misc]


def test_inherited_parameters_are_checked_too() -> None:
    @dataclass(frozen=True)
    class Child(Example):
        extra: Count = 2

    with pytest.raises(ConfigError, match=r"Child.rate = 2 given"):
        Child(rate=2)
    with pytest.raises(ConfigError, match=r"Child.extra = 0 given"):
        Child(extra=0)
