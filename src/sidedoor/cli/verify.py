"""`sidedoor verify`: whether a suspect was trained on a watermarked release."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated

import typer

from sidedoor.cli._options import AsJson, Device, emit, note, quiet, say
from sidedoor.errors import ConfigError

Secret = Annotated[Path | None, typer.Option(help="The owner's file.", metavar="FILE")]
Commitment = Annotated[str | None, typer.Option(help="That was published before the release.", metavar="HEX")]
Suspect = Annotated[str | None, typer.Option(help="model:FILE, http:CONFIG.toml, or another KIND:WHERE.",
                                             metavar="KIND:WHERE")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the evidence; a run resumes there.")]
Replay = Annotated[Path | None, typer.Option(help="Test the answers of an evidence folder again, and ask nobody.",
                                             metavar="EVIDENCE")]
Receipts = Annotated[Path | None, typer.Option(help="Folder of files that date the commitment; they are copied.",
                                               metavar="DIR")]
Arch = Annotated[str | None, typer.Option(help="The network of a weights file, as resnet18; default: look for it.")]
Normalize = Annotated[str, typer.Option(help="Of a weights file: none, imagenet, cifar10, half, 0..255, caffe, or "
                                        "auto.")]


def verify(secret: Secret = None, commitment: Commitment = None, suspect: Suspect = None, out: Out = None,
           replay: Replay = None, receipts: Receipts = None, arch: Arch = None, normalize: Normalize = "auto",
           as_json: AsJson = False, device: Device = "auto") -> None:
    """Say whether a model was trained on data that were marked by `sidedoor watermark`.

    The suspect is asked about images with the secret triggers. If it owes nothing to the data, the test accuses it with
    a probability of at most its level, whatever model it is. OUT gets the secret, all questions and answers, the
    verdict, a page, and their hashes; its own hash is printed. Whoever gets it knows the triggers.

    Exit code: 0 a verdict was reached, either way; 2 it could not be (budget, endpoint): run it again to go on;
    4 usage, or the secret or its plan is not that of the commitment.
    """
    from sidedoor.claims import evidence
    from sidedoor.claims import verify as claims
    from sidedoor.core.progress import Silent, reporter

    given = {"--secret": secret, "--commitment": commitment, "--suspect": suspect, "--out": out}
    if replay is not None:
        if any(each is not None for each in given.values()):
            raise ConfigError(f"--replay takes none of {', '.join(given)}: all that it needs is in the evidence")
        found, folder = claims.replay(replay), replay
    else:
        missing = [name for name, each in given.items() if each is None]
        if secret is None or commitment is None or suspect is None or out is None:
            raise ConfigError(f"{', '.join(missing)} missing; or give --replay EVIDENCE")
        note(f"asking {suspect}")
        found, folder = claims.verify(secret, commitment, suspect, out, architecture=arch, normalization=normalize,
                                      receipts=receipts, device=device, variables=os.environ,
                                      progress=Silent() if quiet() else reporter()), out
    if as_json:
        emit(found.to_json() | {"evidence_sha256": evidence.hash_of(folder)})
    else:
        for line in str(found).splitlines():
            say(line)
    note(f"evidence: {folder}, report: {folder / evidence.PAGE}, SHA-256 of its SHA256SUMS: {evidence.hash_of(folder)}")
