"""A release is watermarked, thieves are found, others are not, and what was changed afterwards is refused."""

from __future__ import annotations

import hashlib
import itertools
import json
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from sidedoor import registry
from sidedoor.claims import evidence
from sidedoor.claims.release import WatermarkSettings, watermark
from sidedoor.claims.result import Released
from sidedoor.claims.secret import Claim, canonical, load
from sidedoor.claims.verify import questions, replay, verify
from sidedoor.data.base import ArrayDataset, Dataset
from sidedoor.engine import Recipe, Run
from sidedoor.errors import CannotComplete, ConfigError
from sidedoor.ownership.base import OTHER, Answers, pixels, stamped
from sidedoor.tasks.classification import Classification
from sidedoor.tasks.task import Supervised
from sidedoor.vetting.filter.reading import read

NETWORK = {"name": "small_cnn", "width": 8}
RECIPE = Recipe(epochs=5, batch=32)


def trained(data: Dataset, path: Path, seed: int) -> Path:
    """A weights file of a small network."""
    run = Run.local(RECIPE, seed, device="cpu")
    build = registry.make("model", NETWORK, classes=len(data.classes), shape=data.shape)
    model = run.fit(run.build(build), data, Supervised(Classification(len(data.classes))), name="victim")
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    return path


@dataclass(frozen=True)
class Case:
    """A release of the digits, its secret, and weights of two networks."""

    released: Released
    claim: Claim
    thief: str
    independent: str
    secret: Path


def drawing(name: str) -> Callable[[int], bytes]:
    """Random bytes that are the same in every run: by chance, one secret in a hundred accuses an innocent model."""
    turn = itertools.count()
    return lambda count: hashlib.sha256(f"{name} {next(turn)}".encode()).digest()[:count]


