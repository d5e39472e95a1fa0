"""Exported models in somebody else's hands: `transformers` loads them and says, on real text, what our own towers say."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import transformers
from torch.testing import assert_close

from tests.end_to_end import mini
from training.families import catalog
from training.feed.batch import Batch

CLOSE = {"atol": 1e-5, "rtol": 0.0}


@pytest.fixture(scope="module")
def texts(finished: mini.Place) -> list[str]:
    """Real text: the longest documents that the corpus kept."""
    [dedup] = [finished.made(row) for row in finished.rows() if row["stage"] == "dedup"]
    found = sorted((row["text"] for row in mini.table(mini.shards(dedup))), key=len)[-6:]
    assert all(len(text) > 1000 for text in found)
    return found


@pytest.fixture(scope="module")
def exported(finished: mini.Place, tmp_path_factory: pytest.TempPathFactory):
    def export(label: str) -> Path:
        folder = tmp_path_factory.mktemp("export") / "model"
        told = finished.call("export", label, str(folder))
        assert told.returncode == 0, told.stderr
        return folder

    return export


def read(folder: Path, texts: list[str], **more):
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return tokenizer(texts, truncation=True, max_length=64, return_tensors="pt", **more)


def test_the_exported_gpt_says_what_ours_says(exported, texts: list[str]) -> None:
    folder = exported("gpt")
    theirs, ours = transformers.AutoModelForCausalLM.from_pretrained(folder).eval(), catalog.load(folder).eval()
    tokens = read(folder, texts)["input_ids"]
    with torch.no_grad():
        said = theirs(tokens).logits
        assert_close(ours.language_logits(Batch(tokens)), said, **CLOSE)
    assert said.std() > 0.1, "scores so flat would hide a difference"
    assert tokens.shape == (6, 64) and len(set(tokens.flatten().tolist())) > 50


def test_the_exported_bert_says_what_ours_says_of_words_and_of_pairs(exported, texts: list[str]) -> None:
    folder = exported("bert")
    theirs, ours = transformers.AutoModelForPreTraining.from_pretrained(folder).eval(), catalog.load(folder).eval()
    assert type(theirs).__name__ == "BertForPreTraining"
    pairs = transformers.AutoTokenizer.from_pretrained(folder)(
        [text[:90] for text in texts], [text[300 : 330 + 15 * n] for n, text in enumerate(texts)], padding=True, return_tensors="pt"
    )
    keep = pairs["attention_mask"].bool()
    batch = Batch(pairs["input_ids"], pairs["token_type_ids"], keep)
    assert not keep.all() and pairs["token_type_ids"].any()
    with torch.no_grad():
        said = theirs(**pairs)
        assert_close(ours.language_logits(batch)[keep], said.prediction_logits[keep], **CLOSE)
        assert_close(ours.head("pair").logits(ours.hidden(batch)), said.seq_relationship_logits, **CLOSE)
    alone = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval()
    with torch.no_grad():
        assert_close(alone(**pairs).logits[keep], said.prediction_logits[keep], **CLOSE)


@pytest.mark.parametrize("label", ["half", "half-control"])
def test_the_exported_student_says_what_ours_says(exported, texts: list[str], label: str) -> None:
    folder = exported(label)
    theirs, ours = transformers.AutoModelForMaskedLM.from_pretrained(folder).eval(), catalog.load(folder).eval()
    assert type(theirs).__name__ == "DistilBertForMaskedLM"
    given = read(folder, texts)
    with torch.no_grad():
        said = theirs(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).logits
        assert_close(ours.language_logits(Batch(given["input_ids"], None, given["attention_mask"].bool())), said, **CLOSE)


def test_the_exported_classifier_says_what_ours_says_with_the_tasks_labels(exported, finished: mini.Place) -> None:
    folder = exported("package half")
    theirs, ours = transformers.AutoModelForSequenceClassification.from_pretrained(folder).eval(), catalog.load(folder).eval()
    [site] = [finished.made(row) for row in finished.rows() if row["stage"] == "site"]
    lines = [line.split("\t") for line in (site / "task" / "dev.tsv").read_text().splitlines()[1:]]
    assert set(theirs.config.id2label.values()) == {label for label, _ in lines}
    given = read(folder, [text for _, text in lines], padding=True)
    batch = Batch(given["input_ids"], None, given["attention_mask"].bool())
    with torch.no_grad():
        said = theirs(input_ids=given["input_ids"], attention_mask=given["attention_mask"]).logits
        assert_close(ours.head("class").logits(ours.hidden(batch)), said, **CLOSE)


def test_tokens_of_the_exported_tokenizers_are_the_corpus_as_it_was_encoded(exported, finished: mini.Place) -> None:
    """`transformers` cuts a document into the very tokens that the encode stage wrote, sentence by sentence."""
    rows = {row["label"]: row for row in finished.rows()}
    encoded = mini.shards(finished.made(rows["encode bytes"]))[0]
    sentences = [row for row in mini.table([encoded]) if row["document"] == 0]
    text = mini.table([mini.shards(finished.made(rows["dedup"]))[0]])[0]["text"]
    tokenizer = transformers.AutoTokenizer.from_pretrained(exported("gpt"))
    written = tokenizer.decode([token for row in sentences for token in row["tokens"]], skip_special_tokens=True)
    assert written.split() == text.split() and len(sentences) > 1
    own = [tokenizer(tokenizer.decode(row["tokens"], skip_special_tokens=True))["input_ids"] for row in sentences]
    assert own == [[token for token in row["tokens"] if token not in tokenizer.all_special_ids] for row in sentences]
