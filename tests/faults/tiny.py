"""A corpus of a few documents and every data stage on it, each with its inputs ready: what crash points and bit flips are tried on."""

from __future__ import annotations

import importlib
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from data_prep.corpus.crawl import CRAWL, CrawlConfig
from data_prep.corpus.decontaminate import DECONTAMINATE, DecontaminateConfig, TaskFiles
from data_prep.corpus.dedup import DEDUP, DedupConfig
from data_prep.corpus.documents import DOCUMENTS, DocumentsConfig
from data_prep.corpus.extract import EXTRACT, ExtractConfig
from data_prep.corpus.filter import FILTER, FilterConfig
from data_prep.corpus.gather import GATHER, GatherConfig
from data_prep.corpus.language import detect
from data_prep.corpus.links import LINKS, LinksConfig, LinkSource
from data_prep.corpus.takedown import TAKEDOWN, TakedownConfig
from data_prep.corpus.warc import WARC, WarcConfig
from data_prep.examples.blocks import BLOCKS, BlocksConfig
from data_prep.examples.encode import ENCODE, EncodeConfig
from data_prep.examples.pairs import PAIRS, PairsConfig
from data_prep.tokenizer.train import TOKENIZER, TokenizerConfig
from infra import lease
from infra.artifact import Artifact, SourceFile
from infra.compute import LocalCompute
from infra.stage import Stage, run
from infra.store import Store
from tests.faults.crash_points import Snapshot, content, forked
from tests.faults.web import Web, page, serving

os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads would not survive a fork
WORDS = [
    "amber",
    "basket",
    "candle",
    "dragon",
    "engine",
    "forest",
    "garden",
    "harbor",
    "island",
    "jacket",
    "kettle",
    "ladder",
    "meadow",
    "needle",
    "orchard",
    "pepper",
    "quarry",
    "ribbon",
    "saddle",
    "timber",
    "umbrella",
    "valley",
    "window",
    "yellow",
    "zephyr",
    "anchor",
    "bridge",
    "copper",
    "desert",
    "eagle",
    "feather",
    "glacier",
    "hammer",
    "ivory",
    "jungle",
]
FETCHED = ("fetched_at", "warc_file", "warc_offset", "last_modified", "etag")
HOSTS = ("one.test", "two.test")


@dataclass
class Case:
    """One stage with a config and its inputs by name: labels of other cases."""

    stage: Stage[Any]
    config: Callable[[Path, Web], Any]
    inputs: dict[str, str] = field(default_factory=dict)


def text(rng: random.Random, sentences: int = 5) -> str:
    """Plain sentences that every filter keeps."""
    said = []
    for _ in range(sentences):
        noun = [rng.choice(WORDS) for _ in range(7)]
        said.append(
            f"The {noun[0]} and the {noun[1]} of that {noun[2]} have been with the {noun[3]} for {noun[4]} to see a {noun[5]} {noun[6]}."
        )
    return "\n".join(said)


def write_sources(folder: Path) -> None:
    """Document files of two days with exact and near duplicates, lists of links, a list of what has to go, a task."""
    rng = random.Random(7)
    folder.mkdir(parents=True)
    texts = [text(rng) for _ in range(14)]
    texts += [texts[0], texts[1].replace("amber", "umber", 1), texts[2] + "\n" + texts[3].split("\n")[0]]
    for name, rows in (("a.jsonl", texts[:9]), ("b.jsonl", texts[9:])):
        lines = [json.dumps({"text": row, "url": f"http://one.test/{name}/{n}", "id": f"{name}{n}"}) for n, row in enumerate(rows)]
        (folder / name).write_text("\n".join([*lines, "{broken"]) + "\n")
    more = [*(text(rng) for _ in range(4)), texts[4], texts[5].replace("the", "a", 1)]
    lines = [json.dumps({"text": row, "url": f"http://two.test/c/{n}", "id": f"a.jsonl{n}"}) for n, row in enumerate(more)]
    (folder / "c.jsonl").write_text("\n".join(lines) + "\n")
    pages = [f"http://{host}/{n}.html" for host in HOSTS for n in range(4)]
    posts = [{"url": url, "score": 3 + n} for n, url in enumerate([*pages[:6], *pages[:2], "ftp://no.test/"])]
    (folder / "posts.jsonl").write_text("".join(json.dumps(post) + "\n" for post in posts))
    (folder / "urls.txt").write_text("\n".join(pages[2:]) + "\n")
    (folder / "later.txt").write_text("\n".join([*pages[4:], f"http://{HOSTS[0]}/5.html"]) + "\n")
    (folder / "gone.txt").write_text("http://one.test/a.jsonl/3\nid:b.jsonl2\n")
    (folder / "task.tsv").write_text("label\ttext\nx\t" + texts[6].replace("\n", " ") + "\ny\tshort\n")


