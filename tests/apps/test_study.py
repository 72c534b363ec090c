"""The study of human inspection, as a participant's browser and the one who runs it meet it."""

from __future__ import annotations

import json
import threading
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch

from sidedoor.apps.study import Study, questions, rates, read
from sidedoor.apps.study_server import server
from sidedoor.cli.main import main
from sidedoor.data.pictures import save_png
from sidedoor.errors import CannotComplete, ConfigError

COUNT = 6


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Pairs of two methods; originals are dark, stamped images bright."""
    for name, level in (("original", 10), ("bright", 200), ("brighter", 250)):
        for k in range(COUNT):
            save_png(torch.full((3, 8, 8), level + k % 5, dtype=torch.uint8), tmp_path / "pairs" / name / f"{k}.png")
    return tmp_path / "pairs"


class Page(HTMLParser):
    """What a page offers: its images by side, the hidden question, where the form goes."""

    def __init__(self, text: str):
        super().__init__()
        self.images: dict[str, str] = {}
        self.side = self.question = self.action = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given: dict[str, Any] = dict(attrs)
        if tag == "form":
            self.action = given["action"]
        if tag == "input":
            self.question = given["value"]
        if tag == "button":
            self.side = given["value"]
        if tag == "img":
            self.images[self.side] = given["src"]


class Browser:
    """Follows links and sends forms."""

    def __init__(self, address: str):
        self.address, self.place = address, "/"

    def get(self, place: str) -> bytes:
        with urllib.request.urlopen(self.address + place, timeout=10) as answer:
            self.place = urllib.parse.urlsplit(answer.url).path
            content: bytes = answer.read()
            return content

    def send(self, action: str, **values: str) -> str:
        with urllib.request.urlopen(self.address + action, urllib.parse.urlencode(values).encode(), 10) as answer:
            text: str = answer.read().decode()
            return text


@pytest.fixture
def served(folder: Path, tmp_path: Path) -> Iterator[tuple[Browser, Study]]:
    study = Study(questions(folder), tmp_path / "answers.jsonl")
    with server(study, "127.0.0.1", 0) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield Browser(f"http://127.0.0.1:{running.server_address[1]}"), study
        running.shutdown()
        thread.join()


def level(png: bytes, tmp_path: Path) -> int:
    from PIL import Image

    (tmp_path / "seen.png").write_bytes(png)
    with Image.open(tmp_path / "seen.png") as image:
        pixel: Any = image.getpixel((0, 0))
        return int(pixel[0])


def command(*arguments: object) -> int:
    """The exit code of a command."""
    with pytest.raises(SystemExit) as ended:
        main([str(argument) for argument in arguments])
    code: int = ended.value.code  # type: ignore[assignment]
    return code


def take(browser: Browser, tmp_path: Path, right: bool) -> int:
    """Answer every question, always rightly or always wrongly; how many there were."""
    page, asked = Page(browser.get("/").decode()), 0
    while page.images:
        levels = {side: level(browser.get(source), tmp_path) for side, source in page.images.items()}
        dark, bright = sorted(levels, key=lambda side: levels[side])
        page = Page(browser.send(page.action, question=page.question, side=dark if right else bright))
        asked += 1
    return asked


def test_participants_see_every_pair_once_and_the_rate_counts_who_was_fooled(
        served: tuple[Browser, Study], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    browser, study = served
    assert take(browser, tmp_path, right=True) == 2 * COUNT
    assert take(browser, tmp_path, right=False) == 2 * COUNT
    assert take(browser, tmp_path, right=False) == 2 * COUNT
    answers = read(study.file)
    assert len(answers) == 6 * COUNT == len({(a["participant"], a["question"]) for a in answers})
    assert command("study", "rates", study.file, "--json") == 0
    for line in json.loads(capsys.readouterr().out):
        assert line["fooling_rate"] == pytest.approx(2 / 3)
        assert line["participants"] == 3
        assert line["low"] < 2 / 3 < line["high"]
    assert command("study", "rates", study.file) == 0
    assert "bright: fooling rate 66.7 % (95 % interval 43.7 to 83.7), 18 answers by 3 participants" \
        in capsys.readouterr().out


def test_orders_and_sides_are_each_participants_own_and_balanced(folder: Path, tmp_path: Path) -> None:
    study = Study(questions(folder), tmp_path / "a.jsonl")
    orders = {tuple(study.order(f"{k:08x}")) for k in range(50)}
    assert len(orders) == 50
    left = [study.side(f"{k:08x}", number) == "left" for k in range(50) for number in range(2 * COUNT)]
    assert sum(left) / len(left) == pytest.approx(0.5, abs=0.07)
    assert study.order("00000001") == Study(study.questions, tmp_path / "b.jsonl").order("00000001")


def test_an_interrupted_participant_goes_on_and_no_answer_is_changed(served: tuple[Browser, Study]) -> None:
    browser, study = served
    page = Page(browser.get("/").decode())
    browser.send(page.action, question=page.question, side="left")
    first = read(study.file)
    browser.send(page.action, question=page.question, side="right")
    assert read(study.file) == first
    again = Study(study.questions, study.file)
    assert again.given(page.action.strip("/")) == {int(page.question)}
    assert "1 of 12 answered" in browser.get(page.action).decode()


@pytest.mark.parametrize(("place", "data", "code"), [
    ("/nobody", None, 404), ("/0000000a/0/middle", None, 404), ("/0000000a/99/left", None, 404),
    ("/0000000a/../original/0.png", None, 404), ("/0000000a", b"question=99&side=left", 400),
    ("/0000000a", b"question=0&side=up", 400), ("/0000000a", b"x" * 500, 400),
    ("/0000000a", b"question=-1&side=left", 400),
])
def test_requests_that_mean_nothing_are_refused_and_leave_no_answer(
        served: tuple[Browser, Study], place: str, data: bytes | None, code: int) -> None:
    browser, study = served
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(browser.address + place, data, 10)
    refused.value.close()
    assert refused.value.code == code
    assert not study.file.exists()


def test_addresses_of_images_do_not_tell_which_is_which(served: tuple[Browser, Study]) -> None:
    browser, _ = served
    page = Page(browser.get("/").decode())
    assert set(page.images.values()) == {f"{page.action}/{page.question}/left", f"{page.action}/{page.question}/right"}


def test_a_cut_line_is_left_out_and_other_files_are_refused(tmp_path: Path) -> None:
    good = {"participant": "a", "question": 1, "method": "m", "name": "x", "fooled": True}
    file = tmp_path / "answers.jsonl"
    file.write_text(json.dumps(good) + "\n" + json.dumps(good)[:20])
    assert read(file) == [good]
    assert rates(read(file))[0]["answers"] == 1
    for wrong in ("no answer", "{}", "[]", json.dumps(good | {"question": 1.5}), json.dumps(good | {"fooled": 1}),
                  '{"question": NaN}', "[" * 10**5, json.dumps(good | {"method": "\ud800"})):
        file.write_text(f"{wrong}\n{json.dumps(good)}\n")
        with pytest.raises(CannotComplete, match="line 1"):
            read(file)
    file.write_bytes(b"\xff\n")
    with pytest.raises(CannotComplete, match="not text in UTF-8"):
        read(file)


def test_an_answer_after_a_crash_begins_a_line_of_its_own(folder: Path, tmp_path: Path) -> None:
    first = Study(questions(folder), tmp_path / "answers.jsonl")
    first.answer("a", 0, "left")
    whole = first.file.read_text()
    first.file.write_text(whole + whole[:20])
    again = Study(questions(folder), first.file)
    again.answer("a", 1, "left")
    assert read(first.file) == again.answers
    assert [answer["question"] for answer in again.answers] == [0, 1]


def test_folders_without_pairs_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="has no pairs"):
        questions(tmp_path / "nowhere")
    (folder / "original" / "3.png").unlink()
    with pytest.raises(ConfigError, match=r"3.png has no original"):
        questions(folder)
    assert command("study", "rates", tmp_path / "none.jsonl") == 2


def test_a_taken_port_is_named(folder: Path, tmp_path: Path) -> None:
    study = Study(questions(folder), tmp_path / "answers.jsonl")
    with server(study, "127.0.0.1", 0) as running, pytest.raises(CannotComplete, match="give another --port"):
        server(study, "127.0.0.1", running.server_address[1])


def test_pairs_of_a_specification_differ_in_the_trigger_only(tmp_path: Path) -> None:
    spec = tmp_path / "spec.toml"
    spec.write_text('data = "digits"\nmodel = "small_cnn"\nattack = "badnets"\n[recipe]\nepochs = 1\n')
    options = ["-p", str(tmp_path / "pairs"), "--out", str(tmp_path / "runs"), "--count", "5"]
    assert command("study", "pairs", spec, *options) == 0
    found = questions(tmp_path / "pairs")
    assert len(found) == 5
    assert {q.method for q in found} == {"badnets"}
    from PIL import Image, ImageChops

    for question in found:
        with Image.open(question.original) as one, Image.open(question.stamped) as two:
            box = ImageChops.difference(one, two).getbbox()
            assert box is not None
            assert box[2] - box[0] <= 3


def test_pairs_carry_the_trigger_of_tests_where_training_has_another(tmp_path: Path) -> None:
    from PIL import Image

    spec = tmp_path / "spec.toml"
    attack = '{ name = "adaptive_blend", rate = 0.1, cover_rate = 0.1 }'  # in training half of its pieces
    spec.write_text(f'data = "digits"\nmodel = "small_cnn"\nattack = {attack}\n[recipe]\nepochs = 1\n')
    options = ["-p", str(tmp_path / "pairs"), "--out", str(tmp_path / "runs"), "--count", "5"]
    assert command("study", "pairs", spec, *options) == 0
    for question in questions(tmp_path / "pairs"):
        with Image.open(question.original) as one, Image.open(question.stamped) as two:
            changed = [a != b for a, b in zip(one.tobytes(), two.tobytes(), strict=True)]
        assert sum(changed) / len(changed) > 0.8
