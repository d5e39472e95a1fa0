"""GPT: models that read left to right.

GPT-1: Radford et al. 2018, section 4.1. GPT-2: Radford et al. 2019, table 2 and section 2.3. GPT-3: Brown et al. 2020, table 2.1.
DistilGPT2: half of GPT-2's layers, as released.
"""

from __future__ import annotations

from dataclasses import replace

from training.backbone.config import BackboneConfig
from training.backbone.exchange import Layout
from training.families.family import OURS, Family, Preset

GPT2_VOCAB = 50_257


def gpt2_size(layers: int, width: int, heads: int, *, positions: int = 1024, vocab: int = GPT2_VOCAB) -> BackboneConfig:
    """Norm before each sublayer and once at the end, tanh GELU, projections into the residual stream started smaller (section 2.3)."""
    return BackboneConfig(
        vocab=vocab,
        width=width,
        layers=layers,
        heads=heads,
        positions=positions,
        causal=True,
        norm="pre",
        embedding_norm=False,
        activation="gelu_tanh",
        eps=1e-5,
        residual_init=True,
    )


FIELDS = {
    "vocab": ("vocab_size",),
    "width": ("n_embd",),
    "layers": ("n_layer",),
    "heads": ("n_head",),
    "positions": ("n_positions",),
    "eps": ("layer_norm_epsilon",),
    "dropout": ("resid_pdrop",),
    "embedding_dropout": ("embd_pdrop",),
    "attention_dropout": ("attn_pdrop",),
}
GPT2_LAYOUT = Layout(
    model_type="gpt2",
    prefix="transformer.",
    fields={
        **FIELDS,
        "ffn": ("n_inner",),
        "activation": ("activation_function",),
        "scale_attention": ("scale_attn_weights",),
        "scale_by_layer": ("scale_attn_by_inverse_layer_idx",),
    },
    modules={"embedding.token": "transformer.wte", "embedding.position": "transformer.wpe", "norm": "transformer.ln_f"},
    block={
        "attention_norm": "transformer.h.{i}.ln_1",
        "attention.out": "transformer.h.{i}.attn.c_proj",
        "ffn_norm": "transformer.h.{i}.ln_2",
        "ffn.up": "transformer.h.{i}.mlp.c_fc",
        "ffn.down": "transformer.h.{i}.mlp.c_proj",
    },
    qkv=("transformer.h.{i}.attn.c_attn",),
    heads={"next": {}, "class": {"scores": "score"}},
    architectures={("next",): "GPT2LMHeadModel", ("class",): "GPT2ForSequenceClassification", (): "GPT2Model"},
    transposed=True,
)

GPT2_PRESET = Preset(  # batch and length are section 2.3's; the paper names no rates: these are GPT-3's (table 2.1, appendix B)
    lr=6e-4,
    steps=600_000,
    batch=512,
    length=1024,
    warmup=2000,
    schedule="cosine",
    min_ratio=0.1,
    betas=(0.9, 0.95),
    eps=1e-8,
    weight_decay=0.1,
    source="with GPT-3's rates and nanoGPT's steps: the paper names batch and length, neither rates nor steps",
)
CPU_SIZES = ("tiny", "mini", "small", "medium")
# as the released training code of DistilBERT, DistilGPT2 and DistilRoBERTa has it
DISTILLED = Preset(lr=5e-4, steps=100_000, batch=4000, length=1024, warmup=5000, betas=(0.9, 0.98), weight_decay=0.0, clip=5.0)
DISTILLED = replace(DISTILLED, source="as the released training code has it: the paper names neither rates nor steps")

GPT2 = Family(
    name="gpt2",
    paper="Radford et al. 2019, Language Models are Unsupervised Multitask Learners",
    sizes={
        "124m": gpt2_size(12, 768, 12),
        "355m": gpt2_size(24, 1024, 16),
        "774m": gpt2_size(36, 1280, 20),
        "1.5b": gpt2_size(48, 1600, 25),
        # for CPUs, with the vocabulary and length of a small corpus: ours, in no paper
        "tiny": gpt2_size(4, 256, 4, positions=256, vocab=8192),
        "mini": gpt2_size(6, 384, 6, positions=256, vocab=8192),
        "small": gpt2_size(8, 512, 8, positions=512, vocab=16_384),
        "medium": gpt2_size(12, 512, 8, positions=512, vocab=16_384),
    },
    tokenizer="byte_bpe",
    examples="blocks",
    objective="next",
    heads=("next",),
    layout=GPT2_LAYOUT,
    presets={
        "": GPT2_PRESET,
        "355m": replace(GPT2_PRESET, lr=3e-4),
        "774m": replace(GPT2_PRESET, lr=2.5e-4),
        "1.5b": replace(GPT2_PRESET, lr=2e-4),
        "tiny": replace(GPT2_PRESET, lr=2e-3, steps=1000, batch=32, length=256, warmup=50, source=OURS),
        "mini": replace(GPT2_PRESET, lr=1e-3, steps=2000, batch=32, length=256, warmup=100, source=OURS),
        "small": replace(GPT2_PRESET, lr=1e-3, steps=4000, batch=32, length=512, warmup=200, source=OURS),
        "medium": replace(GPT2_PRESET, lr=6e-4, steps=8000, batch=32, length=512, warmup=400, source=OURS),
    },
    pool="none",
    position=-1,
)