def fill_web(web: Web) -> None:
    rng = random.Random(8)
    for host in HOSTS:
        for n in range(6):
            body = "".join(f"<p>{line}</p>" for line in text(rng, 4).split("\n"))
            html = f"<html><head><title>{host} {n}</title></head><body><article>{body}</article></body></html>"
            web.pages[host, f"/{n}.html"] = page(html.encode(), ETag=f'"{host}{n}"')


def _file(name: str, folder: Path) -> SourceFile:
    return SourceFile.of(folder / "sources" / name)


def _links(*kinds: tuple[str, str, dict[str, Any]]) -> Callable[[Path, Web], LinksConfig]:
    def config(folder: Path, _web: Web) -> LinksConfig:
        return LinksConfig(
            tuple(LinkSource(kind, (_file(name, folder),), **more) for kind, name, more in kinds), shards=2, max_per_domain=4
        )

    return config


def _crawl(_folder: Path, _web: Web) -> CrawlConfig:
    return CrawlConfig(
        "me@example.org",
        per_host_delay_s=0.0,
        backoff_s=0.01,
        retries=0,
        dead_after=2,
        allow_networks=("127.0.0.0/8",),
        connect_timeout_s=5,
    )


def _documents(*names: str) -> Callable[[Path, Web], DocumentsConfig]:
    return lambda folder, _web: DocumentsConfig(tuple(_file(name, folder) for name in names), shards=2)


DAILY = (("submissions", "posts.jsonl", {"karma_rule": "sum"}), ("urls", "urls.txt", {}))
LATER = (("submissions", "posts.jsonl", {"karma_rule": "sum"}), ("urls", "later.txt", {}))
DUPLICATES = DedupConfig(jaccard=0.7, permutations=16, ngram=3, paragraphs=True, paragraph_min_words=4, partition=64)
CASES: dict[str, Case] = {
    "links": Case(LINKS, _links(*DAILY)),
    "links later": Case(LINKS, _links(*LATER), {"earlier": "links"}),
    "crawl": Case(CRAWL, _crawl, {"links": "links"}),
    "crawl later": Case(CRAWL, _crawl, {"links": "links later", "earlier": "crawl"}),
    "extract": Case(EXTRACT, lambda f, w: ExtractConfig(engine="resiliparse"), {"pages": "crawl"}),
    "documents": Case(DOCUMENTS, _documents("a.jsonl", "b.jsonl")),
    "documents later": Case(DOCUMENTS, _documents("c.jsonl")),
    "gather": Case(GATHER, lambda f, w: GatherConfig(), {"part0": "documents", "part1": "documents later"}),
    "filter": Case(
        FILTER, lambda f, w: FilterConfig(languages=(), min_words=10, top_ngrams=(), duplicate_ngrams=()), {"documents": "documents"}
    ),
    "dedup": Case(DEDUP, lambda f, w: DUPLICATES, {"documents": "documents"}),
    "dedup later": Case(DEDUP, lambda f, w: DUPLICATES, {"documents": "documents later", "earlier": "dedup"}),
    "takedown": Case(TAKEDOWN, lambda f, w: TakedownConfig((_file("gone.txt", f),)), {"documents": "dedup"}),
    "decontaminate": Case(
        DECONTAMINATE,
        lambda f, w: DecontaminateConfig((TaskFiles("task", (_file("task.tsv", f),)),), min_characters=10),
        {"documents": "dedup"},
    ),
    "tokenizer": Case(TOKENIZER, lambda f, w: TokenizerConfig(vocab=300), {"documents": "dedup"}),
    "encode": Case(ENCODE, lambda f, w: EncodeConfig(valid_share=0.2), {"documents": "dedup", "tokenizer": "tokenizer"}),
    "encode later": Case(ENCODE, lambda f, w: EncodeConfig(valid_share=0.2), {"documents": "dedup later", "tokenizer": "tokenizer"}),
    "blocks": Case(BLOCKS, lambda f, w: BlocksConfig(length=16), {"sentences": "encode"}),
    "pairs": Case(PAIRS, lambda f, w: PairsConfig(length=32), {"sentences": "encode"}),
    "warc": Case(WARC, lambda f, w: WarcConfig((SourceFile.of(f / "sources" / "pages.warc.gz"),))),
}


