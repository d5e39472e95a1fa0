from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data_prep.tokenizer import byte_bpe, wordpiece
from infra.errors import ConfigError
from training.evaluation.generate import Sampling, choose, continue_ids, continue_text, fill_gaps
from training.families.catalog import family

TEXT = "the cat sat on the mat and the dog sat on the log. " * 20


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def learn(tower, batch, steps: int = 60) -> None:
    optimiser = torch.optim.AdamW(tower.parameters(), 1e-2)
    for _ in range(steps):
        tower(batch).total.backward()
        optimiser.step()
        optimiser.zero_grad()


@pytest.fixture(scope="module")
def gpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that knows one sentence by heart."""
    from training.feed.batch import IGNORE, Batch

    folder = tmp_path_factory.mktemp("gpt")
    meta = byte_bpe.train([TEXT], folder / "tokenizer", 280)
    found = family("gpt2")
    config = replace(
        found.sizes["tiny"], vocab=meta.vocab + 3, width=32, layers=2, heads=4, ffn=0, embedding_width=0, positions=64, dropout=0.0
    )
    tower = found.build(config, seed=0)
    ids = torch.tensor([byte_bpe.load(folder / "tokenizer", meta).encode_batch([TEXT])[0][:64]])
    following = torch.cat([ids[:, 1:], torch.full((1, 1), IGNORE)], 1)
    learn(tower, Batch(ids, labels={"next": following}))
    found.export(tower, folder / "model", folder)
    return folder / "model"


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from training.feed.batch import IGNORE, Batch

    folder = tmp_path_factory.mktemp("bert")
    meta = wordpiece.train([TEXT], folder / "tokenizer", 80, min_frequency=1)
    found = family("bert")
    config = replace(
        found.sizes["tiny"], vocab=meta.vocab, width=32, layers=2, heads=4, ffn=0, embedding_width=0, positions=32, dropout=0.0
    )
    tower = found.build(config, seed=0)
    s, engine = meta.specials, wordpiece.load(folder / "tokenizer", meta)
    ids = torch.tensor([[s["cls"], *engine.encode_batch(["the cat sat on the mat"])[0], s["sep"]]])
    rows = [(place, ids.clone()) for place in range(1, ids.shape[1] - 1)]
    labels = torch.full((len(rows), ids.shape[1]), IGNORE)
    for row, (place, tokens) in enumerate(rows):
        labels[row, place], tokens[0, place] = ids[0, place], s["mask"]
    learn(tower, Batch(torch.cat([t for _, t in rows]), labels={"mlm": labels, "pair": torch.zeros(len(rows), dtype=torch.long)}))
    found.export(tower, folder / "model", folder)
    return folder / "model"


def test_a_model_goes_on_with_what_it_has_read(gpt: Path) -> None:
    written = continue_text(gpt, "the cat sat", 20, Sampling(temperature=0))
    assert written.startswith("the cat sat on the mat and the dog sat")


def test_greedy_is_what_the_library_generates(gpt: Path) -> None:
    import transformers

    theirs = transformers.AutoModelForCausalLM.from_pretrained(gpt).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(gpt)
    ids = tokenizer("the dog", return_tensors="pt").input_ids
    out = theirs.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=0)
    assert continue_text(gpt, "the dog", 12, Sampling(temperature=0)) == tokenizer.decode(out[0])


def test_a_seed_decides_what_is_written(gpt: Path) -> None:
    hot = [continue_text(gpt, "the", 20, Sampling(temperature=3.0, seed=seed)) for seed in (1, 1, 2)]
    assert hot[0] == hot[1] != hot[2]


def test_an_empty_prompt_starts_a_document(gpt: Path) -> None:
    assert isinstance(continue_text(gpt, "", 3), str)


def test_a_text_longer_than_the_model_goes_on_from_its_end(gpt: Path) -> None:
    assert len(continue_text(gpt, TEXT, 5, Sampling(temperature=0))) > len(TEXT)


def test_padding_of_the_table_is_never_written(gpt: Path) -> None:
    from training.families.catalog import load

    tower = load(gpt)
    vocab = tower.config.vocab - 3
    ids = list(continue_ids(tower, [5], 200, Sampling(temperature=50.0), vocab=vocab))
    assert len(ids) == 200 and max(ids) < vocab


def test_choices_follow_temperature_top_k_and_top_p() -> None:
    scores = torch.tensor([0.1, 0.5, 0.25, 0.15]).log()

    def seen(sampling: Sampling) -> Counter[int]:
        rng = torch.Generator().manual_seed(0)
        return Counter(choose(scores, sampling, rng) for _ in range(4000))

    plain = seen(Sampling(temperature=1.0))
    assert plain[1] / 4000 == pytest.approx(0.5, abs=0.03) and plain[0] / 4000 == pytest.approx(0.1, abs=0.02)
    assert set(seen(Sampling(temperature=1.0, top_k=2))) == {1, 2}
    assert set(seen(Sampling(temperature=1.0, top_p=0.6))) == {1, 2}
    assert set(seen(Sampling(temperature=1.0, top_p=0.01))) == {1}
    assert set(seen(Sampling(temperature=0.0))) == {1}
    cold = seen(Sampling(temperature=0.5))
    assert cold[1] / 4000 == pytest.approx(0.25 / (0.01 + 0.25 + 0.0625 + 0.0225), abs=0.03)


def test_gaps_are_filled_with_what_stood_there(bert: Path) -> None:
    first, second = fill_gaps(bert, "the [MASK] sat on the [MASK]", best=3)
    whole = fill_gaps(bert, "the cat sat on the [MASK]")[0]
    single = fill_gaps(bert, "the [MASK] sat on the mat")[0]
    assert len(first) == len(second) == 3
    assert single[0].probability == max(g.probability for g in single)
    assert sum(g.probability for g in single) <= 1.0 + 1e-6
    assert (single[0].token, whole[0].token) == ("cat", "mat")


@pytest.mark.parametrize(
    ("change", "message"), [({"temperature": -1}, "temperature -1"), ({"top_p": 0.0}, "top_p 0.0"), ({"top_k": -2}, "top_k -2")]
)
def test_impossible_sampling_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Sampling(**change)


def test_each_model_is_asked_only_for_what_it_can(gpt: Path, bert: Path) -> None:
    with pytest.raises(ConfigError, match="reads both ways"):
        continue_text(bert, "the cat", 3)
    with pytest.raises(ConfigError, match="without a mask token"):
        fill_gaps(gpt, "the [MASK]")
    with pytest.raises(ConfigError, match=r"write \[MASK\] where"):
        fill_gaps(bert, "the cat")
    with pytest.raises(ConfigError, match="32 positions"):
        fill_gaps(bert, "the [MASK] " * 40)
