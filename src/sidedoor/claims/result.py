"""What a watermark and a verification say, as values and in words."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from sidedoor.evidence import Verdict, to_json

LIMITS = (
    "The p-value is exact if the labels or triggers were drawn by the tool and nobody outside knew them. A commitment "
    "that was published before the data shows that they were not chosen to fit this suspect; without a date that "
    "others can check it proves nothing.",
    "The test does not say who trained the suspect, nor on which part of the data, nor whether that was allowed.",
    "No evidence does not mean that the data were not used: training on a small part, fine-tuning, another resolution "
    "or a filter that removes marked rows may all undo the mark.",
    "One look at one suspect. Whoever tests several suspects, or one several times, must say so and correct for it "
    "(Holm), or use the sequential test.",
    "Tests that are marked as no evidence speak of this model and these images only; they accuse models that never saw "
    "the data.",
)
REFUTES = (
    "the suspect was finished before the commitment was published",
    "the commitment was published after the data were",
    "somebody who knew the secret trained the suspect to answer so, or gave the secret away",
    "the labels or triggers were not drawn at random",
)


@dataclass(frozen=True)
class Trial:
    """Networks that the owner trained on the marked data and on the same rows without marks.

    Args:
        rows: that they were trained on.
        tested: images, held out.
        unmarked, marked: accuracy on them.
        p_value: of the test, on the network of the marked data.
        hits: keys that it meets; None where there are no labels.
        dispersibility: in nats, of its answers to images with a trigger, the mean over triggers; ln(classes) if they
            are random, near 0 if each trigger leads to one class.
        wrong: share of such images that it answers wrongly.
        most: share of such images that get the most frequent label.
    """

    network: str
    rows: int
    tested: int
    unmarked: float
    marked: float
    p_value: float
    hits: int | None
    dispersibility: float
    wrong: float
    most: float
    seconds: float


@dataclass(frozen=True)
class Released:
    """A watermarked release; nothing of it is secret.

    Args:
        commitment: to be published before the data.
        folder, secret, preview: files that were written.
        scheme: the registered attack.
        a_key: fewest and most rows that a trigger marks.
        keys: triggers with a secret label; 0 for a mark that leads to no class.
        test: the registered test whose verdict will count.
        needed_hits: keys that a suspect must meet to be accused; None where the test does not count them.
        needed_rate: how probable a hit must be for a power of 95 %; None where no rate is enough.
        queries: that a test takes, without repeated ones.
        power: by the trial.
    """

    commitment: str
    folder: str
    secret: str
    preview: str
    scheme: str
    rows: int
    marked: int
    a_key: tuple[int, int]
    keys: int
    classes: int
    alpha: float
    test: str
    needed_hits: int | None
    needed_rate: float | None
    queries: int
    power: float | None
    trial: Trial | None
    notes: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """All fields."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        few, many = self.a_key
        each = f"{few}" if few == many else f"{few} to {many}"
        lines = [f"{self.folder}: {self.rows:,} rows, {self.marked:,} of them marked, {each} a trigger"]
        if self.keys:
            accused = f"that meets {self.needed_hits} or more" if self.needed_hits else "against which bets have paid"
            often = "" if self.needed_rate is None else \
                f", as 95 % are that meet each with a probability of {self.needed_rate:.2f}"
            lines.append(f"{self.keys} keys of {self.classes} classes: a suspect {accused} is accused (level "
                         f"{self.alpha:g}){often}")
        lines.append(f"a test asks up to {self.queries:,} questions, and 5 % of them twice")
        lines += self._of_trial()
        lines += self.notes
        lines += [f"commitment {self.commitment}",
                  "Publish the commitment where it gets a date that others can check, before the data: a signed tag "
                  "of a public repository, a newspaper, a time stamp by RFC 3161 or OpenTimestamps. Put the receipt "
                  "into a folder for later. Without a date it proves nothing.",
                  f"Keep {self.secret}: whoever has it can find and remove the mark, and without it nothing can be "
                  "shown."]
        return "\n".join(lines)

    def _of_trial(self) -> list[str]:
        if self.trial is None:
            return ["no trial was made, so that the power and the cost of the mark are not known"]
        trial = self.trial
        met = f" meets {trial.hits} of {self.keys} keys," if trial.hits is not None else ""
        power = f", power {self.power:.2f}" if self.power is not None else ""
        return [f"trial: {trial.network} on {trial.rows:,} rows{met} p = {trial.p_value:.2g}{power}",
                f"accuracy {trial.marked:.1%} with the mark and {trial.unmarked:.1%} without, on {trial.tested:,} "
                "held-out images",
                f"images with a trigger: {trial.wrong:.0%} are answered wrongly, {trial.most:.0%} with the most "
                f"frequent label; dispersibility {trial.dispersibility:.2f} nats"]