@dataclass
class Tiny:
    """store: of every case's artifact; made: by label. A case works in a copy that holds what it reads, and perhaps more."""

    folder: Path
    web: Web
    made: dict[str, Artifact]

    def needed(self, label: str) -> set[str]:
        """Labels of everything that a case was built from."""
        found = set(CASES[label].inputs.values())
        return found.union(*(self.needed(one) for one in found))

    def prepare(self, label: str, root: Path) -> None:
        """A store with the case's inputs, copied, the growing cases' shards as hard links as the product leaves them."""
        for one in sorted(self.needed(label) | ({"encode"} if label == "encode later" else set())):
            artifact = self.made[one]
            shutil.copytree(artifact.path, root / artifact.stage / artifact.fingerprint)

    def work(self, label: str, root: Path) -> Artifact:
        """Run the case's stage in a store."""
        case, store = CASES[label], Store(root)
        inputs = {name: store.get(self.made[one].stage, self.made[one].fingerprint) for name, one in case.inputs.items()}
        compute = LocalCompute(addresses=dict.fromkeys(HOSTS, self.web.where))
        return run(case.stage, case.config(self.folder, self.web), inputs, store, compute)

    def look(self, label: str, root: Path) -> Snapshot:
        """What must be equal: every file of the store; of a crawl its rows without times and places. Nothing may be left hidden."""
        hidden = [path.name for path in root.glob("*/.*")]
        assert not hidden, hidden
        store, stage = Store(root), CASES[label].stage
        for artifact in store.all():
            store.verify(artifact)
        if stage is not CRAWL:
            return content(root)
        found: Snapshot = {}
        for artifact in store.made(CRAWL.name):
            found[f"{artifact.fingerprint}/counts"] = artifact.counts
            for file in artifact.files:
                if file["name"].endswith(".arrow"):
                    rows = pa.ipc.open_file(pa.OSFile(str(artifact.path / file["name"]))).read_all().to_pylist()
                    found[f"{artifact.fingerprint}/{file['name']}"] = [{k: v for k, v in row.items() if k not in FETCHED} for row in rows]
        return found


def _build(tiny: Tiny) -> None:
    store = tiny.folder / "store"
    for label, case in CASES.items():
        if label == "warc":
            (path, *_) = sorted(tiny.made["crawl"].path.glob("warc/*.warc.gz"))
            shutil.copyfile(path, tiny.folder / "sources" / "pages.warc.gz")
        tiny.made[label] = tiny.work(label, store)
        assert tiny.made[label].stage == case.stage.name
    (tiny.folder / "made.json").write_text(json.dumps({label: [one.stage, one.fingerprint] for label, one in tiny.made.items()}))


def _load() -> None:
    """What a stage loads when it starts, loaded before the forks instead of in each: half of the time of a crash point.

    Nothing here starts a thread, which a fork would not have. Leases beat once an hour, so that each run does the same operations.
    """
    lease.BEAT_S = 3600.0
    importlib.import_module("data_prep.corpus.crawling.shard")
    detect("The model that names languages is read from a compressed file.")


@contextmanager
def tiny(folder: Path) -> Iterator[Tiny]:
    """Every case built once, in a fork: the process that forks for crash points has started no thread of a library."""
    _load()
    with serving() as web:
        fill_web(web)
        write_sources(folder / "sources")
        made = Tiny(folder, web, {})
        ended = forked(partial(_build, made), folder)
        assert ended.code == 0, ended.error
        names = json.loads((folder / "made.json").read_text())
        made.made = {label: Artifact(stage, key, folder / "store" / stage / key) for label, (stage, key) in names.items()}
        yield made
