"""A sample of crash points and bit flips, in a process of its own that forks: `python -m tests.faults.crash_sample FOLDER`."""

from __future__ import annotations

import json
import random
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path

from tests.faults.bit_flips import Flips, flip_inputs, flip_scratch
from tests.faults.crash_points import every_point
from tests.faults.tiny import CASES, tiny

SLOW = ("crawl", "crawl later", "extract", "filter")  # a second or more each


def main(folder: Path) -> None:
    """Print what was tried as JSON."""
    points, flips, scratch = {}, Flips(), Flips()
    with tiny(folder / "tiny") as corpus:
        for label in CASES:
            rng = random.Random(label)
            number = 1 if label in SLOW else 2
            points[label] = asdict(
                every_point(
                    folder / label.replace(" ", "-"),
                    partial(corpus.prepare, label),
                    partial(corpus.work, label),
                    partial(corpus.look, label),
                    chosen=lambda points, rng=rng, number=number: sorted(rng.sample(range(points), number)),
                )
            )
        for label in ("dedup", "takedown", "encode", "blocks"):
            flips += flip_inputs(corpus, label, folder / "flips" / label, sample=4)
        for label in ("links", "crawl", "dedup", "tokenizer"):
            scratch += flip_scratch(corpus, label, folder / "scratch" / label, sample=2)
    print(json.dumps({"points": points, "flips": asdict(flips), "scratch": asdict(scratch)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