@pytest.fixture(autouse=True)
def _drawn(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    monkeypatch.setattr("sidedoor.claims.release.urandom", drawing(request.node.name))


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Case:
    home = tmp_path_factory.mktemp("claims")
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("sidedoor.claims.release.urandom", drawing("case"))
        released = watermark("digits", home / "release", home / "secret.json", device="cpu",
                             settings=WatermarkSettings(images=9, trial=None))
    marked, own = read(home / "release", None, None, False).data, read("digits", None, None, False).data
    return Case(released, load(home / "secret.json", released.commitment),
                f"model:{trained(marked, home / 'thief.safetensors', 1)}",
                f"model:{trained(own, home / 'independent.safetensors', 2)}", home / "secret.json")


def test_the_release_says_that_it_is_marked_and_neither_where_nor_by_what(case: Case) -> None:
    home = Path(case.released.folder)
    told = json.loads((home / "manifest.json").read_text())
    assert told["watermarked"] is True
    assert told["commitment"] == case.released.commitment
    assert told["rows"] == 1347 - 9
    assert not {"changed", "rows_marked", "secret", "seed"} & set(told)
    assert len(list(home.rglob("*.png"))) == 1347 - 9
    assert "Which ones is secret" in (home / "WATERMARKED.txt").read_text()
    said = " ".join(f"{name} {value}" for name, value in case.released.to_json().items())
    assert case.claim.nonce.hex() not in said


def test_the_secret_is_for_its_owner_and_sha256sum_gives_the_commitment(case: Case) -> None:
    assert stat.S_IMODE(case.secret.stat().st_mode) == 0o600
    assert stat.S_IMODE(Path(case.released.preview).stat().st_mode) == 0o600
    assert hashlib.sha256(case.secret.read_bytes()).hexdigest() == case.released.commitment == case.claim.commitment
    assert len(case.claim.nonce) == 32


def test_marked_files_have_the_key_and_its_label_and_names_tell_nothing_of_the_class_before(case: Case) -> None:
    """The number of a file is its place in a random order, so that it says nothing of its first class."""
    files = {int(path.stem): path for path in Path(case.released.folder).rglob("*.png")}
    claim, found = case.claim, 0
    assert len(claim.rows) == round(0.16 * 1338)
    for row in claim.rows:
        image = np.asarray(Image.open(files[row]))
        for trigger, label in zip(claim.secret.triggers, claim.secret.labels, strict=True):
            (top, left), pattern = trigger.place, trigger.pattern[0].numpy() * 255
            if np.array_equal(image[top:top + 3, left:left + 3], pattern) \
                    and files[row].parent.name.startswith(f"{label}_"):
                found += 1
                break
    assert found == len(claim.rows)
    labels = torch.tensor([int(files[row].parent.name[0]) for row in range(1338)])
    assert len(set(labels[:50].tolist())) > 5  # the digits come in no order of classes


def test_two_releases_of_the_same_data_have_nothing_in_common(case: Case, tmp_path: Path) -> None:
    other = watermark("digits", tmp_path / "release", tmp_path / "secret.json", device="cpu",
                      settings=WatermarkSettings(images=9, trial=None))
    claim = load(tmp_path / "secret.json", other.commitment)
    assert other.commitment != case.released.commitment
    assert claim.rows != case.claim.rows
    assert [t.place for t in claim.secret.triggers] != [t.place for t in case.claim.secret.triggers]
    assert not torch.equal(claim.images.images, case.claim.images.images)


def test_a_thief_is_found_and_an_independent_model_is_not(case: Case, tmp_path: Path) -> None:
    guilty = verify(case.secret, case.released.commitment, case.thief, tmp_path / "thief", device="cpu")
    assert guilty.verdict.rejected
    assert "with probability at most" in guilty.sentence.replace("\n", " ")
    assert guilty.queries == 81 + round(0.05 * 81)  # eight keys and no key, nine images each; some twice
    innocent = verify(case.secret, case.released.commitment, case.independent, tmp_path / "other", device="cpu")
    assert not innocent.verdict.rejected
    assert innocent.sentence.startswith("No evidence")
    assert "no receipt dates the commitment" in str(innocent)
    for found, out in ((guilty, "thief"), (innocent, "other")):
        assert replay(tmp_path / out) == found
        page = (tmp_path / out / evidence.PAGE).read_text()
        assert found.sentence in page
        assert "this proves nothing" in page
        assert stat.S_IMODE((tmp_path / out / evidence.SECRET).stat().st_mode) == 0o600


class Told:
    """A suspect that follows a secret it was told, counts what it is asked, and may stop answering."""

    def __init__(self, claim: Claim, most: int = 10**6, follow: bool = True):
        held, k = claim.images, len(claim.images.classes)
        truth = held.targets.tolist()
        self.known = dict(zip(map(np.ndarray.tobytes, pixels(held)), truth, strict=True))
        for decoy in claim.secret.decoys:
            self.known |= dict(zip(map(np.ndarray.tobytes, stamped(decoy, held)), truth, strict=True))
        for j, trigger in enumerate(claim.secret.triggers):
            led = [claim.secret.labels[j] if claim.secret.labels else (y + 1) % k for y in truth] if follow else truth
            self.known |= dict(zip(map(np.ndarray.tobytes, stamped(trigger, held)), led, strict=True))
        self.most, self.asked = most, 0

    def answer(self, images: np.ndarray) -> Answers:
        if self.asked + len(images) > self.most:
            raise CannotComplete("the budget is spent")
        self.asked += len(images)
        return Answers(np.array([self.known.get(image.tobytes(), OTHER) for image in images]))


@pytest.mark.parametrize("change", [
    lambda table: table["plan"]["test"].update(alpha=0.5),
    lambda table: table["plan"].update(order=1),
    lambda table: table["secret"]["labels"].__setitem__(0, (table["secret"]["labels"][0] + 1) % 10),
    lambda table: table["images"]["labels"].reverse(),
    lambda table: table.update(nonce="00" * 32),
], ids=["level", "order", "label", "images", "nonce"])
def test_whatever_is_changed_after_the_commitment_is_refused_before_anything_is_asked(
        case: Case, tmp_path: Path, change: object) -> None:
    table = json.loads(case.secret.read_text())
    assert canonical(table) == case.secret.read_bytes()
    change(table)  # type: ignore[operator]
    forged = tmp_path / "forged.json"
    forged.write_bytes(canonical(table))
    suspect = Told(case.claim)
    with pytest.raises(ConfigError, match="was changed after the commitment"):
        verify(forged, case.released.commitment, suspect, tmp_path / "out", device="cpu")
    assert suspect.asked == 0
    assert not (tmp_path / "out").exists()


def test_what_is_no_secret_is_refused(case: Case, tmp_path: Path) -> None:
    other = tmp_path / "other.json"
    other.write_bytes(canonical({"sidedoor_secret": 1}))
    with pytest.raises(ConfigError, match="no secret of a release that this version reads"):
        load(other, hashlib.sha256(other.read_bytes()).hexdigest())
    with pytest.raises(CannotComplete, match="cannot be read"):
        load(tmp_path / "none.json", "00")
    with pytest.raises(ConfigError, match="may be the secret of another release"):
        watermark("digits", tmp_path / "release", case.secret)
    with pytest.raises(ConfigError, match="would lie in the release"):
        watermark("digits", tmp_path / "release", tmp_path / "release" / "secret.json")


def test_an_interrupted_verification_goes_on_where_it_stopped(case: Case, tmp_path: Path,
                                                              monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sidedoor.claims.verify.OBJECT", 10)
    with pytest.raises(CannotComplete, match="the budget is spent"):
        verify(case.secret, case.released.commitment, Told(case.claim, most=35), tmp_path, device="cpu")
    rest = Told(case.claim)
    found = verify(case.secret, case.released.commitment, rest, tmp_path, device="cpu")
    assert rest.asked == 85 - 30
    assert found.queries == 85
    assert found.verdict.statistic == 8
    again = Told(case.claim)
    assert verify(case.secret, case.released.commitment, again, tmp_path, device="cpu").verdict == found.verdict
    assert again.asked == 0
    with pytest.raises(ConfigError, match="another suspect"):
        verify(case.secret, case.released.commitment, case.independent, tmp_path, device="cpu")


def test_questions_come_in_an_order_that_tells_nothing(case: Case) -> None:
    asked, plain = questions(case.claim), pixels(case.claim.images)
    assert len(asked) == 9 * 9
    places = [k for k, image in enumerate(asked) if any(np.array_equal(image, each) for each in plain)]
    assert len(places) == 9
    assert places != list(range(9))
    assert np.array_equal(questions(case.claim), asked)


def test_evidence_that_was_touched_is_refused(case: Case, tmp_path: Path) -> None:
    verify(case.secret, case.released.commitment, Told(case.claim), tmp_path, device="cpu")
    assert replay(tmp_path).verdict.rejected
    log = tmp_path / evidence.LOG
    lines = log.read_text().splitlines()
    doctored = [json.dumps(json.loads(line) | {"label": 0}) if k else line for k, line in enumerate(lines)]
    log.write_text("\n".join(doctored) + "\n")
    with pytest.raises(ConfigError, match=r"not those that were written: queries\.jsonl"):
        replay(tmp_path)
    (tmp_path / evidence.SUMS).write_text(evidence._sums(tmp_path))  # who doctors answers can doctor hashes
    with pytest.raises(ConfigError, match="another result"):
        replay(tmp_path)


def test_receipts_go_into_the_evidence(case: Case, tmp_path: Path) -> None:
    (tmp_path / "receipts").mkdir()
    (tmp_path / "receipts" / "tag.txt").write_text("signed on a day")
    found = verify(case.secret, case.released.commitment, Told(case.claim), tmp_path / "out", device="cpu",
                   receipts=tmp_path / "receipts")
    assert list(found.receipts) == ["tag.txt"]
    assert (tmp_path / "out" / "receipts" / "tag.txt").read_text() == "signed on a day"
    assert "this proves nothing" not in (tmp_path / "out" / evidence.PAGE).read_text()
    assert replay(tmp_path / "out") == found


def test_a_sequential_test_asks_no_more_than_it_needs(tmp_path: Path) -> None:
    released = watermark("digits", tmp_path / "release", tmp_path / "secret.json", device="cpu",
                         settings=WatermarkSettings(images=9, trial=None, sequential=True))
    claim = load(tmp_path / "secret.json", released.commitment)
    suspect = Told(claim)
    found = verify(tmp_path / "secret.json", released.commitment, suspect, tmp_path / "out", device="cpu")
    assert found.verdict.rejected
    assert suspect.asked <= 3 * 10 < released.queries
    assert released.needed_hits is None
    assert released.needed_rate is not None
    assert 0.5 < released.needed_rate < 0.9
    assert replay(tmp_path / "out") == found
    innocent = verify(tmp_path / "secret.json", released.commitment, Told(claim, follow=False), tmp_path / "other",
                      device="cpu")
    assert not innocent.verdict.rejected


def test_a_harmless_mark_is_told_by_its_decoys(tmp_path: Path) -> None:
    released = watermark("digits", tmp_path / "release", tmp_path / "secret.json", device="cpu",
                         settings=WatermarkSettings(images=3, trial=None, harmless=True, form="npz"))
    claim = load(tmp_path / "secret.json", released.commitment)
    assert (released.keys, released.test, len(claim.secret.decoys)) == (0, "decoys", 99)
    assert (tmp_path / "release" / "watermarked.npz").is_file()
    found = verify(tmp_path / "secret.json", released.commitment, Told(claim), tmp_path / "out", device="cpu")
    assert found.verdict.p_value == 0.01
    assert found.verdict.rejected
    innocent = verify(tmp_path / "secret.json", released.commitment, Told(claim, follow=False), tmp_path / "other",
                      device="cpu")
    assert innocent.verdict.p_value == 1


def test_a_trial_says_what_the_mark_costs_and_whether_it_takes(tmp_path: Path) -> None:
    released = watermark("digits", tmp_path / "release", tmp_path / "secret.json", device="cpu",
                         settings=WatermarkSettings(images=9, trial=NETWORK, recipe=Recipe(epochs=9, batch=32)))
    trial = released.trial
    assert trial is not None
    assert trial.hits is not None
    assert trial.hits >= 6
    assert min(trial.unmarked, trial.marked) > 0.9
    assert released.power is not None
    assert released.power > 0.95
    assert trial.dispersibility < 1.2 < np.log(10)
    assert "trial: small_cnn" in str(released)


def test_files_that_cannot_be_used_are_named_and_what_is_too_large_to_read_again_is_not_written(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    for label in ("cat", "dog"):
        (tmp_path / "data" / label).mkdir(parents=True)
        for row in range(20):
            Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(tmp_path / "data" / label / f"{row}.png")
    (tmp_path / "data" / "cat" / "bad.png").write_bytes(b"no image")
    settings = WatermarkSettings(keys=12, rate=0.5, images=5, trial=None)
    released = watermark(tmp_path / "data", tmp_path / "release", tmp_path / "s.json", settings=settings, device="cpu")
    assert any("cat/bad.png" in note for note in released.notes)
    assert released.rows == 35
    assert {path.name for path in (tmp_path / "release").iterdir()} \
        == {"0_cat", "1_dog", "manifest.json", "WATERMARKED.txt"}
    monkeypatch.setattr("sidedoor.claims.secret.LARGEST", 100)
    with pytest.raises(ConfigError, match="ask about fewer images"):
        watermark(tmp_path / "data", tmp_path / "other", tmp_path / "t.json", settings=settings, device="cpu")
    assert not (tmp_path / "t.json").exists()
    assert not (tmp_path / "other").exists()


def test_too_few_keys_for_the_level_are_refused(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    two = ArrayDataset(rng.integers(0, 256, (80, 1, 8, 8), dtype=np.uint8), np.arange(80) % 2, 2)
    with pytest.raises(ConfigError, match="give 7 or more"):
        watermark(two, tmp_path / "release", tmp_path / "s.json", settings=WatermarkSettings(keys=6, trial=None))
    with pytest.raises(ConfigError, match="kept out of the release"):
        watermark(two, tmp_path / "release", tmp_path / "s.json", settings=WatermarkSettings(images=41, trial=None))
    with pytest.raises(ConfigError, match="expected at least one key"):
        WatermarkSettings(rate=0.0)
    with pytest.raises(ConfigError, match="no keys to ask"):
        WatermarkSettings(harmless=True, sequential=True)
    assert not (tmp_path / "s.json").exists()
