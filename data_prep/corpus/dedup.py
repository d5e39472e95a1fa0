"""Documents in, one of every group of equal or nearly equal ones out; and again when more documents come.

Exact: the same words in lower case. Near: the Jaccard similarity of the sets of word n-grams reaches a threshold; MinHash
bands propose pairs, the true similarity decides. Groups are connected components: A and C may go together through B.

The stage is a row of maps, each leaving whole files under .work/ or in the artifact, so that a killed run does only what is missing:
signatures of a shard -> equal documents -> newer versions -> pairs of a band -> similarities of a chunk -> clusters -> survivors ->
similarity to the survivor -> repeated paragraphs -> shards. No step holds more than a shard, a partition or a block in memory.

With an earlier artifact the documents are new ones, and the output is that artifact grown: what stays is what one run on all
documents would leave, of every id the newest version (deduping/life.py).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from data_prep.corpus.deduping import contents, edges, fates, life, pairs, paragraphs, signing, writing
from data_prep.corpus.deduping.config import SURVIVOR_RULES, DedupConfig
from data_prep.corpus.deduping.corpus import Corpus, counted, opened
from infra.artifact import Counts
from infra.compute import Compute
from infra.reuse import link
from infra.stage import Inputs, Stage

VERSION = 2
__all__ = ["DEDUP", "SURVIVOR_RULES", "DedupConfig", "work"]


def work(config: DedupConfig, inputs: Inputs, out: Path, compute: Compute) -> Counts:
    """Drop duplicates within and across shards; see the top of this file for the steps.

    inputs: documents, and perhaps earlier, an artifact of this stage. Counts: read is all documents there ever were, new those of
    this run. Raises ConfigError when the earlier artifact was made under another config.
    """
    corpus = opened(config, inputs, out, VERSION)
    compute.map("dedup signatures", partial(signing.sign, corpus), range(corpus.old, len(corpus.names)))
    corpus = counted(corpus)
    contents.number(corpus, compute)
    life.settle(corpus, compute)
    resolve(corpus, compute, edges.similarities)
    if config.paragraphs:
        paragraphs.find(corpus, compute)
    return writing.write(corpus, compute)


def resolve(corpus: Corpus, compute: Compute, compare: edges.Compare) -> None:
    """From signatures to the fate of every document; compare gives the similarity of pairs of places."""
    known = None
    if corpus.config.near:
        pairs.propose(corpus, compute)
        proposed = sorted(pairs.folder_of(corpus).glob("*/*.arrow"))
        before = corpus.earlier / "edges" if corpus.earlier else None
        known = edges.know(corpus, "near", before, proposed, compute, compare)
    edges.connected(corpus, known)
    fates.choose(corpus, compute)
    if known is not None:
        known = edges.know(corpus, "likeness", known, fates.asked(corpus), compute, compare)
        for path in sorted(known.glob("*.arrow")):
            if not (corpus.out / "edges" / path.name).exists():
                link(path, corpus.out / "edges" / path.name)
    fates.decide(corpus, known, compute)


DEDUP = Stage(name="dedup", version=VERSION, work=work)
