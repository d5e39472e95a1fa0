"""The demo's own web: the documentation of installed Python packages as a website, a link list with karma, and a task.

Needs no network and no download. Pages are rendered by child processes (site_render.py), served on loopback by site_server.py.
The link list looks like a Reddit submission dump (CSV), but holds no Reddit data: a link's score is the number of pages of this web that
link to it, which illustrates the rule of WebText (Radford et al. 2019, section 2.1: outbound links with at least 3 karma). A few items that
every real dump has are added: a broken line, a score that is no number, self posts, dead hosts, missing pages, redirects, a forbidden page.
The task is a real sentence classification: which package wrote this first sentence of a docstring, the packages' names masked.
"""

from __future__ import annotations

import csv
import gzip
import html
import importlib.metadata
import importlib.util
import io
import json
import os
import platform
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import xxhash

from data_prep import shards
from infra.artifact import Counts
from infra.compute import Compute
from infra.errors import ConfigError, PipelineError
from infra.stage import Inputs, Stage
from pipelines.site_render import PAGE, STDLIB, host_of, page_row

PACKAGES = (STDLIB, "numpy", "torch", "pyarrow", "matplotlib", "sqlalchemy")  # all come with textmill
LIMIT_S = 300  # for one package in its child process; about ten seconds are usual
EPOCH = 1_230_768_000  # 2009-01-01, the made-up time of the first submission: an output must not depend on a clock
HEADER = (
    "created_utc",
    "score",
    "domain",
    "id",
    "title",
    "ups",
    "downs",
    "num_comments",
    "permalink",
    "selftext",
    "over_18",
    "is_self",
    "url",
)
NICKNAMES = (
    "cpython",
    "python2",
    "python3",
    "np",
    "pytorch",
    "apache arrow",
    "arrow",
    "pa",
    "pc",
    "pq",
    "mpl",
    "plt",
    "pyplot",
    "sa",
    "stdlib",
)
MASK = "___"
ROBOTS = "User-agent: *\nDisallow: /private/\n"
Row = dict[str, Any]


@dataclass(frozen=True)
class SiteConfig:
    """What the web is made of; another version of Python or of a package makes another web."""

    packages: tuple[str, ...] = PACKAGES
    versions: tuple[tuple[str, str], ...] = ()
    own_page: int = 400  # characters of documentation that earn a class or function a page of its own
    longest: int = 1500  # a method with more gets its own page too
    max_pages: int = 3000  # of one package
    task_rows: int = 5000  # at most, train and dev together, balanced over the labels
    dev_share: float = 0.2

    @classmethod
    def of(cls, packages: Iterable[str] = PACKAGES, **settings: Any) -> SiteConfig:
        """The config for what is installed here. Raises ConfigError naming a package that is not."""
        names = tuple(packages)
        return cls(packages=names, versions=tuple((name, _version(name)) for name in names), **settings)


def _version(package: str) -> str:
    top = package.partition(".")[0]
    if package == STDLIB or top in sys.stdlib_module_names:
        return platform.python_version()
    if importlib.util.find_spec(top) is None:
        raise ConfigError(f"the site's package {package!r} is not installed; pip install {top}, or take it out of the list")
    try:
        return importlib.metadata.version(top)
    except importlib.metadata.PackageNotFoundError:
        return importlib.metadata.version(importlib.metadata.packages_distributions()[top][0])


