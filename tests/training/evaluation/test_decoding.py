from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from infra.errors import ConfigError
from training.backbone.kv_cache import KVCache
from training.evaluation.decoding import BeamSearch, Sampling, choose, decode
from training.families.catalog import family, load

VOCAB, STOP = 60, 7
GREEDY = Sampling(temperature=0)
PROMPTS = [[3, 9, 4, 11], [5], [8, 8, 2, 30, 31, 32, 33, 12, 40], [1, 2, 3]]


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def tiny(name: str, **changes):
    """Weights of standard deviation 0.2: at 0.02 every next token looks the same."""
    found = family(name)
    shape = {"width": 32, "layers": 3, "heads": 4, "ffn": 0, "embedding_width": 0, "positions": 24, "dropout": 0.0, "init_std": 0.2}
    return found.build(replace(found.sizes["tiny"], **{**shape, "vocab": VOCAB, **changes}), seed=3).eval()


@pytest.fixture(scope="module")
def gpt2():
    return tiny("gpt2")


@torch.inference_mode()
def by_full_passes(model, prompt: list[int], tokens: int) -> list[int]:
    """Greedy decoding that computes the latest window again for every token."""
    seen = list(prompt)
    for _ in range(tokens):
        window = torch.tensor([seen[-model.config.positions :]])
        best = int(model.language_head().logits(model.backbone(window))[0, -1].argmax())
        if best == STOP:
            break
        seen.append(best)
    return seen[len(prompt) :]


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("gpt2", {}),
        ("gpt1", {}),
        ("gpt3", {"band": 4}),
        ("gpt3", {"band": 1}),
        ("gpt2", {"share": "all"}),
        ("gpt2", {"embedding_width": 16}),
    ],
    ids=str,
)
def test_the_cache_gives_the_logits_of_a_full_pass(name: str, changes: dict) -> None:
    model = tiny(name, **changes)
    ids = torch.randint(VOCAB, (2, 20), generator=torch.Generator().manual_seed(0))
    cache = KVCache(model.backbone, 2, 24)
    for start, end in ((0, 5), (5, 6), (6, 7), (7, 12), (12, 20)):
        with torch.inference_mode():
            full = model.backbone(ids[:, :end]).last_BLD[:, -1:]
        assert torch.allclose(cache.extend(ids[:, start:end]), full, atol=1e-5)


@pytest.mark.parametrize(("name", "changes"), [("gpt2", {}), ("gpt1", {}), ("gpt3", {"band": 4})], ids=str)
def test_a_batch_of_prompts_is_decoded_as_each_alone_also_beyond_the_positions(name: str, changes: dict) -> None:
    model = tiny(name, **changes)
    longer = [list(range(10, 40))]  # more than the 24 positions
    for prompts, tokens in ((PROMPTS, 12), (PROMPTS, 30), (longer + PROMPTS[:2], 5)):
        found = decode(model, prompts, tokens, GREEDY, stop=STOP)
        assert found == [[by_full_passes(model, prompt, tokens)] for prompt in prompts]


@pytest.fixture(scope="module")
def reference(gpt2, tmp_path_factory: pytest.TempPathFactory):
    """The same model in transformers."""
    import transformers

    folder = tmp_path_factory.mktemp("gpt2")
    family("gpt2").export(gpt2, folder)
    assert load(folder).config.vocab == VOCAB
    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


