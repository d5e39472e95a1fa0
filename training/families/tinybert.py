"""TinyBERT: a BERT so small that a larger one must teach it, layer by layer (Jiao et al. 2020, section 4.2)."""

from __future__ import annotations

from dataclasses import replace

from infra.errors import ConfigError
from training.backbone.config import BackboneConfig
from training.families.bert import BERT, bert_size
from training.families.family import Preset


def tinybert_size(layers: int, width: int, ffn: int) -> BackboneConfig:
    """M, d' and d'_i of section 4.2. Twelve heads as the teacher has: their maps are compared one by one (equation 7)."""
    return replace(bert_size(layers, width, 12), ffn=ffn, truncated_init=False)


def tiny_of(teacher: BackboneConfig) -> BackboneConfig:
    """A student for a teacher of another size: half its layers and, like the paper's of 4 layers, about two fifths of its width."""
    if teacher.layers % 2:
        raise ConfigError(f"a teacher of {teacher.layers} layers has no half; give it an even number of layers or the student a size")
    head = round(teacher.head_width * 312 / 768)
    return replace(teacher, layers=teacher.layers // 2, width=head * teacher.heads, embedding_width=0, ffn=4 * head * teacher.heads)


RELEASED = "as the released code has it: the paper names three epochs and the length"
TINYBERT = replace(
    BERT,
    name="tinybert",
    paper="Jiao et al. 2020, TinyBERT: Distilling BERT for Natural Language Understanding",
    sizes={
        "4": tinybert_size(4, 312, 1200),
        "6": tinybert_size(6, 768, 3072),
        **{name: replace(tiny_of(BERT.sizes[name]), truncated_init=False) for name in ("tiny", "mini", "small", "medium")},
    },
    # general distillation: three epochs of Wikipedia (2500M words) in sequences of 128, all else as BERT's pretraining; the released
    # code's batch of 256 makes that 229,000 steps. Its rate of 5e-5, decay of 1e-4 and warm-up of a tenth stand for what the paper
    # does not say. The heads are those of the released student; only distillation trains it without them.
    presets={
        "": Preset(lr=5e-5, steps=229_000, batch=256, length=128, warmup=22_900, weight_decay=1e-4, source=RELEASED),
        **{size: BERT.presets[size] for size in ("tiny", "mini", "small", "medium")},
    },
)