def render_package(config: SiteConfig, out: Path, numbered: tuple[int, str]) -> None:
    """Render one package in a child that can be killed; its shard appears whole or not at all."""
    number, package = numbered
    name = shards.name(number)
    if (out / name).exists():
        return
    job = {
        "package": package,
        "out": str(out),
        "name": name,
        "own_page": config.own_page,
        "longest": config.longest,
        "most": config.max_pages,
    }
    environment = {**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "COLUMNS": "80"}
    child = subprocess.Popen(
        [sys.executable, "-m", "pipelines.site_render", json.dumps(job)],
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        _, told = child.communicate(timeout=LIMIT_S)
    except BaseException as error:
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            raise PipelineError(f"rendering {package} took more than {LIMIT_S} s; take it out of the site's packages") from error
        raise
    if child.returncode:
        last = told.decode(errors="replace").strip().splitlines()[-1:] or [f"exit status {child.returncode}"]
        raise PipelineError(f"rendering {package} failed: {last[0]}; take it out of the site's packages")


def work(config: SiteConfig, inputs: Inputs, out: Path, compute: Compute) -> Counts:
    """Render every package, then make the link list and the task from what was rendered."""
    compute.map("site", partial(render_package, config, out), list(enumerate(config.packages)))
    parts = [out / shards.name(number) for number in range(len(config.packages))]
    _write_fronts(config, parts, out / shards.name(len(parts)))
    tables = [shards.read(path) for path in [*parts, out / shards.name(len(parts))]]
    karma, titles = link_karma(tables)
    extras, redirects = hostile(sorted(titles))
    _write_whole(out / "site.json", json.dumps({"robots": ROBOTS, "redirects": redirects}, indent=1).encode())
    rows = submissions(karma, titles) + extras
    _write_whole(out / "submissions.csv.gz", dump(rows))
    told = {host_of(p).removesuffix(".test"): [] for p in config.packages}  # type: dict[str, list[str]]
    for number, package in enumerate(config.packages):
        told[host_of(package).removesuffix(".test")] += shards.read(out / "sentences" / shards.name(number))["text"].to_pylist()
    train, dev = task(told, config.task_rows, config.dev_share)
    _write_whole(out / "task" / "train.tsv", _tsv(train))
    _write_whole(out / "task" / "dev.tsv", _tsv(dev))
    rendered = shards.total(shards.counts(path) for path in parts)
    known = [karma.get(url, 0) for url in titles]
    return {
        **rendered,
        "pages": len(titles),
        "linked": len(karma),
        "karma_3": sum(k >= 3 for k in known),
        "submissions": len(rows) + 1,
        "hostile": len(extras) + 1,
        "train": len(train),
        "dev": len(dev),
    }


def _write_fronts(config: SiteConfig, parts: list[Path], path: Path) -> None:
    """The front page of each host, and the one page that robots.txt forbids."""
    if path.exists():
        return
    rows = []
    for host in sorted({host_of(package) for package in config.packages}):
        pages = [page for part in parts for page in shards.read(part).select(["host", "path", "title"]).to_pylist() if page["host"] == host]
        tops = [page for page in pages if _is_top(page["path"], config.packages)]
        items = "".join(f'<li><a href="{html.escape(page["path"])}">{html.escape(page["title"])}</a></li>' for page in tops)
        rows.append(page_row(host, "/", f"Documentation on {host}", [f"<h1>All packages on {host}</h1><ul>{items}</ul>"]))
        forbidden = "<p>A crawler that reads robots.txt never sees this sentence.</p>"
        rows.append(page_row(host, "/private/notes.html", "Private notes", [forbidden]))
    shards.write(pa.Table.from_pylist(rows, schema=PAGE), path)


def _is_top(path: str, packages: tuple[str, ...]) -> bool:
    return path.startswith("/index-") or path.count(".") == 1 or path.removeprefix("/").removesuffix(".html") in packages


def link_karma(tables: list[pa.Table]) -> tuple[dict[str, int], dict[str, str]]:
    """How many other pages link to each address, and the titles of the pages there are."""
    karma: Counter[str] = Counter()
    titles: dict[str, str] = {}
    for table in tables:
        for host, path, title, links in zip(*(table[name].to_pylist() for name in ("host", "path", "title", "links")), strict=True):
            address = f"http://{host}{path}"
            titles[address] = title
            karma.update(link for link in set(links) if link != address)
    return dict(sorted(karma.items())), titles


def submissions(karma: dict[str, int], titles: dict[str, str]) -> list[Row]:
    """A row for every linked address."""
    return [_row(url, score, titles.get(url, url)) for url, score in karma.items()]


def _row(url: str, score: int | str, title: str, *, selftext: str = "") -> Row:
    key = _key(url + selftext)[:8]
    domain = "self.python" if selftext else url.partition("://")[2].partition("/")[0]
    return {
        "score": score,
        "domain": domain,
        "id": key,
        "title": title,
        "ups": score,
        "downs": 0,
        "num_comments": 0,
        "permalink": f"http://forum.test/r/documentation/comments/{key}/",
        "selftext": selftext,
        "over_18": False,
        "is_self": bool(selftext),
        "url": url,
    }


def hostile(urls: list[str]) -> tuple[list[Row], dict[str, str]]:
    """What real dumps hold besides good links, small and always the same; and the redirects that the server answers."""
    hosts = sorted({url.split("/")[2] for url in urls})
    pages = [url for url in urls if url.endswith(".html") and "/private/" not in url][: 4 * 50 : 50]
    redirects = {page.replace(".html", "").replace(".test/", ".test/latest/", 1): "/" + page.split("/", 3)[3] for page in pages}
    redirects |= {f"http://{hosts[0]}/loop/a": "/loop/b", f"http://{hosts[0]}/loop/b": "/loop/a"}
    rows = [_row(url, 4, "Moved since") for url in sorted(redirects) if not url.endswith("/b")]
    rows += [_row(f"http://{host}/private/notes.html", 5, "Not for robots") for host in hosts]
    rows += [_row(f"http://{hosts[0]}/removed/{n}.html", 6 + n, "A page that is gone") for n in range(3)]
    rows += [_row(f"http://gone.test/{n}.html", 8 + n, "A host that is gone") for n in range(2)]
    rows += [_row(f"http://forum.test/r/python/{n}", 20 + n, "Ask: how do I?", selftext=f"Question {n}, no link.") for n in range(3)]
    rows += [_row(f"ftp://{hosts[0]}/archive.tar", 7, "Not a web page"), _row(f"http://{hosts[0]}/", "many", "A score that is no number")]
    rows += [_row(f"HTTP://{hosts[0].upper()}:80/#top", 3, "The same page spelt otherwise")]
    return rows, dict(sorted(redirects.items()))


def dump(rows: list[Row]) -> bytes:
    """The rows as a gzipped CSV dump, hosts mixed as in life, with one broken line in the middle."""
    text = io.StringIO()
    writer = csv.DictWriter(text, HEADER, lineterminator="\n")
    writer.writeheader()
    for number, row in enumerate(sorted(rows, key=lambda row: _key(row["url"] + row["selftext"]))):
        writer.writerow({"created_utc": float(EPOCH + 60 * number), **row})
        if number == len(rows) // 2:
            text.write("1230768\ufffd,17,num\n")
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0, filename="") as file:
        file.write(text.getvalue().encode())
    return packed.getvalue()


