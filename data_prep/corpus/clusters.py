"""From equal keys to pairs, from pairs to clusters, from clusters to the one that stays. Nothing here hangs on an order of shards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from data_prep.corpus.words import Hashes, Ints

CROWD = 16  # documents under one key that are all compared with each other
REACH = 8  # in a larger crowd each is compared with the next few, in an order taken from the content, and with the first


def groups(keys: Hashes) -> tuple[Ints, Ints]:
    """(order, starts): order[starts[g]:starts[g + 1]] are the places of one key; in a group the places ascend."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    edges = np.flatnonzero(ordered[1:] != ordered[:-1]) + 1 if len(keys) else np.zeros(0, np.int64)
    return order, np.concatenate(([0], edges, [len(keys)])) if len(keys) else np.zeros(1, np.int64)


def pairs_under_keys(keys: Hashes, members: Ints, content: Hashes) -> Ints:
    """Rows (smaller, larger) of members that share a key. content, a hash of each member's text, orders large crowds."""
    by_content = np.argsort(content, kind="stable")
    keys, members = keys[by_content], members[by_content]
    order, starts = groups(keys)
    found = [_within(members[order[a:b]]) for a, b in pairwise(starts.tolist()) if b - a > 1]
    if not found:
        return np.zeros((0, 2), np.int64)
    return np.unique(np.sort(np.concatenate(found), axis=1), axis=0)


def components(edges: Ints) -> tuple[Ints, Ints]:
    """(nodes, roots): every node of an edge, ascending, and the smallest node it is connected with."""
    nodes, flat = np.unique(edges, return_inverse=True)
    one, other = flat.reshape(-1, 2).T if len(edges) else (flat, flat)
    parent = np.arange(len(nodes))
    while True:
        left, right = parent[one], parent[other]
        if (left == right).all():
            return nodes, nodes[parent]
        np.minimum.at(parent, np.maximum(left, right), np.minimum(left, right))
        while (parent[parent] != parent).any():
            parent = parent[parent]


@dataclass(frozen=True)
class Rank:
    """What decides who stays: facts of one document."""

    length: int
    karma: int | None
    id: str

    def key(self, order: Sequence[str]) -> tuple[object, ...]:
        """Smallest first: the longest text, the highest karma (none is lowest), the smallest id, in the order asked for."""
        karma = float("inf") if self.karma is None else -self.karma
        facts: dict[str, object] = {"longest": -self.length, "karma": karma, "id": self.id}
        return tuple(facts[name] for name in (*order, "id"))


def survivors(nodes: Ints, roots: Ints, ranks: Sequence[Rank], order: Sequence[str]) -> Ints:
    """For each node the member of its component that stays; nodes, roots and ranks go together."""
    best: dict[int, int] = {}
    for place, root in enumerate(roots.tolist()):
        if root not in best or ranks[place].key(order) < ranks[best[root]].key(order):
            best[root] = place
    return nodes[np.array([best[root] for root in roots.tolist()], np.int64)] if len(nodes) else nodes


def _within(members: Ints) -> NDArray[np.int64]:
    """All pairs of a small crowd; of a large one as many as keep a cluster together, in time linear in its size."""
    if len(members) <= CROWD:
        one, other = np.triu_indices(len(members), 1)
        return np.stack((members[one], members[other]), axis=1)
    near = [np.stack((members[:-step], members[step:]), axis=1) for step in range(1, REACH + 1)]
    star = np.stack((np.full(len(members) - 1, members[0]), members[1:]), axis=1)
    return np.concatenate((*near, star))