DISTILGPT2 = replace(
    GPT2,
    name="distilgpt2",
    paper="Sanh et al. 2019, DistilBERT (the GPT-2 variant of its release)",
    sizes={
        "base": gpt2_size(6, 768, 12),
        **{name: replace(GPT2.sizes[name], layers=GPT2.sizes[name].layers // 2) for name in CPU_SIZES},
    },
    presets={**GPT2.presets, "base": DISTILLED},
)

# Table 2.1: layers, width, heads, rate, batch in millions of tokens. Two entries there cannot be: 1.3b has 16 heads here
# (24 x 128 is not 2048), 13b is 5120 wide (5140 is not 40 x 128).
GPT3_SHAPES = {
    "125m": (12, 768, 12, 6e-4, 0.5),
    "350m": (24, 1024, 16, 3e-4, 0.5),
    "760m": (24, 1536, 16, 2.5e-4, 0.5),
    "1.3b": (24, 2048, 16, 2e-4, 1.0),
    "2.7b": (32, 2560, 32, 1.6e-4, 1.0),
    "6.7b": (32, 4096, 32, 1.2e-4, 2.0),
    "13b": (40, 5120, 40, 1e-4, 2.0),
    "175b": (96, 12288, 96, 0.6e-4, 3.2),
}


def gpt3_preset(lr: float, millions: float) -> Preset:
    """Table 2.1 and appendix B: 300B tokens, 375M of them warm-up, cosine to a tenth over 260B, then flat; millions: tokens of a batch.

    The batch that grows from 32k tokens over the first 4 to 12 billion is the recipe's to ask for, `batch_ramp: {start: 32768,
    tokens: 4000000000}`: the paper does not tell which size took how many.
    """
    batch = round(millions * 1e6 / 2048)
    steps, warmup = round(300e9 / (batch * 2048)), round(375e6 / (batch * 2048))
    return replace(GPT2_PRESET, lr=lr, steps=steps, batch=batch, length=2048, warmup=warmup, hold=40 / 300, source="")


# Section 2.1: dense and locally banded layers alternate, as in the Sparse Transformer (Child et al. 2019). `overrides: {band: 128}`
# builds that: odd layers see the latest 128 positions. It is off here, because the paper does not tell the width of the band, the
# parameters are the same either way. No class of transformers computes it: an export carries its own (trust_remote_code=True).
GPT3 = replace(
    GPT2,
    name="gpt3",
    paper="Brown et al. 2020, Language Models are Few-Shot Learners",
    sizes={
        **{name: gpt2_size(layers, width, heads, positions=2048) for name, (layers, width, heads, _, _) in GPT3_SHAPES.items()},
        **{name: GPT2.sizes[name] for name in CPU_SIZES},
    },
    presets={
        "": gpt3_preset(6e-4, 0.5),
        **{name: gpt3_preset(lr, batch) for name, (_, _, _, lr, batch) in GPT3_SHAPES.items()},
        **{name: GPT2.presets[name] for name in CPU_SIZES},
    },
)

GPT1_SIZE = replace(gpt2_size(12, 768, 12, positions=512, vocab=40_478), norm="post", residual_init=False)
GPT1 = replace(
    GPT2,
    name="gpt1",
    paper="Radford et al. 2018, Improving Language Understanding by Generative Pre-Training",
    tokenizer="bpe_eow",
    sizes={
        "base": GPT1_SIZE,
        # for CPUs: ours, in no paper
        **{name: replace(GPT2.sizes[name], norm="post", residual_init=False) for name in CPU_SIZES},
    },
    layout=Layout(
        model_type="openai-gpt",
        prefix="transformer.",
        fields={**FIELDS, "activation": ("afn",)},
        modules={"embedding.token": "transformer.tokens_embed", "embedding.position": "transformer.positions_embed"},
        block=GPT2_LAYOUT.block,
        qkv=GPT2_LAYOUT.qkv,
        heads=GPT2_LAYOUT.heads,
        architectures={("next",): "OpenAIGPTLMHeadModel", ("class",): "OpenAIGPTForSequenceClassification", (): "OpenAIGPTModel"},
        transposed=True,
        activations={"gelu": "gelu_tanh", "relu": "relu", "silu": "silu", "swish": "silu"},  # there "gelu" means the tanh form
    ),
    presets={
        # section 4.1: 100 epochs of BooksCorpus, here counted as its 985M words (Zhu et al. 2015, table 2), one token each
        "": Preset(lr=2.5e-4, steps=3_000_000, batch=64, length=512, warmup=2000, schedule="cosine", eps=1e-8),
        **{name: replace(GPT2.presets[name], lr=GPT2.presets[name].lr / 2, weight_decay=0.01) for name in CPU_SIZES},
    },
)
