"""The file of an endpoint: what it may say, and what people are told where it says something else."""

from __future__ import annotations

from pathlib import Path

import pytest

from sidedoor.claims.suspects.endpoint import Endpoint, Said, Sent, found, placed, read_endpoint, values_of
from sidedoor.errors import CannotComplete, ConfigError

NAMES = ("cat", "dog", "7")
GOOD = {"": 'url = "https://a.example/x?y=1"', "image": "raw = true", "answer": 'label = "a.0.b"'}


def written(folder: Path, **parts: str) -> Path:
    """A file of these tables; those of `GOOD` where none is given. `top` are the keys before the first table."""
    tables = {**GOOD, **{"" if name == "top" else name: text for name, text in parts.items()}}
    path = folder / "endpoint.toml"
    path.write_text(tables.pop("") + "\n" + "\n".join(f"[{name}]\n{text}" for name, text in tables.items()))
    return path


def test_what_is_left_out_has_defaults(tmp_path: Path) -> None:
    assert read_endpoint(written(tmp_path), NAMES) == Endpoint(
        "https://a.example/x?y=1", Sent(raw=True), Said(label=("a", 0, "b")), NAMES, method="POST", timeout=30.0,
        concurrency=1, rate=None, retries=5, budget=5000, failures="stop")


def test_all_that_can_be_said(tmp_path: Path) -> None:
    path = written(
        tmp_path, headers='X-Key = "KEY"', classes='tabby = "cat"\nhound = 1\nseven = "7"\n"8" = 2',
        top='url = "https://a.example"\nmethod = "PUT"\ntimeout = 2\nconcurrency = 8\nrate = 3\nretries = 0\n'
            'budget = 9\nfailures = "miss"\nca = "own.pem"',
        image='base64 = ["a.b", 0, "c"]\nprefix = "data:"\nbody = { model = 3 }',
        answer='scores = "s"\nname = "n"\nscore = "p"\nlogits = true')
    assert read_endpoint(path, NAMES) == Endpoint(
        "https://a.example", Sent(base64=("a.b", 0, "c"), prefix="data:", body={"model": 3}),
        Said(scores=("s",), name="n", score="p", logits=True), NAMES, {"tabby": 0, "hound": 1, "seven": 2, "8": 2},
        (("X-Key", "KEY"),), "PUT", 2.0, 8, 3.0, 0, 9, "miss", str(tmp_path / "own.pem"))


