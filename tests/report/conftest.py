"""A small store as runs leave it: one attack over three seeds, with a repair, a detector, a filter and an audit."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fabricated import HOSTILE, make_record

from sidedoor.bench.record import Record
from sidedoor.bench.store import Store
from sidedoor.evidence import Calibrated, Exhibit, Finding, Rule, Separation
from sidedoor.report.html import build


@pytest.fixture(scope="session")
def records() -> list[Record]:
    """Three seeds undefended (the third attack failed), and one record of each stage on seed 0."""
    before = {"clean": 0.9, "attack": 0.8, "recovered": 0.1, "idle": 0.02}
    separation = Separation(auroc=0.875, tpr_at_1=0.25, fpr_at_1=0.02, tpr_at_5=0.5, fpr_at_5=0.04, auroc_worked=0.913,
                            tpr_at_1_worked=0.31, tpr_at_5_worked=0.62, n_positive=36, n_negative=36, n_calibration=50,
                            too_small_at_1=1.0, method="strip")
    exhibits = (Exhibit("audit_trigger", "picture", "recovered pattern"), Exhibit("audit_mask", "mask", "the mask"),
                Exhibit("audit_gains", "curve", "gains by step"), Exhibit("audit_lost", "mask", "whose array is gone"))
    finding = Finding(3.25, Rule(3.25, 2.0), (0,), (3.25, 0.1, -0.3, 0.2), exhibits)
    audit = Calibrated(finding, (0.5, 1.25), ("clean0", "clean1"), method="neural_cleanse")
    return [
        make_record("seed0"),
        make_record("seed1", 1, clean=0.8, attack=1.0),
        make_record("seed2", 2, status="failed", error="ASR is 12 %, below 50 %", attack=0.12),
        make_record("repair", 0, "fine_pruning", undefended=before, clean=0.88, attack=0.05, recovered=0.85,
                    columns={"psnr": 21.5, "ssim": 0.95, "strength": 0.25, "oracle_strength": 0.5,
                             "oracle_clean": 0.812, "oracle_attack": 0.034}),
        make_record("detector", 0, "strip", undefended=before, evidence=(separation,),
                    columns={"psnr": 21.5, "ssim": 0.95, "accepted": 0.375}),
        make_record("filter", 0, "spectral_signatures", undefended=before, clean=0.87,
                    evidence=(replace(separation, removed_poisoned=0.75, removed_clean=0.125,
                                      removed_poisoned_by_class=(0.75, None, None, None),
                                      removed_clean_by_class=(0.2, 0.1, 0.1, 0.1)),)),
        make_record("audit", 0, "neural_cleanse", undefended=before, evidence=(audit,)),
        make_record("broken", 0, "abl", planted="", status="error", error="no loss\n<script>alert('error')</script>",
                    clean=None, attack=None, recovered=None, idle=None, intervals={}, clean_means=None, clean_key=None,
                    columns={}, samples={}, versions={}),
        make_record("unsuited", 0, "gate_pruning", planted="", status="not applicable",
                    error="small_cnn has no batch norm", clean=None, attack=None, recovered=None, idle=None,
                    intervals={}, clean_means=None, clean_key=None, columns={}, samples={}, versions={}),
    ]


def fill(store: Store, records: list[Record]) -> Store:
    """A store whose records were written on 1 and 2 March 2026."""
    for n, record in enumerate(records):
        store.put(record)
        moment = 1772366400 + (n > 0) * 86400
        os.utime(store.root / "results" / f"{record.key}.json", (moment, moment))
    return store


@pytest.fixture
def bare(tmp_path: Path, records: list[Record]) -> Store:
    """Records without any artefacts."""
    return fill(Store(tmp_path / "bare"), records)


@pytest.fixture
def store(tmp_path: Path, records: list[Record]) -> Store:
    """Records and everything that figures need."""
    return furnish(fill(Store(tmp_path / "full"), records))


@pytest.fixture(scope="session")
def html(tmp_path_factory: pytest.TempPathFactory, records: list[Record]) -> str:
    """The page of such a store."""
    return build(furnish(fill(Store(tmp_path_factory.mktemp("full")), records)))


def furnish(store: Store) -> Store:
    rng = np.random.default_rng(0)
    grid = rng.integers(0, 240, (3, 1, 16, 16), dtype=np.uint8)
    stamped = grid.copy()
    stamped[:, :, -3:, -3:] = 255
    y = np.arange(40) % 4
    shared = {
        "class_names": np.array(["cat", HOSTILE, "$dog", "猫"]), "y": y, "grid_clean": grid, "grid_stamped": stamped,
        "grid_label": np.array([1, 2, 3]), "grid_door": np.zeros(3, dtype=np.int64),
        "clean": (np.arange(40) % 8 != 1).astype(np.float32),
        "attack": np.where(y == 0, np.nan, np.arange(40) % 3 != 0).astype(np.float32)[None],
    }
    detector = {"suspicious": rng.normal(2, 1, 36), "innocent": rng.normal(0, 1, 36),
                "calibration": rng.normal(0, 1, 50), "worked": np.arange(36) % 3 != 0}
    filtered = {"filter_score": rng.normal(0, 1, 100),
                "filter_truth": np.array([1.0] * 10 + [0.0] * 85 + [np.nan] * 5)}
    audit = {"audit_trigger": rng.random((3, 16, 16)), "audit_mask": rng.random((16, 16)),
             "audit_gains": rng.random(9)}
    repair = {"strength_curve": np.array([[0, 0.9, 0.9, 0.8], [0.25, 0.85, 0.86, 0.4], [0.5, 0.7, 0.82, 0.1]])}
    for key, own in (("seed0", {}), ("repair", repair), ("detector", detector), ("filter", filtered), ("audit", audit)):
        store.put_arrays(key, shared | own)
    epochs = [{"epoch": n, "loss": 1.0 / n, "lr": 0.1, "seconds": 1.0, "valid": 1.1 / n} for n in (1, 2, 3)]
    for key, phase in (("planted0", "victim"), ("repair", "fine-tune")):
        store.folder(key).mkdir(exist_ok=True)
        (store.folder(key) / "history.json").write_text(json.dumps({phase: epochs}))
    return store
