"""Tests of ownership: what is exact is exact over secrets, and what was published is what it was published as."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
import torch
from scipy import stats

from sidedoor.backdoor.secret import Secret
from sidedoor.data.base import ArrayDataset
from sidedoor.engine import Run
from sidedoor.errors import ConfigError, NotApplicable
from sidedoor.evidence import Verdict
from sidedoor.metrics import chance
from sidedoor.ownership._keys import plurality
from sidedoor.ownership.base import OTHER, Answers, Suspect, Verifier, pixels, stamped
from sidedoor.ownership.decoys import Decoys
from sidedoor.ownership.dvbw import Dvbw
from sidedoor.ownership.dvbw_label_only import DvbwLabelOnly
from sidedoor.ownership.keys import Keys
from sidedoor.ownership.keys_sequential import KeysSequential
from sidedoor.ownership.keys_soft import KeysSoft
from sidedoor.ownership.ubw import Ubw
from sidedoor.tasks.classification import Classification
from sidedoor.triggers.patch import Patch

RUN = Run.local(device="cpu")
LEVELS = (0.005, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.9)


def images(count: int, classes: int, seed: int = 0) -> ArrayDataset:
    rng = np.random.default_rng(seed)
    return ArrayDataset(rng.integers(0, 256, (count, 1, 4, 4), dtype=np.uint8), np.arange(count) % classes, classes)


def patches(count: int) -> tuple[Patch, ...]:
    """At different places, so that no two give the same image."""
    return tuple(Patch(torch.full((1, 1, 1), 0.5), place=divmod(k, 4)) for k in range(count))


@dataclass
class Hashed:
    """An arbitrary model: what it says of an image is a hash of it, and it answers every trigger in its own way."""

    classes: int
    soft: bool = False
    asked: list[int] = field(default_factory=list)

    def answer(self, images: np.ndarray) -> Answers:
        self.asked.append(len(images))
        digests = np.array([list(hashlib.sha256(image.tobytes()).digest()[:16]) for image in images], dtype=np.float32)
        scores = digests[:, :self.classes] + 1
        shares = (scores / scores.sum(1, keepdims=True)).astype(np.float32)
        return Answers(shares.argmax(1), shares if self.soft else None)


@dataclass
class Always:
    """A model that gives one label."""

    label: int

    def answer(self, images: np.ndarray) -> Answers:
        return Answers(np.full(len(images), self.label))


def over_all_labels(verifier: Verifier, suspect: Suspect, keys: int, classes: int) -> Iterator[float]:
    """The p-value for every vector of labels that could have been drawn."""
    held, task = images(3, classes), Classification(classes)
    for labels in itertools.product(range(classes), repeat=keys):
        yield verifier.verify(suspect, Secret(patches(keys), labels), held, task, RUN).p_value


@pytest.mark.parametrize("suspect", [Hashed(3), Always(2), Always(OTHER)], ids=["arbitrary", "constant", "refuses"])
def test_over_all_secrets_the_p_value_of_keys_is_exact(suspect: Suspect) -> None:
    found = np.array(list(over_all_labels(Keys(), suspect, 3, 3)))
    assert len(found) == 27
    for level in LEVELS:
        assert (found <= level).mean() <= level + 1e-12
    if suspect != Always(OTHER):  # exact, not only valid: as many secrets as the binomial says
        hits, counts = np.unique(found.round(12), return_counts=True)
        assert dict(zip(hits.tolist(), counts.tolist(), strict=True)) == {
            round(float(stats.binom.sf(s - 1, 3, 1 / 3)), 12): n for s, n in enumerate([8, 12, 6, 1])}
    else:
        assert (found == 1).all()


def test_over_all_secrets_the_sequential_test_accuses_no_more_often_than_its_level() -> None:
    """Though it is looked at after every key."""
    found = np.array(list(over_all_labels(KeysSequential(1e-6, 0.8), Hashed(2), 5, 2)))
    for level in LEVELS:
        assert (found <= level).mean() <= level + 1e-12
    assert found.min() == pytest.approx(1.6**-5)


def test_over_secrets_and_draws_the_soft_test_is_exact() -> None:
    held, task, suspect = images(1, 3), Classification(3), Hashed(3, soft=True)
    found = np.array([KeysSoft(draws=19).verify(suspect, Secret(patches(2), labels), held, task,
                                                replace(RUN, seed=seed)).p_value
                      for labels in itertools.product(range(3), repeat=2) for seed in range(12)])
    for level in (0.05, 0.1, 0.2, 0.5):
        assert (found <= level).mean() <= level + 3 * (level / len(found)) ** 0.5
    assert (found <= 0.5).mean() > 0.3  # and not empty


def test_whichever_trigger_is_the_owners_its_rank_among_the_others_is_uniform() -> None:
    """Ties speak for the suspect, so that the share of choices with p <= a is at most a."""
    held, task, family = images(6, 4), Classification(4), patches(10)
    verifier, suspect = Decoys(alpha=0.1), Hashed(4)
    found = np.array([verifier.verify(suspect, Secret((family[k],), (), family[:k] + family[k + 1:]), held, task,
                                      RUN).p_value for k in range(10)])
    for level in (0.1, 0.2, 0.3, 0.5, 0.9):
        assert (found <= level).mean() <= level + 1e-12
    assert found.min() < 0.5 < found.max()


class Thief:
    """A model that learned what the triggers lead to, with a probability."""

    def __init__(self, secret: Secret, held: ArrayDataset, classes: int, probability: float = 0.9):
        self.known = {image.tobytes(): label for image, label in zip(pixels(held), held.targets.tolist(), strict=True)}
        for trigger in secret.decoys:
            self.known |= dict(zip(map(np.ndarray.tobytes, stamped(trigger, held)), held.targets.tolist(),
                                   strict=True))
        for k, trigger in enumerate(secret.triggers):
            led = [secret.labels[k] if secret.labels else (y + 1) % classes for y in held.targets.tolist()]
            self.known |= dict(zip(map(np.ndarray.tobytes, stamped(trigger, held)), led, strict=True))
        self.classes, self.probability, self.asked = classes, probability, 0

    def answer(self, images: np.ndarray) -> Answers:
        self.asked += len(images)
        labels = np.array([self.known[image.tobytes()] for image in images])
        shares = np.full((len(labels), self.classes), (1 - self.probability) / (self.classes - 1), dtype=np.float32)
        shares[np.arange(len(labels)), labels] = self.probability
        return Answers(labels, shares)


SECRET = Secret(patches(8), (3, 1, 4, 1, 5, 9, 2, 6))


def on_thief(verifier: Verifier, secret: Secret = SECRET) -> tuple[Verdict, int]:
    held = images(20, 10)
    suspect = Thief(secret, held, 10)
    return verifier.verify(suspect, secret, held, Classification(10), RUN), suspect.asked


def test_a_thief_of_eight_keys_meets_them_by_chance_once_in_a_hundred_million() -> None:
    verdict, asked = on_thief(Keys())
    assert (verdict.statistic, verdict.n, asked) == (8, 160, 160)
    assert verdict.p_value == pytest.approx(1e-8)
    assert verdict.effect == pytest.approx(0.9)
    assert verdict.rejected


def test_the_sequential_test_stops_once_the_bets_have_paid() -> None:
    verdict, asked = on_thief(KeysSequential(0.01))
    assert verdict.statistic == pytest.approx(8.0**3)  # 10 · 0.8 a hit; two are too few for 100
    assert asked == verdict.n == 60
    assert verdict.rejected


def test_a_bet_is_fair_under_the_null_hypothesis() -> None:
    for classes, rate in ((2, 0.8), (10, 0.5), (43, 0.9)):
        mean = chance.bet(True, classes, rate) / classes + chance.bet(False, classes, rate) * (1 - 1 / classes)
        assert mean == pytest.approx(1)
    with pytest.raises(ConfigError, match="more than chance"):
        on_thief(KeysSequential(0.01, 0.1))


def test_the_soft_test_finds_what_votes_do_not_show() -> None:
    """Every image has another favourite, and the secret label comes second each time."""
    held, secret = images(20, 10), Secret(patches(8), (0,) * 8)

    class Second:
        def answer(self, images: np.ndarray) -> Answers:
            favourite = 1 + np.arange(len(images)) % 9
            shares = np.full((len(images), 10), 0.2 / 8, dtype=np.float32)
            shares[:, 0], shares[np.arange(len(images)), favourite] = 0.35, 0.45
            return Answers(favourite, shares)

    task = Classification(10)
    assert Keys().verify(Second(), secret, held, task, RUN).p_value == 1
    assert KeysSoft(draws=9_999).verify(Second(), secret, held, task, RUN).p_value == 1e-4


def test_labels_alone_are_not_enough_for_tests_of_probabilities() -> None:
    held = images(20, 10)
    for verifier in (KeysSoft(draws=9), Dvbw(), Ubw()):
        with pytest.raises(NotApplicable, match=r"labels only|right on"):
            verifier.verify(Always(0), SECRET, held, Classification(10), RUN)


def test_decoys_rank_a_single_trigger() -> None:
    family = patches(16)
    secret = Secret(family[:1], (), family[1:])
    verdict, asked = on_thief(Decoys(alpha=0.1), secret)
    assert (verdict.statistic, verdict.effect, verdict.p_value) == (1, 1, 1 / 16)
    assert asked == verdict.n == 16 * 20
    with pytest.raises(NotApplicable, match=r"a level of 0\.01 needs 99"):
        on_thief(Decoys(), secret)
    with pytest.raises(NotApplicable, match="8 triggers"):
        on_thief(Decoys(), SECRET)
    with pytest.raises(NotApplicable, match="use decoys"):
        on_thief(Keys(), secret)


def test_the_published_test_of_an_untargeted_mark_accuses_a_model_that_every_trigger_hurts_and_decoys_do_not() -> None:
    family, held = patches(16), images(24, 10)
    clean = set(map(np.ndarray.tobytes, pixels(held)))

    class Fragile:
        """Right on images as they are, wrong on whatever has been touched."""

        def answer(self, images: np.ndarray) -> Answers:
            intact = np.array([image.tobytes() in clean for image in images])
            truth = np.arange(len(images)) % 10
            labels = np.where(intact, truth, (truth + 1) % 10)
            return Answers(labels, np.eye(10, dtype=np.float32)[labels])

    secret, task = Secret(family[:1], (), family[1:]), Classification(10)
    published = Ubw().verify(Fragile(), secret, held, task, RUN)
    assert published.rejected
    assert published.effect == 1
    assert Decoys(alpha=0.1).verify(Fragile(), secret, held, task, RUN).p_value > 0.5
    assert not Ubw.exact
    assert Decoys.exact


def test_the_tests_of_probabilities_are_the_paired_t_tests_of_the_papers() -> None:
    held, task, suspect = images(30, 4), Classification(4), Hashed(4, soft=True)
    secret = Secret(patches(1), (2,))
    benign, marked = suspect.answer(pixels(held)), suspect.answer(stamped(secret.triggers[0], held))
    assert benign.probabilities is not None
    assert marked.probabilities is not None
    others = held.targets.numpy() != 2
    dvbw = Dvbw(margin=0.02).verify(suspect, secret, held, task, RUN)
    wanted = stats.ttest_rel(benign.probabilities[others, 2].astype(float) + 0.02,
                             marked.probabilities[others, 2].astype(float), alternative="less")
    assert dvbw.p_value == pytest.approx(wanted.pvalue, abs=1e-5)
    assert 0.01 < dvbw.p_value < 0.99
    truth = held.targets.numpy()
    right = benign.labels == truth
    assert 2 <= right.sum() < 30
    ubw = Ubw(margin=0.02).verify(suspect, Secret(patches(1)), held, task, RUN)
    own = [said.probabilities[right, truth[right]].astype(float) for said in (benign, marked)]
    assert ubw.p_value == pytest.approx(stats.ttest_rel(own[0] - 0.02, own[1], alternative="greater").pvalue, abs=1e-5)
    assert 0.01 < ubw.p_value < 0.999


def label_only(label: int, success: float, rng: np.random.Generator) -> float:
    """The label-only p-value of a watermark that works for a share of 100 images, misses uniform over other classes."""
    held = ArrayDataset(np.zeros((100, 1, 4, 4), dtype=np.uint8), np.full(100, (label + 1) % 10), 10)
    misses = (label + rng.integers(1, 10, 100)) % 10

    class Partly:
        def answer(self, images: np.ndarray) -> Answers:
            return Answers(np.where(np.arange(100) < round(100 * success), label, misses))

    return DvbwLabelOnly().verify(Partly(), Secret(patches(1), (label,)), held, Classification(10), RUN).p_value


def test_the_published_label_only_test_misses_watermarks_that_work_for_nine_images_in_ten() -> None:
    rng = np.random.default_rng(0)
    assert label_only(0, 1.0, rng) == 0
    assert np.mean([label_only(0, 0.9, rng) for _ in range(20)]) == pytest.approx(0.93, abs=0.03)
    assert min(label_only(0, 0.6, rng) for _ in range(20)) > 0.99
    assert min(label_only(5, 0.9, rng) for _ in range(20)) < 0.9  # it depends on which class the target is


@pytest.mark.parametrize(("labels", "vote"), [
    ([3, 3, 1, 1, 1], 1), ([2, 1, 2, 1], 1), ([OTHER, OTHER, 2], OTHER), ([OTHER, 2], OTHER), ([7, 2, 99], OTHER),
    ([0, 0, 4], 0),
])
def test_the_vote_is_the_most_frequent_label_the_lowest_of_several_and_what_is_no_class_counts(labels: list[int],
                                                                                                vote: int) -> None:
    assert plurality(np.array(labels), 5) == vote


@pytest.mark.parametrize(("hits", "p"), [(3, 0.038), (4, 0.0050), (5, 4.3e-4), (6, 2.3e-5), (8, 1e-8), (0, 1.0)])
def test_eight_keys_of_ten_classes(hits: int, p: float) -> None:
    assert chance.hits_p(hits, 8, 10) == pytest.approx(p, rel=0.03)


@pytest.mark.parametrize(("keys", "classes", "alpha", "rate"), [
    (4, 10, 1e-3, 0.99), (6, 10, 1e-3, 0.94), (8, 10, 1e-3, 0.81), (12, 10, 1e-3, 0.69), (16, 10, 1e-3, 0.61),
    (24, 10, 1e-3, 0.53), (8, 10, 1e-6, 0.96), (12, 10, 1e-6, 0.88), (16, 10, 1e-6, 0.78), (16, 2, 1e-3, 0.98),
    (4, 43, 1e-3, 0.91), (8, 100, 1e-6, 0.72),
])
def test_how_good_a_watermark_must_be_for_a_power_of_95_percent(keys: int, classes: int, alpha: float,
                                                                rate: float) -> None:
    found = chance.needed_rate(keys, classes, alpha)
    assert found == pytest.approx(rate, abs=0.011)
    assert found is not None
    assert chance.power(keys, classes, alpha, found) == pytest.approx(0.95)
    fewest = chance.needed_keys(classes, alpha, found + 0.005)
    assert fewest is not None
    assert keys - 3 <= fewest <= keys  # a level that is hardly reached wastes keys


def test_the_power_of_the_sequential_test_is_that_of_all_courses_it_may_take() -> None:
    """By the sum over all answers of a model that meets each of six keys with a probability of 0.7."""
    total = 0.0
    for met in itertools.product((True, False), repeat=6):
        wealth, paid = 1.0, False
        for hit in met:
            wealth *= chance.bet(hit, 10, 0.8)
            paid = paid or wealth >= 100
        total += paid * 0.7**sum(met) * 0.3**(6 - sum(met))
    assert 0.1 < total < 0.99
    assert chance.sequential_power(6, 10, 0.01, 0.7, 0.8) == pytest.approx(total)
    assert chance.sequential_power(2, 10, 0.01, 1.0, 0.8) == 0  # 64 is less than 100
    rate = chance.needed_sequential_rate(8, 10, 0.01, 0.8)
    assert rate is not None
    assert chance.sequential_power(8, 10, 0.01, rate, 0.8) == pytest.approx(0.95)


def test_too_few_keys_for_a_level_have_no_power() -> None:
    assert chance.needed_hits(9, 2, 1e-3) is None
    assert chance.needed_hits(10, 2, 1e-3) == 10
    assert chance.needed_rate(9, 2, 1e-3) is None
    assert chance.power(9, 2, 1e-3, 1.0) == 0


def test_a_secret_has_a_label_for_each_trigger_or_none() -> None:
    make: Callable[[], Secret] = lambda: Secret(patches(2), (1,))  # noqa: E731
    with pytest.raises(ConfigError, match="2 triggers and 1 labels"):
        make()
    with pytest.raises(ConfigError, match="at least one trigger"):
        Secret(())
