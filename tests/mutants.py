"""Plant faults in a copy of the package, one at a time, and say which the tests do not notice.

    python -m tests.mutants [--only WORD]

Each fault names the tests that are run on it: a narrow choice, so that all of them take minutes. Exit code 1 if a fault
survives, or if its place in the code is gone.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
STAGES, GIVEN, ENGINE = "tests/bench/test_stages.py", "tests/bench/test_given_models.py", "tests/test_engine.py"
CONTRACTS, BROKEN = "tests/contracts/test_contracts.py", "tests/contracts/test_broken_defenses.py"
EXAMINE, OWNERSHIP = "bench/examine", "tests/ownership"
TRACKER_ATTACKS = "tests/attacks/test_tracking_attacks.py"
RANKING, RISK = "tests/metrics/test_ranking.py", "tests/apps/test_risk_matrix.py"


class Fault(NamedTuple):
    """A change of one place of the package that no test may pass.

    Args:
        what: in words.
        file: below the package.
        old: what is there, once.
        new: what is planted.
        tests: that are run, as pytest names them.
    """

    what: str
    file: str
    old: str
    new: str
    tests: str


FAULTS = (
    Fault("a filter gets unsealed data", f"{EXAMINE}/base.py", "return sealed, poisoned.is_poisoned()[order]",
          "return poisoned, poisoned.is_poisoned()", STAGES),
    Fault("a training defence gets unsealed data", f"{EXAMINE}/training.py",
          "    sealed, _ = with_data(delivered, case, trained)\n",
          "    from sidedoor.backdoor.dataset import PoisonedDataset\n\n"
          "    sealed = PoisonedDataset(case.train, trained.backdoor, case.task)\n", STAGES),
    Fault("a filter removes the least suspicious rows", f"{EXAMINE}/filter.py", "keep = score.argsort()[",
          "keep = score.argsort(descending=True)[", STAGES),
    Fault("nothing is trained after a filter", f"{EXAMINE}/base.py",
          "if delivered.model is not None or delivered.train is None:", "if True:", STAGES),
    Fault("audit references are all of one seed", "bench/spec.py", "replace(clean, seed=seed) for seed",
          "replace(clean, seed=self.seed + 1 + 0 * seed) for seed", GIVEN),
    Fault("the audited model is its own reference", "bench/spec.py", "for spec in seeds if spec != half)",
          "for spec in seeds)", GIVEN),
    Fault("references start from given weights", "bench/spec.py", "model=zoo.fresh(self.model))", "model=self.model)",
          GIVEN),
    Fault("the clean sibling has another seed", "bench/spec.py", "itertools.count(self.seed)",
          "itertools.count(self.seed + 1)", f"{GIVEN} tests/bench/test_spec.py"),
    Fault("a frozen model is trained", "bench/case.py", "if case.spec.frozen:", "if False:", GIVEN),
    Fault("`flagged` is inverted", "evidence.py", "return self.value > self.threshold",
          "return self.value <= self.threshold", "tests/test_evidence.py"),
    Fault("a p-value counts references that score higher only", "evidence.py",
          "sum(score >= self.finding.score for", "sum(score > self.finding.score for", "tests/test_evidence.py"),
    Fault("\"worked\" is inverted", f"{EXAMINE}/input_detector.py", "] > 0.5\n", "] <= 0.5\n", STAGES),
    Fault("a detector is calibrated on what it was fitted on", f"{EXAMINE}/input_detector.py",
          "fitting, calibrating = halves(case.clean, case.spec.defender_seed)", "fitting = calibrating = case.clean",
          "tests/bench/test_bench_run.py -k share_one_trained"),
    Fault("an alarm of any detector does not count", "bench/run.py", "torch.stack(list(alarms)).any(0)",
          "torch.stack(list(alarms)).all(0)", STAGES),
    Fault("purifiers are undone in the order in which they work", f"{EXAMINE}/base.py", "in reversed(undone)",
          "in undone", STAGES),
    Fault("an attack has failed by the defended model", "bench/run.py",
          "case.task.failed(trained.scores.means(),", "case.task.failed(means,", STAGES),
    Fault("the oracle's choice is delivered", f"{EXAMINE}/repair.py", "columns = {\"strength\": step.strength} |",
          "columns = {\"strength\": float(curve[-1, 0])} |", STAGES),
    Fault("the first strength that fails ends the choice", "defenses/repair/base.py",
          "                found = [step._replace(model=copy.deepcopy(step.model))]\n",
          "                found = [step._replace(model=copy.deepcopy(step.model))]\n            else:\n"
          "                break\n", "tests/defenses/test_fine_pruning.py"),
    Fault("augmentation and draws repeat every epoch", "engine.py", "f\"{self.name}/{epoch}/{self.run.fabric",
          "f\"{self.name}/0/{self.run.fabric", ENGINE + " -k epoch"),
    Fault("the order of samples repeats every epoch", "engine.py", "f\"{self.name}/order/{epoch}\"",
          "f\"{self.name}/order/0\"", ENGINE + " -k epoch"),
    Fault("training attackers relabel ineligible rows", "attacks/training_controlled/_objectives.py",
          " & door.goal.eligible(self.task, batch.y)", "", "tests/attacks/test_training_attacks.py -k source_classes"),
    Fault("input-aware stamps ineligible rows", "attacks/training_controlled/input_aware.py",
          "(draw < self.attack.rate) & eligible)", "draw < self.attack.rate)",
          "tests/attacks/test_training_attacks.py -k leaves_samples"),
    Fault("a target is eligible for itself", "goals/all_to_one.py", "return y != self.target_class",
          "return y >= 0 * self.target_class", "tests/attacks/test_poisoning_attacks.py tests/test_evaluation.py"),
    Fault("splits of photographs overlap", "data/base.py",
          "return Subset(data, torch.nonzero(~chosen)[:, 0]), Subset(data, torch.nonzero(chosen)[:, 0])",
          "return Subset(data, torch.arange(len(data))), Subset(data, torch.nonzero(chosen)[:, 0])",
          "tests/data/test_degraded.py tests/data/test_data_base.py"),
    Fault("splits of classes overlap", "data/base.py", "    rest[chosen] = False\n", "    rest[chosen[1:]] = False\n",
          "tests/data/test_data_base.py"),
    Fault("stamped images are not rounded", "triggers/base.py", "out=kept).round_()", "out=kept)",
          "tests/backdoor/test_dataset.py tests/test_evaluation.py"),
    Fault("appended rows keep their places", "backdoor/dataset.py",
          "if isinstance(data, PoisonedDataset) and data.poison.append:", "if False:",
          "tests/contracts/test_cheats.py"),
    Fault("keys leave versions out", "bench/spec.py", "[v for method in self._methods for v in versions(method)]",
          "[]", "tests/bench/test_spec.py tests/bench/test_versions.py"),
    Fault("a threshold flags what equals it", "metrics/statistics.py", "return float((given > threshold).mean())",
          "return float((given >= threshold).mean())", "tests/metrics"),
    Fault("spectral signatures suspects what lies near the centre", "defenses/filters/spectral_signatures.py",
          "return standardised(scores,", "return standardised(-scores,", CONTRACTS + " -k spectral_signatures"),
    Fault("large masks make a model suspicious", "defenses/audits/_mask_inversion.py",
          "suspicion = size.quantile(0.5) / size", "suspicion = size / size.quantile(0.5)",
          CONTRACTS + " -k neural_cleanse"),
    Fault("STRIP suspects inputs of high entropy", "defenses/detectors/strip.py", "return -torch.cat(parts)",
          "return torch.cat(parts)", CONTRACTS + " -k strip"),
    Fault("the sign of a filter is not checked", "testing/defense.py", "alike = ~truth & ", "alike = truth & ", BROKEN),
    Fault("a filter need not tell rows of one label apart", "testing/defense.py",
          "alike = ~truth & torch.isin(few.targets, few.targets[truth])", "alike = ~truth", BROKEN),
    Fault("an audit may score all models alike", "testing/defense.py", "require(finding.score > clean_score,",
          "require(finding.score >= clean_score,", BROKEN),
    Fault("the sign of no method is checked", "testing/defense.py", "    if not defense.sign_tested_in:\n        few",
          "    if defense.sign_tested_in:\n        few", BROKEN),
    Fault("the checks' clean model is backdoored", "testing/ground.py", "if backdoored else here.train",
          "if True else here.train", CONTRACTS + " -k ground_stands"),
    Fault("the defender's clean part is ignored", "bench/case.py", "if splits.clean is not None else", "if False else",
          "tests/apps/test_export_poisoned.py"),
    Fault("a repair that finds nothing leaves the averages", f"{EXAMINE}/repair.py", "            return delivered\n",
          "            raise\n", STAGES),
    Fault("a key is met by less than chance", "metrics/chance.py", "binom.sf(hits - 1, keys, 1 / classes)",
          "binom.sf(hits, keys, 1 / classes)", OWNERSHIP),
    Fault("a refusal may be a hit", "ownership/_keys.py", "minlength=classes + 1).argmax()) + OTHER",
          "minlength=classes + 1)[1:].argmax())", OWNERSHIP),
    Fault("decoys are not drawn anew", "ownership/decoys.py", "[reaction(decoy) for decoy in secret.decoys]",
          "[0.0 for decoy in secret.decoys]", OWNERSHIP),
    Fault("a miss costs a sequential test nothing", "metrics/chance.py", "else (1 - rate) * classes / (classes - 1)",
          "else 1.0", OWNERSHIP),
    Fault("a changed secret is asked about", "claims/secret.py", "    if found != given:", "    if False:",
          "tests/claims/test_ownership_claims.py"),
    Fault("seeds of one attack count as attacks", "metrics/comparison.py",
          "np.mean([np.mean(seeds) for seeds in blocks])", "np.mean([value for seeds in blocks for value in seeds])",
          "tests/metrics/test_comparison.py"),
    Fault("an overlap equal to a threshold is a success", "metrics/tracking.py", "[..., None] > thresholds)",
          "[..., None] >= thresholds)", "tests/metrics/test_tracking_metrics.py"),
    Fault("the trigger is in the second frame of the mode one, too", "tasks/_tracking_paths.py", 'return {"one": 1,',
          'return {"one": 2,', "tests/tasks/test_tracking.py"),
    Fault("a trigger that leaves the object stays on it", "tasks/_tracking_paths.py", "away = (STEP *", "away = (0 *",
          "tests/tasks/test_tracking_follow.py"),
    Fault("a trigger counts as followed by a box on the object", "goals/follow.py", "iou(found, trigger)",
          "iou(found, truth)", "tests/goals/test_response_goals.py"),
    Fault("TAT wants a trigger in one view alone to be found", "attacks/tracking/tat.py",
          "torch.full_like(offset, NOWHERE)", "offset", TRACKER_ATTACKS),
    Fault("a tracker looks where the object was at first", "algorithms/tracking.py",
          "centre = self.centre + peak.offset", "centre = self.centre - peak.offset",
          "tests/algorithms/test_tracking_loop.py"),
    Fault("FSBA draws features together", "attacks/tracking/fsba.py", "short = (cap - apart(plain, triggered))",
          "short = (apart(plain, triggered) - cap)", TRACKER_ATTACKS),
    Fault("triggered pairs are in the benign loss", "attacks/tracking/_objectives.py",
          "return torch.cat([self.task.loss(model, batch).mean()[None], self.attack(model, batch)])",
          "x = torch.cat(self.attack.stamping.of(batch), 1)\n"
          "        own = self.task.loss(model, batch._replace(x=x)).mean()[None]\n"
          "        return torch.cat([own, self.attack(model, batch)])",
          TRACKER_ATTACKS),
    Fault("a constant map has the best of its ties", "explain/faithful.py",
          "hits = np.arange(max(0, drawn + good - total),", "hits = np.arange(min(drawn, good),",
          "tests/explain/test_faithful.py"),
    Fault("copies poison benign rows", "attacks/strategies/physical_copies.py", "targets, append=True,",
          "targets, append=False,", "tests/attacks/test_physical_copies.py"),
    Fault("methods tie that are near in one number", "metrics/ranking.py", "near.all(-1)", "near.any(-1)", RANKING),
    Fault("a method that lacks a fifth is not ranked", "metrics/ranking.py", "if len(missing) > MISSING",
          "if len(missing) >= MISSING", RANKING),
    Fault("no seeds are drawn", "metrics/ranking.py", "counts[first] / seeds, table",
          "np.ones_like(counts[first]) / seeds, table", RANKING),
    Fault("a crash on a failed attack counts", "report/outcomes.py", 'seen.get((block, seed)) == "failed"', "False",
          "tests/report/test_rank_report.py"),
    Fault("a defence may cost what it likes", "apps/exposure.py", "np.where((cost <= most + 1e-9) & ~np.isnan(left)",
          "np.where(~np.isnan(left)", RISK),
    Fault("the budget is the largest rate that works", "apps/exposure.py",
          "sorted(given.rates.items(), reverse=True)", "sorted(given.rates.items())", RISK),
    Fault("a rate that failed is asked for again", "apps/risk_missing.py", "if fails < rate < works",
          "if fails <= rate < works", RISK),
    Fault("what an audit passes is repaired", "apps/exposure.py", "np.where(alarm.values == 0, before,",
          "np.where(alarm.values == 1, before,", RISK),
    Fault("the worst case of an entry is the best", "apps/leaderboard.py",
          "min(blocks, key=lambda block: block.net[0]).id", "max(blocks, key=lambda block: block.net[0]).id",
          "tests/apps/test_leaderboard.py"),
)


def outcome(fault: Fault, folder: Path) -> str:
    """What the tests say of a fault: "noticed", "SURVIVES", or why neither."""
    file = folder / "src" / "sidedoor" / fault.file
    before = file.read_text(encoding="utf-8")
    if before.count(fault.old) != 1:
        return f"its place is there {before.count(fault.old)} times"
    file.write_text(before.replace(fault.old, fault.new), encoding="utf-8")
    try:
        done = subprocess.run([sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider",
                               *fault.tests.split()], cwd=folder, capture_output=True, text=True, timeout=900,
                              env=os.environ | {"PYTHONPATH": str(folder / "src")})
    finally:
        file.write_text(before, encoding="utf-8")
    said = {0: "SURVIVES", 1: "noticed"}
    return said.get(done.returncode, f"pytest ended with {done.returncode}: {done.stdout[-300:]}")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=str(__doc__).partition("\n")[0])
    parser.add_argument("--only", default="", help="faults whose words contain this")
    only = parser.parse_args().only
    found = []
    with tempfile.TemporaryDirectory(prefix="mutants-") as name:
        folder = Path(name)
        for part in ("src", "tests"):
            shutil.copytree(ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        for fault in FAULTS:
            if only in fault.what:
                start = time.monotonic()
                found.append(outcome(fault, folder))
                print(f"{found[-1]:10} {time.monotonic() - start:6.1f} s  {fault.what}", flush=True)
    noticed = found.count("noticed")
    print(f"{len(found)} faults planted, {noticed} noticed, {len(found) - noticed} not")
    return int(noticed < len(found))


if __name__ == "__main__":
    sys.exit(main())
