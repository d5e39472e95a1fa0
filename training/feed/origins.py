"""Which source each example is of: the file that its document came from, grouped by the patterns of a mixture."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow.compute as pc

from infra.errors import ArtifactError, ConfigError
from training.feed.mixture import Mixing, Mixture, Runs
from training.feed.views import I64, Shards

SHOWN = 8  # names of files in a message


def column(shards: Shards, number: int) -> I64:
    """Of every block in a shard, the row of its first token's document."""
    rows: I64 = shards.table(number)["document"].to_numpy().astype(np.int64)
    return rows


def mix(mixing: Mixing, examples: Shards, documents: Shards, owners: Callable[[int], I64], seed: int) -> Mixture:
    """The mixture's order over these examples; owners gives the documents of a shard's examples.

    Raises ConfigError when a pattern fits no file. Only the examples' documents are read, not their tokens.
    """
    names = sorted(mixing.weights)
    runs: dict[str, list[tuple[int, int]]] = {name: [] for name in names}
    seen: set[str] = set()
    for number, shard in enumerate(examples.names):
        codes, known = _codes(documents, documents.names.index(shard), mixing, names)
        seen |= known
        of = codes[owners(number)]
        edges = np.concatenate([[0], np.flatnonzero(np.diff(of)) + 1, [len(of)]]) if len(of) else np.zeros(1, np.int64)
        for first, last in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            if of[first] >= 0:
                runs[names[of[first]]].append((int(examples.starts[number]) + first, last - first))
    if empty := [name for name in names if not runs[name]]:
        there = ", ".join(sorted(seen)[:SHOWN]) + (" ..." if len(seen) > SHOWN else "")
        raise ConfigError(f"pretrain.mixture: no example comes from {', '.join(empty)}; the documents come from {there}")
    return Mixture([Runs.of(runs[name]) for name in names], [mixing.weights[name] for name in names], mixing.exhausted, seed)


def _codes(documents: Shards, number: int, mixing: Mixing, names: list[str]) -> tuple[I64, set[str]]:
    """Of every document in a shard, the number of its source (-1: none), and the files there are."""
    table = documents.table(number)
    if "source" not in table.column_names:
        raise ArtifactError(f"{documents.paths[number]}: does not say where its documents come from; run encode again")
    coded = pc.fill_null(table["source"], "").combine_chunks().dictionary_encode()
    known = coded.dictionary.to_pylist()
    chosen = [mixing.name_of(origin) for origin in known]
    code = np.array([names.index(name) if name is not None else -1 for name in chosen] or [-1], np.int64)
    return code[coded.indices.to_numpy()], set(known)
