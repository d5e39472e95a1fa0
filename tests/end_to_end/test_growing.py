"""A corpus that grows by the day: two runs on two lists of links end with the corpus of one run on both, and a page can be taken down."""

from __future__ import annotations

import json
from pathlib import Path

from warcio.archiveiterator import ArchiveIterator

from tests.end_to_end.growing import DAYS, TOKENS, Days, corpus, made, write
from tests.end_to_end.mini import Place, Row, counts, shards, table


def told(place: Place, *words: str) -> Row:
    answer = place.call(*words, "--json")
    assert answer.returncode == 0, answer.stderr
    found: Row = json.loads(answer.stdout)
    return found


def test_two_days_give_the_corpus_of_one_run_with_the_same_survivors(days: Days) -> None:
    assert len(corpus(days.once)) > 250
    assert days.seen[1].corpus == corpus(days.once)
    twins = {row["url"] for row in table(shards(made(days.once)["dedup"], "duplicates"))}
    assert twins and {row["url"] for row in table(shards(days.seen[1].made["dedup"], "duplicates"))} == twins


def test_the_second_day_asks_only_for_what_the_first_did_not(days: Days) -> None:
    first, second, third = (set(day.asked) for day in days.seen)
    assert len(first) > 190 and len(second) > 190
    assert not first & second
    assert not third, "nothing new, nothing asked"
    # all of the first list, which still stands there, and the twenty that the second repeats
    assert counts(days.seen[1].made["links"])["removed.known"] == len(days.lists[0]) + 20


def test_what_the_first_day_made_stays_the_same_files(days: Days) -> None:
    before, after = days.seen[0].made["dedup"], days.seen[1].made["dedup"]
    same = [(after / path.name).samefile(path) for path in shards(before)]
    assert len(shards(after)) == len(shards(before)) + 2
    assert all((after / "signatures" / path.name).samefile(path) for path in shards(before, "signatures"))
    lost = set(days.seen[0].corpus) - set(days.seen[1].corpus)  # survivors of the first day that a longer twin of the second replaced
    touched = {path.name for path in shards(before) for row in table([path]) if row["url"] in lost}
    assert same == [path.name not in touched for path in shards(before)]


def test_a_day_without_news_changes_nothing(days: Days) -> None:
    assert days.seen[2].corpus == days.seen[1].corpus


def test_a_page_of_the_first_day_is_traced_to_its_record_from_the_run_of_the_last(days: Days) -> None:
    url = next(url for url in sorted(days.seen[0].corpus) if url in days.seen[2].corpus)
    found = told(days.grown, "show", url)
    origin = found["origin"]
    assert origin["source"].startswith(f"day-{DAYS[0]}.txt:")
    with Path(origin["warc"]).open("rb") as file:
        file.seek(origin["warc_offset"])
        record = next(iter(ArchiveIterator(file)))
    assert record.rec_headers.get_header("WARC-Target-URI") == url
    assert record.rec_headers.get_header("WARC-Date") == origin["fetched_at"]
    assert told(days.grown, "show", origin["id"])["origin"] == origin


def test_a_take_down_remakes_only_the_shard_that_held_the_page(days: Days, data: Path) -> None:
    grown = days.grown
    files = ", ".join(str(data / "tokenizers/gpt2" / name) for name in ("encoder.json", "vocab.bpe"))
    victim = sorted(days.seen[2].corpus)[7]
    (grown.folder / "gone.txt").write_text("# nobody has asked yet\n")
    recipe = write(grown, days.web, "days.yaml", "day*.txt", grow=True, more=TOKENS.replace("FILES", files), takedown="gone.txt")
    words = ("run", recipe, "--plain", "--until", "blocks", "--set", f"date={DAYS[2]}")
    grown.run(*words)
    before = made(grown)
    (grown.folder / "gone.txt").write_text(f"{victim}\n")
    grown.run(*words)
    after = made(grown)
    holder = [path.name for path in shards(before["takedown"]) for row in table([path]) if row["url"] == victim]
    assert len(holder) == 1
    for label in ("takedown", "encode gpt2", "blocks gpt2 64"):
        assert before[label] != after[label]
        changed = [path.name for path in shards(before[label]) if not (after[label] / path.name).samefile(path)]
        assert changed == holder, label
    assert victim not in {row["url"] for row in table(shards(after["encode gpt2"], "documents"))}