@pytest.mark.parametrize(("parts", "words"), [
    ({"top": ""}, "no url given"),
    ({"top": "url = 3"}, "Endpoint.url = 3 given; expected str"),
    ({"top": 'url = "ftp://a.example"'}, "expected https://HOST/PATH"),
    ({"top": 'url = "a.example/x"'}, "expected https://HOST/PATH"),
    ({"top": 'url = "https://a.example:x/"'}, "the url is none"),
    ({"top": 'url = "https://[/"'}, "the url is none"),
    ({"top": 'url = "http://a.example"', "headers": 'A = "B"'}, "unencrypted; expected https"),
    ({"top": GOOD[""] + "\nconcurrency = 9"}, "Endpoint.concurrency = 9 given; expected between 1 and 8"),
    ({"top": GOOD[""] + "\nconcurrency = true"}, "concurrency = True given"),
    ({"top": GOOD[""] + "\nretries = -1"}, "retries = -1 given; expected between 0 and 100"),
    ({"top": GOOD[""] + "\nbudget = 0"}, "budget = 0 given; expected at least 1"),
    ({"top": GOOD[""] + "\nrate = 0"}, r"rate = 0\.0 given"),
    ({"top": GOOD[""] + "\ntimeout = 0"}, r"timeout = 0\.0 given"),
    ({"top": GOOD[""] + "\ntimeout = nan"}, "timeout = nan given"),
    ({"top": GOOD[""] + '\nmethod = "GET"'}, "method = 'GET' given; expected one of 'POST', 'PUT'"),
    ({"top": GOOD[""] + '\nfailures = "skip"'}, "failures = 'skip' given; expected one of 'stop', 'miss'"),
    ({"top": GOOD[""] + "\nca = 3"}, "ca = 3 given"),
    ({"top": GOOD[""] + "\ntimeuot = 3"}, "unknown key 'timeuot'; did you mean timeout"),
    ({"top": GOOD[""] + "\nsaid = 3"}, "unknown key 'said'"),
    ({"top": GOOD[""] + "\nheaders = 3"}, r"headers = 3 given; expected a table, \[headers\]"),
    ({"image": ""}, "by one of `field`, `base64` and `raw = true`"),
    ({"image": 'raw = true\nfield = "f"'}, "by one of"),
    ({"image": 'feild = "f"'}, r"unknown key of \[image\] 'feild'; did you mean field"),
    ({"image": 'raw = true\nbody = { a = "b" }'}, "`body` goes with"),
    ({"image": 'field = "f"\nbody = { a = 3 }'}, "values of `body` are text"),
    ({"image": 'field = "f"\nprefix = "x"'}, "`prefix` with `base64`"),
    ({"image": "base64 = 3"}, 'base64 = 3 given; expected a place such as "result.0.label"'),
    ({"image": "base64 = []"}, "expected a place"),
    ({"image": 'base64 = "a..b"'}, "'' is neither a key nor a number"),
    ({"image": 'base64 = ["a", -1]'}, "-1 is neither a key nor a number"),
    ({"image": 'base64 = ["a", true]'}, "True is neither a key nor a number"),
    ({"image": 'base64 = "a.1"'}, 'the place 1 of null given; expected a list that is so long'),
    ({"image": 'base64 = "a.b"\nbody = { a = 3 }'}, "the key 'b' of 3 given; expected a table"),
    ({"answer": ""}, "by one of `label` and `scores`"),
    ({"answer": 'label = "a"\nscores = "b"'}, "by one of `label` and `scores`"),
    ({"answer": 'label = "a"\nlogits = true'}, "with `scores`"),
    ({"answer": 'scores = "a"\nname = "b"'}, "`name` and `score` go together"),
    ({"classes": 'x = "cta"'}, "unknown class of 'x' in .classes. 'cta'; did you mean cat"),
    ({"classes": "x = 3"}, "x = 3 given; expected the name of a class, or 0 to 2"),
    ({"classes": "x = true"}, "x = True given"),
    ({"headers": '"a b" = "C"'}, "no name of a header"),
])
def test_what_cannot_mean_anything_is_said(parts: dict[str, str], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        read_endpoint(written(tmp_path, **parts), NAMES)
    assert "endpoint.toml" in str(error.value)


@pytest.mark.parametrize("parts", [{"headers": 'Authorization = "Bearer hush"'}, {"headers": "Authorization = 4711"},
                                   {"top": 'url = "https://me:hush@a.example"'}])
def test_keys_in_the_wrong_place_are_not_repeated(parts: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="headers") as error:
        read_endpoint(written(tmp_path, **parts), NAMES)
    assert "hush" not in str(error.value)
    assert "4711" not in str(error.value)


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:80"])
def test_this_machine_needs_no_encryption(host: str, tmp_path: Path) -> None:
    path = written(tmp_path, top=f'url = "http://{host}/x"', headers='A = "B"')
    assert read_endpoint(path, NAMES).url == f"http://{host}/x"


def test_no_file_and_no_toml(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        read_endpoint(tmp_path / "none.toml", NAMES)
    (tmp_path / "a.toml").write_text("url = ")
    with pytest.raises(ConfigError, match="is not TOML"):
        read_endpoint(tmp_path / "a.toml", NAMES)


def test_values_of_headers_come_from_the_environment() -> None:
    assert values_of((("X-Key", "KEY"),), {"KEY": "hush"}) == {"X-Key": "hush"}
    with pytest.raises(CannotComplete, match="variable KEY is not set; it holds the value of the header X-Key"):
        values_of((("X-Key", "KEY"),), {})
    for wrong in ("a\r\nB: c", "ü", "\t"):
        with pytest.raises(CannotComplete, match="KEY holds what no header may have"):
            values_of((("X-Key", "KEY"),), {"KEY": wrong})


def test_an_image_is_put_into_a_copy_of_the_body() -> None:
    body = {"instances": [{"k": 1}, {"k": 2}], "n": 3}
    assert placed(body, ("instances", 1, "b64"), "x") == {"instances": [{"k": 1}, {"k": 2, "b64": "x"}], "n": 3}
    assert placed(body, ("instances", 2), "x") == {"instances": [{"k": 1}, {"k": 2}, "x"], "n": 3}
    assert body == {"instances": [{"k": 1}, {"k": 2}], "n": 3}


def test_a_place_is_found_by_keys_and_numbers() -> None:
    assert found({"a": [{"0": 5}]}, ("a", 0, 0)) == 5, "a table may have numbers for keys"
    for place in ((1,), ("b",), ("a", 1), ("a", "0"), ("a", 0, 0, 0)):
        with pytest.raises(ValueError, match="there is no"):
            found({"a": [{"0": 5}]}, place)


def test_the_names_of_the_endpoint_are_ours_or_numbers() -> None:
    end = Endpoint("https://a.example", Sent(raw=True), Said(label=("l",)), NAMES)
    labels = {"cat": 0, "7": 2, 0: 0, 2: 2, 3: -1, -1: -1, "lion": -1, 7: -1}
    assert {name: end.understood({"l": name})[0] for name in labels} == labels
    table = Endpoint("https://a.example", Sent(raw=True), Said(label=("l",)), NAMES, {"7": 1})
    assert {name: table.understood({"l": name})[0] for name in ("cat", "7", 7)} == {"cat": -1, "7": 1, 7: 1}