def by_transformers(reference, prompts: list[list[int]], tokens: int, stop: int = STOP, **how) -> list[list[int]]:
    """generate() on a batch padded on the left; new ids up to the stop token."""
    length = max(map(len, prompts))
    ids = torch.tensor([[0] * (length - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (length - len(p)) + [1] * len(p) for p in prompts])
    settings = {"max_new_tokens": tokens, "do_sample": False, "eos_token_id": stop, "pad_token_id": 0}
    out = reference.generate(ids, attention_mask=mask, **settings, **how)[:, length:].tolist()
    return [row[: row.index(stop)] if stop in row else row for row in out]


def test_greedy_equals_transformers_token_for_token(gpt2, reference) -> None:
    found = decode(gpt2, PROMPTS, 14, GREEDY, stop=STOP)
    assert [texts[0] for texts in found] == by_transformers(reference, PROMPTS, 14)


@pytest.mark.parametrize("beams", [1, 2, 5])
@pytest.mark.parametrize("penalty", [1.0, 0.0, -0.5, 2.0])
def test_beam_search_equals_transformers_token_for_token(gpt2, reference, beams: int, penalty: float) -> None:
    generator = torch.Generator().manual_seed(beams)
    prompts = [torch.randint(VOCAB, (3,), generator=generator).tolist() for _ in range(8)]
    free = decode(gpt2, prompts, 10, BeamSearch(beams, penalty))
    stop = Counter(one for [ids] in free for one in ids[3:]).most_common(1)[0][0]  # a token that ends searches at different lengths
    found = [ids for [ids] in decode(gpt2, prompts, 10, BeamSearch(beams, penalty), stop=stop)]
    assert found == [by_transformers(reference, [p], 10, stop, num_beams=beams, length_penalty=penalty)[0] for p in prompts]
    assert len(set(map(len, found))) > 1
    assert found == [ids for p in prompts for [ids] in decode(gpt2, [p], 10, BeamSearch(beams, penalty), stop=stop)]


def test_one_beam_is_greedy(gpt2) -> None:
    assert decode(gpt2, PROMPTS, 9, BeamSearch(1), stop=STOP) == decode(gpt2, PROMPTS, 9, GREEDY, stop=STOP)


def test_a_wide_beam_finds_the_most_probable_text(gpt2) -> None:
    """Against every text of two tokens."""
    with torch.inference_mode():
        texts = torch.cartesian_prod(torch.arange(VOCAB), torch.arange(VOCAB))
        rows = torch.cat([torch.tensor([PROMPTS[0]]).expand(len(texts), -1), texts], 1)
        logprobs = gpt2.language_head().logits(gpt2.backbone(rows)).log_softmax(-1)
    length = len(PROMPTS[0])
    total = sum(logprobs[torch.arange(len(texts)), length - 1 + i, texts[:, i]] for i in range(2))
    assert decode(gpt2, PROMPTS[:1], 2, BeamSearch(VOCAB // 2)) == [[texts[int(total.argmax())].tolist()]]


def test_padding_of_the_table_is_never_chosen(gpt2) -> None:
    [[ids]] = decode(gpt2, [[5]], 200, Sampling(temperature=50.0), vocab=VOCAB - 3)
    assert len(ids) == 200 and max(ids) < VOCAB - 3 and VOCAB - 4 in ids
    [[ids]] = decode(gpt2, [[5]], 20, BeamSearch(3), vocab=VOCAB - 3)
    assert max(ids) < VOCAB - 3


def test_a_condition_ends_a_text(gpt2) -> None:
    [[free]] = decode(gpt2, PROMPTS[:1], 12, GREEDY)
    for how in (GREEDY, BeamSearch(3)):
        [[ids]] = decode(gpt2, PROMPTS[:1], 12, how, ended=lambda new: len(new) == 4)
        assert len(ids) == 4
    [[ids]] = decode(gpt2, PROMPTS[:1], 12, GREEDY, ended=lambda new: free[2] in new)
    assert ids == free[: free.index(free[2]) + 1]


def test_choices_follow_temperature_top_k_and_top_p() -> None:
    logits = torch.tensor([0.1, 0.5, 0.25, 0.15]).log().expand(4000, -1)

    def seen(how: Sampling) -> Counter[int]:
        return Counter(choose(logits, how, range(4000), 0))

    plain = seen(Sampling(temperature=1.0))
    assert plain[1] / 4000 == pytest.approx(0.5, abs=0.03) and plain[0] / 4000 == pytest.approx(0.1, abs=0.02)
    assert set(seen(Sampling(temperature=1.0, top_k=2))) == {1, 2}
    assert set(seen(Sampling(temperature=1.0, top_p=0.6))) == {1, 2}
    assert set(seen(Sampling(temperature=1.0, top_p=0.01))) == {1}
    assert set(seen(Sampling(temperature=0.0))) == {1}
    cold = seen(Sampling(temperature=0.5))
    assert cold[1] / 4000 == pytest.approx(0.25 / (0.01 + 0.25 + 0.0625 + 0.0225), abs=0.03)


@pytest.mark.parametrize(("top_k", "top_p", "temperature"), [(5, 1.0, 1.0), (0, 0.7, 1.3), (9, 0.5, 0.6)])
def test_sampled_tokens_have_the_probabilities_of_transformers(top_k: int, top_p: float, temperature: float) -> None:
    from transformers import LogitsProcessorList, TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    logits = torch.randn(1, 40, generator=torch.Generator().manual_seed(1)) * 2
    warpers = [TemperatureLogitsWarper(temperature), *([TopKLogitsWarper(top_k)] if top_k else []), TopPLogitsWarper(top_p)]
    odds = LogitsProcessorList(warpers)(None, logits).softmax(-1)[0]
    count = 20_000
    drawn = Counter(choose(logits.expand(count, -1), Sampling(temperature, top_k, top_p), range(count), 3))
    assert set(drawn) <= {i for i, p in enumerate(odds.tolist()) if p > 0}
    for token, p in enumerate(odds.tolist()):
        assert abs(drawn[token] / count - p) <= 5 * (p * (1 - p) / count) ** 0.5 + 1e-12


def test_what_cannot_be_decoded_is_refused(gpt2) -> None:
    with pytest.raises(ConfigError, match="bidirectional"):
        decode(tiny("bert"), [[1]], 3, GREEDY)
    with pytest.raises(ConfigError, match="give a prompt"):
        decode(gpt2, [[1], []], 3, GREEDY)
    with pytest.raises(ConfigError, match="tokens is 0"):
        decode(gpt2, [[1]], 0, GREEDY)
    with pytest.raises(ConfigError, match="31 beams need a vocabulary of at least 62"):
        decode(gpt2, [[1]], 3, BeamSearch(31))
    with pytest.raises(ConfigError, match="cache holds 3"):
        KVCache(gpt2.backbone, 1, 3).extend(torch.zeros(1, 4, dtype=torch.long))
