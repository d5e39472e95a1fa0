from __future__ import annotations

from dataclasses import replace

import pytest
import torch
import transformers as T

from infra.errors import ConfigError
from training.families.catalog import FAMILIES, family, model
from training.families.distilbert import half


def theirs(build, config) -> int:
    with torch.device("meta"):
        built = build(config)
    built.tie_weights()
    return sum({id(p): p.numel() for p in built.parameters()}.values())


def gpt2(layers: int, width: int, heads: int, **more) -> int:
    return theirs(T.GPT2LMHeadModel, T.GPT2Config(n_layer=layers, n_embd=width, n_head=heads, **more))


def encoder(build, config: type, layers: int, width: int, heads: int, **more) -> int:
    sizes = {"num_hidden_layers": layers, "hidden_size": width, "num_attention_heads": heads, "intermediate_size": 4 * width}
    return theirs(build, config(**{**sizes, **more}))


def bert(*shape: int, **more) -> int:
    return encoder(T.BertForPreTraining, T.BertConfig, *shape, **more)


def roberta(*shape: int) -> int:
    released = {"vocab_size": 50_265, "max_position_embeddings": 514, "type_vocab_size": 1}
    return encoder(T.RobertaForMaskedLM, T.RobertaConfig, *shape, **released)


def albert(*shape: int) -> int:
    return encoder(T.AlbertForPreTraining, T.AlbertConfig, *shape)


def electra(*shape: int, embedding: int) -> int:
    return encoder(T.ElectraForPreTraining, T.ElectraConfig, *shape, embedding_size=embedding)


def distilbert(layers: int, width: int, heads: int) -> int:
    return theirs(T.DistilBertForMaskedLM, T.DistilBertConfig(n_layers=layers, dim=width, n_heads=heads, hidden_dim=4 * width))


# name -> the library's count of the released shape, and the number that is known from elsewhere
TABLE = {
    "gpt1/base": (lambda: theirs(T.OpenAIGPTLMHeadModel, T.OpenAIGPTConfig()), 116_534_784),
    "gpt2/124m": (lambda: gpt2(12, 768, 12), 124_439_808),
    "gpt2/355m": (lambda: gpt2(24, 1024, 16), 354_823_168),
    "gpt2/774m": (lambda: gpt2(36, 1280, 20), 774_030_080),
    "gpt2/1.5b": (lambda: gpt2(48, 1600, 25), 1_557_611_200),
    "distilgpt2/base": (lambda: gpt2(6, 768, 12), 81_912_576),
    "gpt3/125m": (lambda: gpt2(12, 768, 12, n_positions=2048), 125_226_240),
    "gpt3/350m": (lambda: gpt2(24, 1024, 16, n_positions=2048), 355_871_744),
    "gpt3/760m": (lambda: gpt2(24, 1536, 16, n_positions=2048), 760_300_032),
    "gpt3/1.3b": (lambda: gpt2(24, 2048, 16, n_positions=2048), 1_315_723_264),
    "gpt3/2.7b": (lambda: gpt2(32, 2560, 32, n_positions=2048), 2_651_553_280),
    "gpt3/6.7b": (lambda: gpt2(32, 4096, 32, n_positions=2048), 6_658_404_352),
    "gpt3/13b": (lambda: gpt2(40, 5120, 40, n_positions=2048), None),
    "gpt3/175b": (lambda: gpt2(96, 12_288, 96, n_positions=2048), 174_604_259_328),
    "bert/base": (lambda: bert(12, 768, 12), 110_106_428),
    "bert/large": (lambda: bert(24, 1024, 16), 336_226_108),
    "bert/base-cased": (lambda: bert(12, 768, 12, vocab_size=28_996), 108_932_934),
    "bert/large-cased": (lambda: bert(24, 1024, 16, vocab_size=28_996), 334_661_958),
    "bert/tiny": (lambda: bert(2, 128, 2), 4_433_468),
    "bert/mini": (lambda: bert(4, 256, 4), 11_267_900),
    "bert/small": (lambda: bert(4, 512, 8), 29_058_876),
    "bert/medium": (lambda: bert(8, 512, 8), 41_668_412),
    "roberta/base": (lambda: roberta(12, 768, 12), 124_697_433),
    "roberta/large": (lambda: roberta(24, 1024, 16), 355_412_057),
    "distilroberta/base": (lambda: roberta(6, 768, 12), 82_170_201),
    "albert/base": (lambda: albert(12, 768, 12), 11_813_810),
    "albert/large": (lambda: albert(24, 1024, 16), 17_847_474),
    "albert/xlarge": (lambda: albert(24, 2048, 16), 59_021_490),
    "albert/xxlarge": (lambda: albert(12, 4096, 64), 223_158_450),
    "electra/small": (lambda: electra(12, 256, 4, embedding=128), 13_549_057),
    "electra/base": (lambda: electra(12, 768, 12, embedding=768), 109_483_009),
    "electra/large": (lambda: electra(24, 1024, 16, embedding=1024), 335_142_913),
    "distilbert/base": (lambda: distilbert(6, 768, 12), 66_985_530),
}


