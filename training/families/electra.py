"""ELECTRA: a discriminator that learns from every token, and the generator that fools it (Clark et al. 2020, section 3 and appendix A)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from infra.artifact import Artifact
from infra.errors import ConfigError
from training.backbone.config import BackboneConfig
from training.backbone.exchange import Layout
from training.backbone.transformer import Backbone, count_parameters
from training.families.bert import BERT, FIELDS, encoder_block, encoder_modules, encoder_qkv
from training.families.family import Family, Preset, prepare_folder
from training.feed.masking import Masking
from training.objectives.rtd import GeneratorDiscriminator
from training.objectives.tower import Tower

GENERATOR = "generator"  # the folder of the second model in an export


def electra_size(layers: int, width: int, heads: int, embedding_width: int = 0) -> BackboneConfig:
    """BERT's configuration in the sizes of table 6."""
    shape = replace(BERT.sizes["base"], layers=layers, width=width, heads=heads, ffn=4 * width)
    return replace(shape, embedding_width=embedding_width or width, truncated_init=True)


def generator_of(discriminator: BackboneConfig) -> BackboneConfig:
    """As deep, and a part as wide: a third of base, a quarter of the others (table 6); the embedding is the discriminator's."""
    part = 3 if discriminator.width == 768 else 4
    if discriminator.width % part or discriminator.heads % part or discriminator.ffn % part:
        raise ConfigError(f"the generator is 1/{part} of the discriminator: make width, heads and ffn multiples of {part}")
    c = discriminator
    return replace(c, width=c.width // part, heads=c.heads // part, ffn=c.ffn // part, embedding_width=c.embedding_width)


class Electra(Family):
    """A family of two models: the one that is kept, and the one that only teaches it."""

    def _assemble(self, backbone: BackboneConfig) -> Tower:
        return GeneratorDiscriminator(Backbone(generator_of(backbone)), Backbone(backbone))

    def parameters(self, backbone: BackboneConfig) -> int:
        with torch.device("meta"):
            body = Backbone(backbone)
            return count_parameters(Tower(body, [self.head("rtd", body)]))

    def trained_parameters(self, backbone: BackboneConfig) -> int:
        with torch.device("meta"):
            return count_parameters(self.build(backbone))

    def parts(self, tower: Tower) -> dict[str, Tower]:
        """The discriminator stands in the folder itself, the generator, if there is one, in `generator/`."""
        if not isinstance(tower, GeneratorDiscriminator):
            return {"": tower}
        return {GENERATOR: Tower(tower.generator, [tower.head("mlm")]), "": Tower(tower.backbone, [tower.head("rtd")])}

    def export(self, tower: Tower, folder: Path, tokenizer: Artifact | Path | None = None) -> None:
        for name, part in self.parts(tower).items():
            super().export(part, prepare_folder(Path(folder) / name) if name else folder, tokenizer)

    def load(self, folder: Path) -> Tower:
        tower, second = super().load(folder), Path(folder) / GENERATOR
        if not second.exists() or [h.name for h in tower.heads] != ["rtd"]:
            return tower
        guess = super().load(second)
        whole = GeneratorDiscriminator(Backbone(guess.config), tower.backbone)
        whole.generator.load_state_dict(guess.backbone.state_dict())  # with the embedding that both files hold
        whole.head("mlm").load_state_dict(guess.head("mlm").state_dict())
        whole.head("rtd").load_state_dict(tower.head("rtd").state_dict())
        return whole


ELECTRA = Electra(
    name="electra",
    paper="Clark et al. 2020, ELECTRA: Pre-training Text Encoders as Discriminators Rather Than Generators",
    sizes={
        "small": electra_size(12, 256, 4, embedding_width=128),
        "base": electra_size(12, 768, 12),
        "large": electra_size(24, 1024, 16),
        "tiny": electra_size(4, 256, 4, embedding_width=128),  # ours, for CPUs
    },
    tokenizer="wordpiece",
    examples="blocks",
    objective="mlm",
    heads=("mlm", "rtd"),
    layout=Layout(
        model_type="electra",
        prefix="electra.",
        fields={**FIELDS, "embedding_width": ("embedding_size",)},
        modules={**encoder_modules("electra."), "embedding.up": "electra.embeddings_project"},
        block=encoder_block("electra."),
        qkv=encoder_qkv("electra."),
        heads={
            "mlm": {
                "transform.dense": "generator_predictions.dense",
                "transform.norm": "generator_predictions.LayerNorm",
                "scores.bias": "generator_lm_head.bias",
            },
            "rtd": {"dense": "discriminator_predictions.dense", "scores": "discriminator_predictions.dense_prediction"},
            "class": {"pool": "classifier.dense", "scores": "classifier.out_proj"},
        },
        architectures={
            ("rtd",): "ElectraForPreTraining",
            ("mlm",): "ElectraForMaskedLM",
            ("class",): "ElectraForSequenceClassification",
            (): "ElectraModel",
        },
    ),
    presets={  # appendix A, table 6
        "": Preset(lr=2e-4, steps=766_000, batch=256, length=512, warmup=10_000, bias_correction=False),
        "small": Preset(lr=5e-4, steps=1_000_000, batch=128, length=128, warmup=10_000, bias_correction=False),
        "large": Preset(lr=2e-4, steps=400_000, batch=2048, length=512, warmup=10_000, bias_correction=False),
        "tiny": Preset(lr=5e-4, steps=2000, batch=64, length=128, warmup=100, bias_correction=False),
    },
    masking=Masking(mask=0.85, random=0.0, with_replacement=True),  # the released code: no random tokens, some places drawn twice
    pool="gelu",
)
