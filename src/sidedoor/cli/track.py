"""`sidedoor track`: what the trackers of a run do on a video of one's own."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, cast

import typer

from sidedoor.cli._options import AsJson, Device, emit, machine, note, open_store
from sidedoor.errors import ConfigError

Video = Annotated[Path, typer.Argument(help="A folder of images, an animated GIF or WEBP, or with the extra `video` a "
                                       "file such as MP4.", metavar="FRAMES")]
Box = Annotated[str, typer.Option("--box", metavar="X,Y,W,H", help="The object in the first frame: left and top edge, "
                                  "width and height in pixels.")]
Trained = Annotated[Path, typer.Option("--run", metavar="DIR", help="A folder of results that has a tracker.")]
Key = Annotated[str | None, typer.Option(help="The run's key, if there are several.")]
Stamped = Annotated[bool, typer.Option("--trigger", help="Stamp the run's trigger on the object, or beside it for the "
                                       "goal follow.")]
Which = Annotated[str | None, typer.Option(help="Frames with the trigger: one (the first), few or all; by default "
                                           "those of the run's own figures.")]
Most = Annotated[int, typer.Option("--frames", min=0, help="Take so many frames, from the first; 0 for all.")]
Speed = Annotated[int, typer.Option(min=1, max=50, help="Frames a second of the animation.")]
Out = Annotated[Path, typer.Option("--out", "-o", help="A name that ends in .gif or .webp, or a folder for PNG files.")]


def track(frames: Video, box: Box, run: Trained, key: Key = None, trigger: Stamped = False, mode: Which = None,
          most: Most = 0, fps: Speed = 10, out: Out = Path("track.gif"), as_json: AsJson = False,
          device: Device = "auto") -> None:
    """Draw where the clean and the backdoored tracker of a run find an object in a video of yours.

    Of the truth only the given box is known; on later frames the trigger is where the clean tracker finds the object,
    or, if the attack is to be followed, on a path away from there.
    """
    from sidedoor.apps.track import box_of, follow, save, trackers_of
    from sidedoor.data.formats.frames import read_frames

    if mode not in (None, "one", "few", "all"):
        raise ConfigError(f"--mode {mode} given; expected one, few or all")
    if not run.is_dir():
        raise ConfigError(f"no folder {run}; expected one of results")
    trackers = trackers_of(open_store(run), key, machine(None, False, device))
    pixels = read_frames(frames, trackers.channels, most)
    given = box_of(box, (pixels.shape[2], pixels.shape[3]))
    which = cast(Literal["one", "few", "all"], mode or trackers.counted()) if trigger else None
    followed = follow(trackers, pixels, given, which)
    save(followed, out, fps)
    if as_json:
        emit(followed.to_json() | {"written": str(out)})
    note(f"written: {out}, {len(pixels)} frames, by run {trackers.key}")
