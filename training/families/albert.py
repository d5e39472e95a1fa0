"""ALBERT: BERT with one layer used many times, a narrow embedding, and the order of sentences (Lan et al. 2020, section 3)."""

from __future__ import annotations

from dataclasses import replace

from training.backbone.config import BackboneConfig
from training.backbone.exchange import Layout
from training.families.bert import BERT, FIELDS
from training.families.family import OURS, Preset
from training.feed.masking import Masking


def albert_size(layers: int, width: int, heads: int, dropout: float = 0.0) -> BackboneConfig:
    """Table 1. The released second version has no dropout; of the first only xxlarge has none (section 4.9).

    Both are computed with the tanh GELU in the released code; the library reads the first version's as the erf form.
    """
    shape = replace(BERT.sizes["base"], layers=layers, width=width, heads=heads, ffn=4 * width, embedding_width=128)
    return replace(shape, vocab=30_000, share="all", activation="gelu_tanh", dropout=dropout)


# section 4.1: LAMB, rate and batch; the released code's 3125 steps of warm-up, and no bias correction
PRESET = Preset(lr=1.76e-3, steps=125_000, batch=4096, length=512, warmup=3125, optimiser="lamb", bias_correction=False)
SECOND = "with the paper's rates and the steps of the second release's README"
GROUP = "albert.encoder.albert_layer_groups.{i}.albert_layers.0."
ALBERT = replace(
    BERT,
    name="albert",
    paper="Lan et al. 2020, ALBERT: A Lite BERT for Self-supervised Learning",
    sizes={
        "base": albert_size(12, 768, 12),
        "large": albert_size(24, 1024, 16),
        "xlarge": albert_size(24, 2048, 16),
        "xxlarge": albert_size(12, 4096, 64),
        "base-v1": albert_size(12, 768, 12, dropout=0.1),
        "large-v1": albert_size(24, 1024, 16, dropout=0.1),
        "xlarge-v1": albert_size(24, 2048, 16, dropout=0.1),
        "xxlarge-v1": albert_size(12, 4096, 64),
        # for CPUs: ours, in no paper
        "tiny": albert_size(4, 256, 4),
        "mini": albert_size(6, 384, 6),
        "small": albert_size(6, 512, 8),
        "medium": albert_size(8, 512, 8),
    },
    tokenizer="sentencepiece_unigram",
    objective="mlm+sop",
    layout=Layout(
        model_type="albert",
        prefix="albert.",
        fields={**FIELDS, "embedding_width": ("embedding_size",), "groups": ("num_hidden_groups",)},
        modules={
            "embedding.token": "albert.embeddings.word_embeddings",
            "embedding.position": "albert.embeddings.position_embeddings",
            "embedding.segment": "albert.embeddings.token_type_embeddings",
            "embedding.norm": "albert.embeddings.LayerNorm",
            "embedding.up": "albert.encoder.embedding_hidden_mapping_in",
        },
        block={
            "attention.out": f"{GROUP}attention.dense",
            "attention_norm": f"{GROUP}attention.LayerNorm",
            "ffn.up": f"{GROUP}ffn",
            "ffn.down": f"{GROUP}ffn_output",
            "ffn_norm": f"{GROUP}full_layer_layer_norm",
        },
        qkv=tuple(f"{GROUP}attention.{part}" for part in ("query", "key", "value")),
        heads={
            "mlm": {"transform.dense": "predictions.dense", "transform.norm": "predictions.LayerNorm", "scores.bias": "predictions.bias"},
            "pair": {"pool": "albert.pooler", "scores": "sop_classifier.classifier"},
            "class": {"pool": "albert.pooler", "scores": "classifier"},
        },
        architectures={
            ("mlm", "pair"): "AlbertForPreTraining",
            ("mlm",): "AlbertForMaskedLM",
            ("class",): "AlbertForSequenceClassification",
            (): "AlbertModel",
        },
        fixed={"inner_group_num": 1, "classifier_dropout_prob": 0.1},
        output="predictions.decoder",
        groups=True,
    ),
    presets={
        "": replace(PRESET, steps=3_000_000, source=SECOND),  # the second version, by the release's README; base 10M
        "base": replace(PRESET, steps=10_000_000, source=SECOND),
        **dict.fromkeys(("base-v1", "large-v1", "xlarge-v1"), PRESET),
        "xxlarge-v1": replace(PRESET, steps=1_500_000),
        **dict.fromkeys(("tiny", "mini", "small", "medium"), replace(PRESET, steps=1000, batch=64, length=128, warmup=100, source=OURS)),
    },
    masking=Masking(unit="span", ngram=3),  # section 4.1: runs of up to three words
)