@pytest.mark.parametrize("name", TABLE)
def test_every_size_has_the_parameters_of_its_release(name: str) -> None:
    found, size = model(name)
    count, known = TABLE[name]
    assert found.parameters(found.backbone(size)) == count()
    assert known is None or count() == known


GENERATORS = {"small": (12, 64, 1, 128, 4_620_026), "base": (12, 256, 4, 768, 33_740_602), "large": (24, 256, 4, 1024, 51_295_290)}


@pytest.mark.parametrize("size", GENERATORS)
def test_electras_generators_have_the_papers_shape_and_count_without_the_shared_embedding(size: str) -> None:
    layers, width, heads, embedding, known = GENERATORS[size]
    alone = encoder(T.ElectraForMaskedLM, T.ElectraConfig, layers, width, heads, embedding_size=embedding)
    assert alone == known
    found = family("electra")
    config = found.backbone(size)
    shared = (30_522 + 512 + 2 + 2) * embedding
    assert found.trained_parameters(config) == found.parameters(config) + alone - shared


def test_released_settings_that_differ_from_the_librarys_defaults() -> None:
    roberta_base, albert_base, albert_v1 = (
        family(f).backbone(s) for f, s in (("roberta", "base"), ("albert", "base"), ("albert", "base-v1"))
    )
    assert (roberta_base.eps, roberta_base.positions, roberta_base.segments) == (1e-5, 512, 1)
    assert (albert_base.dropout, albert_v1.dropout, albert_base.activation, albert_base.embedding_width) == (0.0, 0.1, "gelu_tanh", 128)
    assert family("gpt1").backbone("base").norm == "post"
    assert family("bert").backbone("base").eps == 1e-12
    assert family("gpt2").backbone("124m").residual_init


def test_presets_are_the_papers() -> None:
    bert_base = family("bert").preset("base")
    assert (bert_base.lr, bert_base.warmup, bert_base.steps, bert_base.batch, bert_base.bias_correction) == (
        1e-4,
        10_000,
        1_000_000,
        256,
        False,
    )
    assert (bert_base.betas, bert_base.eps, bert_base.weight_decay, bert_base.clip) == ((0.9, 0.999), 1e-6, 0.01, 1.0)
    roberta_large = family("roberta").preset("large")
    assert (roberta_large.lr, roberta_large.betas, roberta_large.warmup, roberta_large.clip) == (4e-4, (0.9, 0.98), 30_000, 0.0)
    assert (family("albert").preset("base").optimiser, family("albert").preset("base").lr) == ("lamb", 1.76e-3)
    assert [family("electra").preset(s).lr for s in ("small", "base", "large")] == [5e-4, 2e-4, 2e-4]
    assert [family("gpt3").preset(s).lr for s in family("gpt3").sizes] == [6e-4, 3e-4, 2.5e-4, 2e-4, 1.6e-4, 1.2e-4, 1e-4, 0.6e-4]
    large = family("gpt3").preset("175b")
    assert large.batch * large.length == pytest.approx(3.2e6, rel=0.001)
    assert large.warmup * large.batch * large.length == pytest.approx(375e6, rel=0.01)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_size_has_a_preset_and_takes_another_vocabulary(name: str) -> None:
    found = family(name)
    for size in found.sizes:
        assert found.preset(size).lr > 0
        assert found.backbone(size, vocab=1000, positions=64).vocab == 1000
        assert found.backbone(size, positions=64).positions == 64


@pytest.mark.parametrize("name", FAMILIES)
def test_every_kind_of_tokenizer_a_family_asks_for_exists(name: str) -> None:
    from data_prep.tokenizer.catalog import LOADERS

    assert family(name).tokenizer in LOADERS


def test_a_wrong_name_is_answered_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match="no family `robert`; did you mean `roberta`?"):
        family("robert")
    with pytest.raises(ConfigError, match="bert has no size `huge`; its sizes are base, large"):
        model("bert/huge")


def test_half_of_a_teacher_has_every_second_layer_and_no_segments() -> None:
    teacher = family("bert").backbone("base")
    student = half(teacher)
    assert (student.layers, student.segments, student.width) == (6, 0, 768)
    with pytest.raises(ConfigError, match="3 layers has no half"):
        half(replace(teacher, layers=3))
