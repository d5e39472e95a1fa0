"""DistilBERT: BERT with every second layer, no segments and no pooler (Sanh et al. 2019, section 3)."""

from __future__ import annotations

from dataclasses import replace

from infra.errors import ConfigError
from training.backbone.config import BackboneConfig
from training.backbone.exchange import Layout
from training.families.bert import BERT
from training.families.family import Preset


def half(teacher: BackboneConfig) -> BackboneConfig:
    """The student of a teacher: half as deep, as wide, without segments (folded into the positions by whoever copies weights)."""
    if teacher.layers % 2:
        raise ConfigError(f"a teacher of {teacher.layers} layers has no half; give it an even number of layers or the student a size")
    return replace(teacher, layers=teacher.layers // 2, segments=0, truncated_init=False)


DISTILLED = "as the released training code has it: the paper names the batch, neither rates nor steps"
LAYER = "distilbert.transformer.layer.{i}."
DISTILBERT = replace(
    BERT,
    name="distilbert",
    paper="Sanh et al. 2019, DistilBERT, a distilled version of BERT",
    sizes={name: half(BERT.sizes[name]) for name in ("base", "base-cased", "tiny", "mini", "small", "medium")},
    objective="mlm",
    heads=("mlm",),
    layout=Layout(
        model_type="distilbert",
        prefix="distilbert.",
        fields={
            "vocab": ("vocab_size",),
            "width": ("dim",),
            "layers": ("n_layers",),
            "heads": ("n_heads",),
            "positions": ("max_position_embeddings",),
            "ffn": ("hidden_dim",),
            "activation": ("activation",),
            "dropout": ("dropout",),
            "attention_dropout": ("attention_dropout",),
        },
        modules={
            "embedding.token": "distilbert.embeddings.word_embeddings",
            "embedding.position": "distilbert.embeddings.position_embeddings",
            "embedding.norm": "distilbert.embeddings.LayerNorm",
        },
        block={
            "attention.out": f"{LAYER}attention.out_lin",
            "attention_norm": f"{LAYER}sa_layer_norm",
            "ffn.up": f"{LAYER}ffn.lin1",
            "ffn.down": f"{LAYER}ffn.lin2",
            "ffn_norm": f"{LAYER}output_layer_norm",
        },
        qkv=tuple(f"{LAYER}attention.{part}_lin" for part in "qkv"),
        heads={
            "mlm": {"transform.dense": "vocab_transform", "transform.norm": "vocab_layer_norm", "scores.bias": "vocab_projector.bias"},
            "class": {"pool": "pre_classifier", "scores": "classifier"},
        },
        architectures={("mlm",): "DistilBertForMaskedLM", ("class",): "DistilBertForSequenceClassification", (): "DistilBertModel"},
        fixed={"sinusoidal_pos_embds": False, "seq_classif_dropout": 0.2},
        output="vocab_projector",
    ),
    presets={  # batch: section 3 (up to 4000); the rest as the released training code has it; the paper tells no number of steps
        "": Preset(
            lr=5e-4, steps=100_000, batch=4000, length=512, warmup=5000, betas=(0.9, 0.98), weight_decay=0.0, clip=5.0, source=DISTILLED
        ),
        **{size: BERT.presets[size] for size in ("tiny", "mini", "small", "medium")},
    },
    pool="relu",
    class_dropout=0.2,
)