@dataclass(frozen=True)
class Tested:
    """A test and what it said.

    Args:
        name: registered.
        decides: whether its verdict is that of the claim.
        exact: whether its p-value holds for every suspect.
        verdict: None where it does not apply, for the reason.
    """

    name: str
    decides: bool
    exact: bool
    verdict: Verdict | None
    reason: str = ""


@dataclass(frozen=True)
class Verified:
    """The result of a verification.

    Args:
        suspect: what is known of it.
        tests: the one that decides comes first.
        scheme: the registered attack that planted the mark.
        commitment: that the secret meets.
        receipts: names of files that date the commitment, with their SHA-256.
        queries: attempts to ask, those before an interruption included.
        contradicted, twice: of the images that were asked about twice, how many got two labels; how many there are.
        classes: of the data.
        keys: with secret labels.
        time: when it ended, in UTC.
        environment: versions and device.
    """

    suspect: dict[str, Any]
    tests: tuple[Tested, ...]
    scheme: str
    commitment: str
    receipts: dict[str, str]
    queries: int
    contradicted: int
    twice: int
    classes: int
    keys: int
    time: str
    environment: dict[str, Any]

    @property
    def verdict(self) -> Verdict:
        """That of the test that was planned."""
        found = self.tests[0].verdict
        assert found is not None
        return found

    @property
    def name(self) -> str:
        """Of the suspect: its file or address, else its kind."""
        return next(str(self.suspect[key]) for key in ("file", "url", "folder", "kind") if key in self.suspect)

    @property
    def outcome(self) -> str:
        """In a word or two."""
        return "evidence of use" if self.verdict.rejected else "no evidence"

    @property
    def sentence(self) -> str:
        """In the words that are fixed for all results."""
        found = self.verdict
        if found.rejected:
            return (f"If this model had been made without the marked data, answers like these would come with "
                    f"probability at most {found.p_value:.2g}. The test does not say who trained it, nor on which "
                    "part.")
        known = "is not known" if found.power is None else f"was {found.power:.2f} in the owner's own trial"
        return (f"No evidence (p = {found.p_value:.2g}). Power at this plan against a model trained on all of it "
                f"{known}.")

    def to_json(self) -> dict[str, Any]:
        """All fields and the sentence; what evidence keeps."""
        told = {name: value for name, value in vars(self).items() if name != "tests"}
        tests = [{"name": each.name, "decides": each.decides, "exact": each.exact, "reason": each.reason,
                  "verdict": None if each.verdict is None else to_json(each.verdict)} for each in self.tests]
        return {"outcome": self.outcome, "sentence": self.sentence, "tests": tests, **told}

    def __str__(self) -> str:
        found = self.verdict
        lines = [f"{self.outcome.upper()}  {self.sentence}",
                 f"null hypothesis: {found.null_hypothesis}",
                 f"{self.tests[0].name}: {_statistic(self)}, p = {found.p_value:.3g}, level {found.alpha:g}; "
                 f"{self.queries:,} queries"]
        if self.twice:
            lines.append(f"asked about twice, {self.contradicted} of {self.twice} images got another label")
        for each in self.tests[1:]:
            said = each.reason if each.verdict is None else f"p = {each.verdict.p_value:.3g}"
            lines.append(f"beside it, {each.name}: {said}" + ("" if each.exact else " (as published; no evidence)"))
        lines.append("what would refute it: " + "; ".join(REFUTES) if found.rejected else LIMITS[2])
        lines.append("receipts: " + ", ".join(self.receipts) if self.receipts else
                     "no receipt dates the commitment: without a date that others can check, it proves nothing")
        return "\n".join(lines)


def _statistic(found: Verified) -> str:
    statistic = found.verdict.statistic
    if found.tests[0].name == "keys":
        return f"{statistic:.0f} of {found.keys} keys met, {found.keys / found.classes:.2g} expected by chance"
    return f"statistic {statistic:.4g}"
