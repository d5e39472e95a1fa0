"""From equal keys to pairs, and from pairs to clusters. Nothing here hangs on an order of shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from data_prep.corpus.words import Ints

CROWD = 16  # documents under one key that are all compared with each other
REACH = 8  # in a larger crowd each is compared with the next few, in an order taken from the content, and with the first
NONE = np.zeros((0, 2), np.int64)


def pairs_in_groups(members: Ints, starts: Ints) -> Ints:
    """Rows of two members of one group, each pair once; members[starts[g]:starts[g + 1]] are a group, in the order of their content.

    All pairs of a small group; of a large one as many as keep a cluster together, in time linear in its size.
    """
    sizes = np.diff(starts)
    found = [NONE]
    for size in range(2, CROWD + 1):
        firsts = starts[:-1][sizes == size]
        if len(firsts):
            group = members[firsts[:, None] + np.arange(size)]
            one, other = np.triu_indices(size, 1)
            found.append(np.stack((group[:, one].ravel(), group[:, other].ravel()), axis=1))
    for number in np.flatnonzero(sizes > CROWD).tolist():
        found.append(_crowd(members[starts[number] : starts[number + 1]]))
    return np.concatenate(found)


def _crowd(members: Ints) -> Ints:
    star = np.stack((np.full(len(members) - 1, members[0]), members[1:]), axis=1)
    rest = members[1:]
    return np.concatenate((star, *(np.stack((rest[:-step], rest[step:]), axis=1) for step in range(1, REACH + 1))))


class Forest:
    """Which of `size` nodes are connected, in a file: 4 bytes a node (8 for very many), only those of nodes that ever had an edge.

    The file holds how far above its parent a node is: a node without an edge is 0, a hole that costs no disk. A parent has the
    smaller number, so the root of a cluster is its smallest node, whatever the order of the edges.
    """

    def __init__(self, path: Path, size: int, mode: Literal["r", "w+"] = "r") -> None:
        """mode "w+" starts a new forest."""
        kind: np.dtype[Any] = np.dtype(np.int32 if size < 1 << 31 else np.int64)
        self.up: NDArray[Any] = np.memmap(path, kind, mode, shape=(size,)) if size else np.zeros(0, kind)

    def roots(self, nodes: Ints) -> Ints:
        """The smallest node each is connected with."""
        at = nodes.astype(np.int64)
        moving = np.arange(len(at))
        while len(moving):
            steps = self.up[at[moving]]
            moving, steps = moving[steps > 0], steps[steps > 0]
            at[moving] -= steps
        return at

    def join(self, edges: Ints) -> None:
        """Connect the two nodes of every row."""
        nodes, flat = np.unique(edges, return_inverse=True)
        flat = flat.reshape(-1, 2)
        while len(nodes):
            roots = self.roots(nodes)
            self.up[nodes] = nodes - roots  # the next look is shorter
            pairs = np.sort(roots[flat], axis=1)
            differ = pairs[:, 0] < pairs[:, 1]
            if not differ.any():
                return
            pairs, flat = pairs[differ], flat[differ]
            pairs = pairs[np.lexsort((pairs[:, 0], pairs[:, 1]))]
            first = np.flatnonzero(np.concatenate(([True], pairs[1:, 1] != pairs[:-1, 1])))
            low, high = pairs[first].T
            self.up[high] = high - low
            self._shorten(high, low)

    def close(self) -> None:
        """Bring all to the disk."""
        if isinstance(self.up, np.memmap):
            self.up.flush()

    def _shorten(self, nodes: Ints, parents: Ints) -> None:
        """Doubling: a chain of n hooks, as one batch can make, takes log n looks."""
        while True:
            steps = self.up[parents]
            if not steps.any():
                return
            parents = parents - steps
            self.up[nodes] = nodes - parents