def task(told: dict[str, list[str]], most: int, dev_share: float) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """Balanced, free of duplicates within and between labels, split and ordered by hash."""
    names = names_of(told)
    owners: dict[str, set[str]] = {}
    texts: dict[str, str] = {}
    for label, sentences in told.items():
        for text in filter(None, (masked(sentence, names) for sentence in sentences)):
            owners.setdefault(text.casefold(), set()).add(label)
            texts.setdefault(text.casefold(), text)
    mine: dict[str, list[str]] = {label: [] for label in sorted(told)}
    for key in sorted(owners, key=_key):
        if len(owners[key]) == 1:
            mine[next(iter(owners[key]))].append(texts[key])
    size = min([most // max(1, len(mine)), *(len(found) for found in mine.values())])
    held = round(size * dev_share)
    pick = [(label, text, number < held) for label, found in mine.items() for number, text in enumerate(found[:size])]
    pick.sort(key=lambda row: _key(row[1]))
    return [(label, text) for label, text, is_dev in pick if not is_dev], [(label, text) for label, text, is_dev in pick if is_dev]


def names_of(labels: Iterable[str]) -> re.Pattern[str]:
    """Finds the packages' names and nicknames, with whatever dotted path follows them."""
    words = [rf"\w*{re.escape(label)}\w*" if len(label) >= 5 else re.escape(label) for label in labels]  # torchelastic too
    words += map(re.escape, NICKNAMES)
    return re.compile(rf"\b(?:{'|'.join(sorted(words, key=lambda word: (-len(word), word)))})\b(?:\.\w+)*", re.IGNORECASE)


def masked(sentence: str, names: re.Pattern[str]) -> str | None:
    """The sentence without the packages' names, or None when too little or no prose is left."""
    text = re.sub(r"\s+", " ", names.sub(MASK, sentence.replace("`", ""))).strip()
    words = re.findall(r"[A-Za-z]{2,}", text)
    return text if 4 <= len(words) <= 40 and len(text) <= 300 and text.isprintable() else None


def _key(text: str) -> str:
    return str(xxhash.xxh3_64_hexdigest(text.encode()))


def _tsv(rows: list[tuple[str, str]]) -> bytes:
    return "".join(f"{label}\t{text}\n" for label, text in [("label", "text"), *rows]).encode()


def _write_whole(path: Path, content: bytes) -> None:
    path.parent.mkdir(exist_ok=True)
    draft = path.with_name(f"{path.name}.part")
    draft.write_bytes(content)
    draft.replace(path)


def pages(paths: list[Path]) -> Iterator[tuple[str, Path, int]]:
    """Address, shard and row of every page."""
    for path in paths:
        table = shards.read(path)
        for row, (host, where) in enumerate(zip(table["host"].to_pylist(), table["path"].to_pylist(), strict=True)):
            yield f"http://{host}{where}", path, row


SITE = Stage(name="site", version=1, work=work)
