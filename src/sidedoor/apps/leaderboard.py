"""Entries of a leaderboard: what a method did on one data set and network, as one JSON file that anyone can check.

An entry has its cells with their specifications in full, so that whoever doubts it runs some of them again
(`leaderboard_check`). `leaderboard.schema.json` is the same form as a JSON Schema, for other programs.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from sidedoor import registry
from sidedoor.bench.record import Record, half_of
from sidedoor.bench.schema import fit
from sidedoor.core.files import read_json, write_json
from sidedoor.errors import CannotComplete, ConfigError, unknown
from sidedoor.method import Share, Whole
from sidedoor.metrics.comparison import block_mean, hierarchical_interval
from sidedoor.report.outcomes import DETECTOR, Outcome, blocks_of, outcomes
from sidedoor.report.overview import data_name
from sidedoor.report.ranking import by_block, rank

SCHEMA = 1
Interval = tuple[float, float, float]
"""Mean, low, high."""
By = Literal["us", "submitter"]
_LINK = ("https://", "http://")


@dataclass(frozen=True)
class Adaptive:
    """What an attacker who knows the defence reaches.

    Args:
        who: has tried it.
        link: to how, or empty.
    """

    attack: str
    asr: Share
    who: str
    link: str = ""


@dataclass(frozen=True)
class External:
    """A number from elsewhere, in words."""

    what: str
    value: str
    who: str
    link: str = ""


@dataclass(frozen=True)
class Cell:
    """One cell.

    Args:
        key: of its record.
        block: the `id` of a block.
        status: of its record; only "done" counts in means.
        clean, asr, recovered: after the defence, end to end for a detector; None without numbers.
        before: the same before it.
        test, eligible: images behind them.
        spec: the specification in full.
    """

    key: str
    block: str
    seed: int
    status: str
    error: str
    spec: dict[str, Any]
    clean: Share | None = None
    asr: Share | None = None
    recovered: Share | None = None
    before: dict[str, float | None] = field(default_factory=dict)
    net: float | None = None
    der: Share | None = None
    test: Whole = 0
    eligible: Whole = 0


@dataclass(frozen=True)
class Block:
    """Means over the seeds of one attack; intervals are of seeds."""

    id: str
    name: str
    seeds: int
    clean: Interval
    asr: Interval
    recovered: Interval | None
    der: Interval
    net: Interval


@dataclass(frozen=True)
class Means:
    """Over blocks, of means over seeds; intervals resample both."""

    clean: Interval
    asr: Interval
    recovered: Interval | None
    der: Interval
    net: Interval


@dataclass(frozen=True)
class Rank:
    """Its mean rank among the methods of the store that it came from."""

    mean: float
    low: float
    high: float
    first: Share
    methods: int
    blocks: int


@dataclass(frozen=True)
class Cost:
    """Medians over cells; the largest of memory. `clean_samples` is 0 for a method that gets none."""

    seconds: float
    peak_mb: float
    clean_samples: int


@dataclass(frozen=True)
class Entry:
    """A method on one data set and network.

    Args:
        method: its name, with those parameters that varied in the store.
        reference: the defence or pipeline with all parameters.
        version: of sidedoor that the cells were run with.
        access: what the defence is given, in words.
        commit: of the code, where it was no release.
        tier: the grid that the cells are of; means of different tiers do not compare.
        worst: the `id` of the block with the least net.
        seeds: the least number in a block.
        unreliable: why its numbers are not to be trusted, or empty.
        verified_by: who has run the cells.
    """

    method: str
    reference: dict[str, Any] | list[dict[str, Any]]
    version: str
    stage: str
    access: str
    paper: str
    authors: str
    commit: str
    data: str
    model: str
    tier: str
    blocks: tuple[Block, ...]
    means: Means
    worst: str
    rank: Rank | None
    cost: Cost
    seeds: int
    cells: tuple[Cell, ...]
    verified_by: By = "submitter"
    unreliable: str = ""
    adaptive: tuple[Adaptive, ...] = ()
    external: tuple[External, ...] = ()
    schema: int = SCHEMA

    @property
    def board(self) -> tuple[str, str, str]:
        """Within which it compares."""
        return self.data, self.model, self.tier

    @property
    def worst_block(self) -> Block:
        return next(block for block in self.blocks if block.id == self.worst)

    @property
    def specs(self) -> tuple[str, ...]:
        """Keys of the cells that count."""
        return tuple(cell.key for cell in self.cells if cell.status == "done")

    def to_json(self) -> dict[str, Any]:
        """As JSON writes it."""
        return json.loads(json.dumps({"schema": self.schema} | asdict(self)))  # type: ignore[no-any-return]


def entry_of(records: Sequence[Record], method: str, tier: str = "") -> Entry:
    """The entry of a method from the records of one data set and network.

    Raises:
        ConfigError: no such method, or records of several data sets or networks.
        CannotComplete: the method has no finished cell whose attack worked.
    """
    every = outcomes(records)
    found = [each for each in every if each.method == method]
    if not found:
        raise unknown("method", method, {each.method for each in every})
    scored = [each for each in found if each.scored]
    if not scored:
        raise CannotComplete(f"{method} has no cell that came to its end and whose attack worked; run some first")
    data, model = (_only(values, what) for values, what in (
        ([data_name(each.record.spec.get("data")) for each in found], "data set"),
        ([str(each.record.spec["model"]["name"]) for each in found], "network")))
    alike = [record for record in records if (data_name(record.spec.get("data")), record.spec["model"]["name"])
             == (data, model)]
    names = [part["name"] for part in _parts(found[0].record.spec["defense"])]
    known = [_known(name) for name in names]
    blocks = _blocks(scored)
    return Entry(
        method, found[0].record.spec["defense"], scored[0].record.versions.get("sidedoor", ""), found[0].stage,
        "; then ".join(filter(None, (each.access for each in known if each))) or scored[0].record.given,
        "; ".join(filter(None, (each.paper for each in known if each))), "", "", data, model, tier, blocks,
        _means(scored), min(blocks, key=lambda block: block.net[0]).id, _rank(alike, method), _cost(scored),
        min(block.seeds for block in blocks), tuple(cell_of(each) for each in found))


def kept(fresh: Entry, before: Entry) -> Entry:
    """A new entry of a method with what people have written into the one before."""
    names = ("authors", "commit", "tier", "adaptive", "external", "unreliable", "verified_by")
    return replace(fresh, **{name: getattr(before, name) for name in names if not getattr(fresh, name)
                             or name == "verified_by"})


def read(path: Path) -> Entry:
    """An entry of unknown origin.

    Raises:
        CannotComplete: the file cannot be read, or is no entry.
    """
    try:
        return from_json(read_json(path))
    except (OSError, ValueError) as error:
        raise CannotComplete(f"{path} is no entry of a leaderboard: {error}") from error


def from_json(value: Any) -> Entry:
    """The entry that `Entry.to_json` wrote.

    Raises:
        ConfigError: it is none, or its parts do not fit each other.
    """
    fit("", value, Entry)
    if value.get("schema") != SCHEMA:
        raise ConfigError(f"schema is {value.get('schema')!r}; this sidedoor reads {SCHEMA}")
    parts = {"blocks": Block, "cells": Cell, "adaptive": Adaptive, "external": External}
    single = {"means": Means, "rank": Rank, "cost": Cost}
    names = Entry.__dataclass_fields__
    made = {name: item for name, item in value.items() if name in names}
    made |= {name: tuple(_made(cls, each) for each in value.get(name, ())) for name, cls in parts.items()}
    made |= {name: value[name] and _made(cls, value[name]) for name, cls in single.items()}
    return _checked(Entry(**made))


def write(entry: Entry, path: Path) -> None:
    """Write an entry that `read` takes."""
    from_json(entry.to_json())
    write_json(path, entry.to_json())


def block_id(record: Record) -> str:
    """The same for cells of the same attack, data, network and training, wherever data lie and whatever else a store
    has.
    """
    half = half_of(record.spec, "seed", "defender_seed")
    half["data"] = {name: part for name, part in half["data"].items() if name != "path"} | {"is": record.data}
    return hashlib.sha256(json.dumps(half, sort_keys=True).encode()).hexdigest()[:16]


def _made(cls: Any, value: dict[str, Any]) -> Any:
    return cls(**{name: tuple(item) if isinstance(item, list) else item for name, item in value.items()
                  if name in cls.__dataclass_fields__})


def _checked(entry: Entry) -> Entry:
    ids = {block.id for block in entry.blocks}
    if entry.worst not in ids or any(cell.block not in ids for cell in entry.cells if cell.status == "done"):
        raise ConfigError("worst, or a cell that is done, names a block that the entry does not have")
    for link in (*(each.link for each in entry.adaptive), *(each.link for each in entry.external)):
        if link and not link.startswith(_LINK):
            raise ConfigError(f"link = {link!r} given; expected one that begins with https://")
    return entry


def _only(values: Sequence[str], what: str) -> str:
    several = list(dict.fromkeys(values))
    if len(several) > 1:
        raise ConfigError(f"the method has cells of several {what}s: {', '.join(several)}; an entry is of one, so "
                          f"choose one with --{'data' if what == 'data set' else 'model'}")
    return several[0]


def _parts(given: Any) -> list[dict[str, Any]]:
    return given if isinstance(given, list) else [given]


def _known(name: str) -> registry.Entry | None:
    try:
        return registry.find(name, "defense")
    except ConfigError:
        return None


def _blocks(scored: Sequence[Outcome]) -> tuple[Block, ...]:
    """The blocks, by names that tell them from each other rather than from all else that a store has."""
    by_id: dict[str, list[Outcome]] = {}
    names: dict[str, str] = {}
    for each, name in zip(scored, blocks_of([each.record for each in scored]), strict=True):
        by_id.setdefault(block_id(each.record), []).append(each)
        names[block_id(each.record)] = name
    return tuple(Block(one, names[one], len(of), **vars(_means(of))) for one, of in by_id.items())


def _means(scored: Sequence[Outcome]) -> Means:
    def over(value: Any) -> Interval:
        values = list(by_block(scored, value).values())
        return (block_mean(values), *hierarchical_interval(values))

    recovered = None if any(_recovered(each) is None for each in scored) else over(_recovered)
    return Means(over(lambda each: each.after.clean), over(lambda each: each.left), recovered,
                 over(lambda each: each.der), over(lambda each: each.net))


def _recovered(outcome: Outcome) -> float | None:
    return outcome.after.recovered if outcome.after and outcome.stage != DETECTOR else None


def _rank(records: Sequence[Record], method: str) -> Rank | None:
    found = rank(records)
    standing = next(line.standing for line in found.lines if line.method == method)
    return standing and Rank(*standing, len(found.field.methods), len(found.field.blocks))


def _cost(scored: Sequence[Outcome]) -> Cost:
    records = [each.record for each in scored]
    times = sorted(record.timing.get("defense", record.seconds) for record in records)
    clean = max(int(record.samples.get("defender", 0)) if "clean" in record.given else 0 for record in records)
    return Cost(times[len(times) // 2], max(record.peak_mb for record in records), clean)


def cell_of(outcome: Outcome) -> Cell:
    """A cell as entries keep it."""
    record = outcome.record
    said = (record.error or "").splitlines()[:1]
    numbers: dict[str, Any] = {}
    if outcome.scored and outcome.after and outcome.before:
        before = outcome.before._asdict()
        numbers = {"clean": outcome.after.clean, "asr": outcome.after.attack, "recovered": _recovered(outcome),
                   "before": {"asr" if name == "attack" else name: value for name, value in before.items()},
                   "net": outcome.net, "der": outcome.der}
    return Cell(record.key, block_id(record), outcome.seed, outcome.status, said[0] if said else "", record.spec,
                **numbers, test=int(record.samples.get("test", 0)), eligible=int(record.samples.get("eligible", 0)))
