"""RoBERTa: BERT without sentence pairs, masked anew each time it is seen, on a byte-level vocabulary (Liu et al. 2019, section 4)."""

from __future__ import annotations

from dataclasses import replace

from training.backbone.config import BackboneConfig
from training.backbone.exchange import Layout
from training.families.bert import BERT, FIELDS, encoder_block, encoder_modules, encoder_qkv
from training.families.distilbert import DISTILBERT
from training.families.family import Preset

VOCAB = 50_265


def roberta_size(bert: BackboneConfig) -> BackboneConfig:
    """As released: eps 1e-5, one segment row, 512 positions counted from 2 on, plain normal weights."""
    return replace(bert, vocab=VOCAB, segments=1, eps=1e-5, position_offset=2, truncated_init=False, head_activation="gelu")


ROBERTA = replace(
    BERT,
    name="roberta",
    paper="Liu et al. 2019, RoBERTa: A Robustly Optimized BERT Pretraining Approach",
    sizes={name: roberta_size(BERT.sizes[name]) for name in ("base", "large", "tiny", "mini", "small", "medium")},
    tokenizer="byte_bpe",
    examples="blocks",  # section 4.2: FULL-SENTENCES, no NSP
    blocks="full_sentences",
    objective="mlm",
    heads=("mlm",),
    layout=Layout(
        model_type="roberta",
        prefix="roberta.",
        fields=FIELDS,
        modules=encoder_modules("roberta."),
        block=encoder_block("roberta."),
        qkv=encoder_qkv("roberta."),
        heads={
            "mlm": {"transform.dense": "lm_head.dense", "transform.norm": "lm_head.layer_norm", "scores.bias": "lm_head.bias"},
            "class": {"pool": "classifier.dense", "scores": "classifier.out_proj"},
        },
        architectures={("mlm",): "RobertaForMaskedLM", ("class",): "RobertaForSequenceClassification", (): "RobertaModel"},
        fixed={"pad_token_id": 1},
        output="lm_head.decoder",
    ),
    separators=2,
    segment_ids=False,
    presets={  # table 9
        "": Preset(lr=6e-4, steps=500_000, batch=8192, length=512, warmup=24_000, betas=(0.9, 0.98), clip=0.0),
        "large": Preset(lr=4e-4, steps=500_000, batch=8192, length=512, warmup=30_000, betas=(0.9, 0.98), clip=0.0),
        **{size: replace(BERT.presets[size], betas=(0.9, 0.98)) for size in ("tiny", "mini", "small", "medium")},
    },
)

DISTILROBERTA = replace(
    ROBERTA,
    name="distilroberta",
    paper="Sanh et al. 2019, DistilBERT (the RoBERTa variant of its release)",
    sizes={name: replace(size, layers=size.layers // 2) for name, size in ROBERTA.sizes.items() if name != "large"},
    presets={**ROBERTA.presets, "base": DISTILBERT.presets[""]},
)
