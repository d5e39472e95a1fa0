from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from data_prep.tokenizer import bpe_eow, byte_bpe, wordpiece
from infra.errors import ConfigError
from training.evaluation.decoding import Sampling
from training.evaluation.generate import continuation, continue_texts, fill_masked
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
    """A model that has memorized one sentence."""
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


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory):
    """GPT-1's kind of tokenizer, which marks the end of a word and not its start."""
    folder = tmp_path_factory.mktemp("words")
    return bpe_eow.load(folder, bpe_eow.train([TEXT], folder, 60, min_frequency=1))


GREEDY = Sampling(temperature=0)


def test_a_memorized_sentence_is_continued(gpt: Path) -> None:
    [[written]] = continue_texts(gpt, ["the cat sat"], 20, GREEDY)
    assert written.startswith("the cat sat on the mat and the dog sat")


def test_greedy_text_equals_transformers(gpt: Path) -> None:
    import transformers

    reference = transformers.AutoModelForCausalLM.from_pretrained(gpt).eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(gpt)
    ids = tokenizer("the dog", return_tensors="pt").input_ids
    out = reference.generate(ids, max_new_tokens=12, do_sample=False, pad_token_id=0)
    assert continue_texts(gpt, ["the dog"], 12, GREEDY) == [[tokenizer.decode(out[0])]]


def test_a_seed_decides_what_is_sampled(gpt: Path) -> None:
    hot = [continue_texts(gpt, ["the"], 20, Sampling(temperature=3.0, seed=seed)) for seed in (1, 1, 2)]
    assert hot[0] == hot[1] != hot[2]


def test_samples_differ_and_a_batch_changes_nothing(gpt: Path) -> None:
    how = Sampling(temperature=2.0, samples=3)
    [alone] = continue_texts(gpt, ["the cat"], 20, how)
    together = continue_texts(gpt, ["the cat", "the dog sat on the"], 20, how)
    assert len(set(alone)) == 3 and together[0] == alone and len(together[1]) == 3


def test_an_empty_prompt_starts_a_document(gpt: Path) -> None:
    [[text]] = continue_texts(gpt, [""], 3, GREEDY)
    assert isinstance(text, str)


def test_a_prompt_longer_than_the_model_is_continued_from_its_end(gpt: Path) -> None:
    [[text]] = continue_texts(gpt, [TEXT], 5, GREEDY)
    assert text.startswith(TEXT) and len(text) > len(TEXT)


@pytest.mark.parametrize("stop", [("mat",), ("dog", "mat and"), (" sat on the mat and the",)])
def test_a_stop_string_ends_the_text_before_it(gpt: Path, stop: tuple[str, ...]) -> None:
    [[free]] = continue_texts(gpt, ["the cat"], 30, GREEDY)
    [[text]] = continue_texts(gpt, ["the cat"], 30, GREEDY, stop)
    first = min(place for one in stop if (place := free.find(one, len("the cat"))) >= 0)
    assert text == free[:first]


def test_an_empty_stop_string_is_refused(gpt: Path) -> None:
    with pytest.raises(ConfigError, match="stop string is empty"):
        continue_texts(gpt, ["the"], 3, GREEDY, ("",))


def test_new_words_are_separated_from_the_prompt(words) -> None:
    """A tokenizer that marks ends of words decodes new ids without the space before them (fairseq #1306 is of this kind)."""
    ids = words.encode_batch(["the cat sat on the mat"])[0]
    for split in range(1, len(ids)):
        prompt = words.decode(ids[:split])
        assert prompt + continuation(words, prompt, ids[:split], ids[split:]) == "the cat sat on the mat"
        if prompt.endswith("the"):
            assert continuation(words, prompt + " ", ids[:split], ids[split:]).startswith(("mat", "cat"))


def test_masked_tokens_are_filled_with_what_was_there(bert: Path) -> None:
    both, single, whole = fill_masked(
        bert, ["the [MASK] sat on the [MASK]", "the [MASK] sat on the mat", "the cat sat on the [MASK]"], best=3
    )
    assert [len(guesses) for guesses in both] == [3, 3]
    assert single[0][0].probability == max(g.probability for g in single[0])
    assert sum(g.probability for g in single[0]) <= 1.0 + 1e-6
    assert (single[0][0].token, whole[0][0].token) == ("cat", "mat")


def test_filling_equals_the_pipeline_of_transformers(bert: Path) -> None:
    import transformers

    pipe = transformers.pipeline("fill-mask", str(bert))
    texts = ["the [MASK] sat on the mat", "the [MASK] sat", "on the [MASK]"]
    for masks, reference in zip(fill_masked(bert, texts, best=4), pipe(texts, top_k=4), strict=True):
        assert [g.token for g in masks[0]] == [each["token_str"] for each in reference]
        assert [g.probability for g in masks[0]] == pytest.approx([each["score"] for each in reference], abs=1e-5)


@pytest.mark.parametrize(
    ("change", "message"), [({"temperature": -1}, "temperature -1"), ({"top_p": 0.0}, "top_p 0.0"), ({"top_k": -2}, "top_k -2")]
)
def test_impossible_sampling_is_refused(change: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Sampling(**change)


def test_a_model_refuses_what_it_cannot_do(gpt: Path, bert: Path) -> None:
    with pytest.raises(ConfigError, match="bidirectional.*textmill fill"):
        continue_texts(bert, ["the cat"], 3)
    with pytest.raises(ConfigError, match="causal.*textmill generate"):
        fill_masked(gpt, ["the [MASK]"])
    with pytest.raises(ConfigError, match=r"write \[MASK\] where"):
        fill_masked(bert, ["the cat"])
    with pytest.raises(ConfigError, match="text 2 has .* 32 positions"):
        fill_masked(bert, ["the [MASK]", "the [MASK] " * 40])
