"""Frames a second of each tracker in the closed loop, beside the tiny one's in the same run.

    python benchmarks/trackers.py [--frames 30] [--videos 4]

Random frames of 360×480 pixels, one object each; networks have random weights, which changes nothing in the work. One
thread; videos go through their frames together. `ratio` is of the frames a second against those of the first line.
"""

from __future__ import annotations

import argparse
import time

import torch

from sidedoor import registry
from sidedoor.algorithms.tracking import track
from sidedoor.models.trackers import dcfnet, siamfc
from sidedoor.models.trackers.base import tracker_in

TRACKERS = {"siamfc, tiny": ({"name": "siamfc"}, siamfc.TINY), "dcfnet": ({"name": "dcfnet"}, dcfnet.GEOMETRY),
            "siamfc, published": ({"name": "siamfc", "size": "published"}, siamfc.PUBLISHED)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--videos", type=int, default=4)
    given = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    video = torch.rand(given.frames, given.videos, 3, 360, 480)
    boxes = torch.tensor([[200.0, 150.0, 260.0, 210.0]]).repeat(given.videos, 1)
    first = None
    for name, (reference, geometry) in TRACKERS.items():
        model = tracker_in(registry.make("model", reference)((3, geometry.search, geometry.search)).eval())
        track(model, video[:3], boxes)  # what is prepared once is prepared here
        start = time.perf_counter()
        track(model, video, boxes)
        rate = given.videos * (given.frames - 1) / (time.perf_counter() - start)
        first = first or rate
        print(f"{name:20} {rate:7.1f} frames/s   ratio {rate / first:5.2f}")


if __name__ == "__main__":
    main()
