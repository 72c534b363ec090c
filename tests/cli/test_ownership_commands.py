"""`sidedoor watermark` and `sidedoor verify`, and their exit codes."""

from __future__ import annotations

import json
from pathlib import Path

from command_line import Cli


def marked_rows(secret: Path, classes: int, each: int) -> int:
    """2 % for each of five keys, of the rows that some key leads elsewhere; one label for all leaves its class out."""
    labels = set(json.loads(secret.read_text())["secret"]["labels"])
    return round(0.1 * each * (classes - (len(labels) == 1)))


def test_a_release_is_made_a_suspect_is_asked_and_the_evidence_is_tested_again(cli: Cli, stripes: Path) -> None:
    data, release, secret = stripes / "images.npz", stripes / "release", stripes / "secret.json"
    made = cli("watermark", data, "-o", release, "--secret", secret, "--keys", 5, "--images", 4, "--trial", "none",
               "--json", "-q")
    assert (made.code, made.err) == (0, "")
    told = json.loads(made.out)
    assert (told["keys"], told["rows"], told["marked"]) == (5, 196, marked_rows(secret, 4, 49))
    suspect = f"model:{stripes / 'given.safetensors'}"
    asked = ("verify", "--secret", secret, "--commitment", told["commitment"], "--suspect", suspect, "-o",
             stripes / "evidence")
    found = cli(*asked, "--json")
    assert found.code == 0
    said = json.loads(found.out)
    assert said["tests"][0]["name"] == "keys"
    assert said["commitment"] == told["commitment"]
    assert said["evidence_sha256"] in found.err
    again = cli("verify", "--replay", stripes / "evidence", "--json")
    assert again.code == 0
    assert json.loads(again.out) == said


def test_a_commitment_to_something_else_is_an_error_of_usage(cli: Cli, stripes: Path) -> None:
    data, release, secret = stripes / "images.npz", stripes / "release", stripes / "secret.json"
    assert cli("watermark", data, "-o", release, "--secret", secret, "--images", 2, "--trial", "none").code == 0
    suspect = f"model:{stripes / 'given.safetensors'}"
    said = cli("verify", "--secret", secret, "--commitment", "ab" * 32, "--suspect", suspect, "-o", stripes / "out")
    assert (said.code, said.out) == (4, "")
    assert "changed after the commitment" in said.err
    assert cli("verify", "--secret", secret).code == 4
    assert cli("verify", "--replay", stripes / "none").code == 2
    assert cli("verify", "--replay", stripes / "none", "--secret", secret).code == 4
    assert cli("watermark", stripes, "-o", stripes / "inside", "--secret", secret).code == 4


def test_a_suspect_that_is_not_there_can_be_asked_later(cli: Cli, stripes: Path) -> None:
    data, secret = stripes / "images.npz", stripes / "secret.json"
    made = cli("watermark", data, "-o", stripes / "release", "--secret", secret, "--images", 2, "--trial", "none",
               "--json")
    commitment = json.loads(made.out)["commitment"]
    said = cli("verify", "--secret", secret, "--commitment", commitment, "--suspect", "model:none.safetensors", "-o",
               stripes / "out")
    assert said.code == 2
