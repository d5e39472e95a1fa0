"""BERT: reads both ways, fills in masked tokens, says whether B follows A (Devlin et al. 2019, section 3 and appendix A.2)."""

from __future__ import annotations

from dataclasses import replace

from training.backbone.config import BackboneConfig
from training.backbone.exchange import Layout
from training.families.family import OURS, Family, Preset
from training.feed.masking import Masking

VOCAB = 30_522


def bert_size(layers: int, width: int, heads: int, vocab: int = VOCAB) -> BackboneConfig:
    """The released configurations: erf GELU, eps 1e-12, two segments; weights from a normal cut at two deviations."""
    return BackboneConfig(
        vocab=vocab, width=width, layers=layers, heads=heads, positions=512,
        causal=False, norm="post", embedding_norm=True, activation="gelu", segments=2, eps=1e-12, truncated_init=True,
    )  # fmt: skip


FIELDS = {
    "vocab": ("vocab_size",),
    "width": ("hidden_size",),
    "layers": ("num_hidden_layers",),
    "heads": ("num_attention_heads",),
    "positions": ("max_position_embeddings",),
    "ffn": ("intermediate_size",),
    "segments": ("type_vocab_size",),
    "activation": ("hidden_act",),
    "eps": ("layer_norm_eps",),
    "dropout": ("hidden_dropout_prob",),
    "attention_dropout": ("attention_probs_dropout_prob",),
}


def encoder_modules(prefix: str) -> dict[str, str]:
    """The embedding of BERT, RoBERTa and ELECTRA."""
    return {
        "embedding.token": f"{prefix}embeddings.word_embeddings",
        "embedding.position": f"{prefix}embeddings.position_embeddings",
        "embedding.segment": f"{prefix}embeddings.token_type_embeddings",
        "embedding.norm": f"{prefix}embeddings.LayerNorm",
    }


def encoder_block(prefix: str) -> dict[str, str]:
    """One layer of them."""
    layer = f"{prefix}encoder.layer.{{i}}."
    return {
        "attention.out": f"{layer}attention.output.dense",
        "attention_norm": f"{layer}attention.output.LayerNorm",
        "ffn.up": f"{layer}intermediate.dense",
        "ffn.down": f"{layer}output.dense",
        "ffn_norm": f"{layer}output.LayerNorm",
    }


def encoder_qkv(prefix: str) -> tuple[str, ...]:
    """Its query, key and value."""
    return tuple(f"{prefix}encoder.layer.{{i}}.attention.self.{part}" for part in ("query", "key", "value"))


BERT_LAYOUT = Layout(
    model_type="bert",
    prefix="bert.",
    fields=FIELDS,
    modules=encoder_modules("bert."),
    block=encoder_block("bert."),
    qkv=encoder_qkv("bert."),
    heads={
        "mlm": {
            "transform.dense": "cls.predictions.transform.dense",
            "transform.norm": "cls.predictions.transform.LayerNorm",
            "scores.bias": "cls.predictions.bias",
        },
        "pair": {"pool": "bert.pooler.dense", "scores": "cls.seq_relationship"},
        "class": {"pool": "bert.pooler.dense", "scores": "classifier"},
    },
    architectures={
        ("mlm", "pair"): "BertForPreTraining",
        ("mlm",): "BertForMaskedLM",
        ("class",): "BertForSequenceClassification",
        (): "BertModel",
    },
    output="cls.predictions.decoder",
)

# appendix A.2; nine tenths of the steps see 128 tokens, for the price of attention
PRESET = Preset(lr=1e-4, steps=1_000_000, batch=256, length=512, warmup=10_000, bias_correction=False, opening=(0.9, 128))
# ours, for CPUs: short runs need the first steps whole
SHORT = Preset(lr=1e-3, steps=1000, batch=64, length=128, warmup=100, source=OURS)

BERT = Family(
    name="bert",
    paper="Devlin et al. 2019, BERT: Pre-training of Deep Bidirectional Transformers",
    sizes={
        "base": bert_size(12, 768, 12),
        "large": bert_size(24, 1024, 16),
        "base-cased": bert_size(12, 768, 12, vocab=28_996),
        "large-cased": bert_size(24, 1024, 16, vocab=28_996),
        # Turc et al. 2019, table 1: mini (4 layers, 256 wide) is the size for a demo on two cores
        "tiny": bert_size(2, 128, 2),
        "mini": bert_size(4, 256, 4),
        "small": bert_size(4, 512, 8),
        "medium": bert_size(8, 512, 8),
    },
    tokenizer="wordpiece",
    examples="pairs",
    objective="mlm+nsp",
    heads=("mlm", "pair"),
    layout=BERT_LAYOUT,
    presets={
        "": PRESET,
        **dict.fromkeys(("tiny", "mini"), SHORT),
        **dict.fromkeys(("small", "medium"), replace(SHORT, lr=5e-4)),
    },
    masking=Masking(),
)
