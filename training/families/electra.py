"""ELECTRA: a discriminator that learns from every token, and the generator that fools it (Clark et al. 2020, section 3 and appendix A)."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from infra.artifact import Artifact
from infra.errors import ConfigError
from training.backbone.config import BackboneConfig
from training.backbone.exchange import Layout
from training.backbone.transformer import Backbone, count_parameters, shapes_only
from training.families.bert import BERT, FIELDS, encoder_block, encoder_modules, encoder_qkv
from training.families.family import OURS, Family, Preset, Use, prepare_folder
from training.feed.masking import Masking
from training.objectives.rtd import GeneratorDiscriminator
from training.objectives.tower import Tower

GENERATOR = "generator"  # the folder of the second model in an export


def electra_size(layers: int, width: int, heads: int, embedding_width: int = 0, generator: float = 1 / 4) -> BackboneConfig:
    """BERT's configuration in the sizes of table 6; the generator is a quarter as wide, a third for base, as wide for small++."""
    shape = replace(BERT.sizes["base"], layers=layers, width=width, heads=heads, ffn=4 * width)
    shape = replace(shape, embedding_width=embedding_width or width, truncated_init=True, generator=generator)
    return replace(shape, head_activation="gelu")  # in the generator's head the library has no other


def generator_of(c: BackboneConfig) -> BackboneConfig:
    """As deep, a part as wide, with heads as wide as the discriminator's and at least one; the embedding is the discriminator's."""
    if not c.generator:
        raise ConfigError("generator is 0: say how wide the generator is, as a part of the discriminator's width; 0.25 is usual")
    width, ffn = c.width * c.generator, c.ffn * c.generator
    heads = max(1, int(width) // c.head_width)
    if not (width.is_integer() and ffn.is_integer()) or int(width) % heads:
        raise ConfigError(
            f"a generator of {c.generator:.4g} of the discriminator would be {width:.4g} wide with {heads} heads and ffn {ffn:.4g}: "
            "choose width, heads, ffn and generator so that these are whole"
        )
    return replace(c, width=int(width), heads=heads, ffn=int(ffn), embedding_width=c.embedding_width, generator=0.0)


class Electra(Family):
    """A family of two models: the one that is kept, and the one that only teaches it."""

    def _assemble(self, backbone: BackboneConfig) -> Tower:
        return GeneratorDiscriminator(Backbone(generator_of(backbone)), Backbone(backbone))

    def parameters(self, backbone: BackboneConfig) -> int:
        with shapes_only():
            body = Backbone(backbone)
            return count_parameters(Tower(body, [self.head("rtd", body)]))

    def trained_parameters(self, backbone: BackboneConfig) -> int:
        with shapes_only():
            return count_parameters(self.build(backbone))

    def parts(self, tower: Tower) -> dict[str, Tower]:
        """The discriminator stands in the folder itself, the generator, if there is one, in `generator/`."""
        if not isinstance(tower, GeneratorDiscriminator):
            return {"": tower}
        return {GENERATOR: Tower(tower.generator, [tower.head("mlm")]), "": Tower(tower.backbone, [tower.head("rtd")])}

    def export(self, tower: Tower, folder: Path, tokenizer: Artifact | Path | None = None, use: Use | None = None) -> None:
        for name, part in self.parts(tower).items():
            super().export(part, prepare_folder(Path(folder) / name) if name else folder, tokenizer, use)

    def load(self, folder: Path, vocab: int = 0) -> Tower:
        tower, second = super().load(folder, vocab), Path(folder) / GENERATOR
        if not second.exists() or [h.name for h in tower.heads] != ["rtd"]:
            return tower
        guess = super().load(second, vocab)
        tower.backbone.config = replace(tower.config, generator=guess.config.width / tower.config.width)
        whole = GeneratorDiscriminator(Backbone(guess.config), tower.backbone)
        whole.generator.load_state_dict(guess.backbone.state_dict())  # with the embedding that both files hold
        whole.head("mlm").load_state_dict(guess.head("mlm").state_dict())
        whole.head("rtd").load_state_dict(tower.head("rtd").state_dict())
        return whole


BASE = Preset(lr=2e-4, steps=766_000, batch=256, length=512, warmup=10_000, bias_correction=False)
SMALL = Preset(lr=5e-4, steps=1_000_000, batch=128, length=128, warmup=10_000, bias_correction=False)

ELECTRA = Electra(
    name="electra",
    paper="Clark et al. 2020, ELECTRA: Pre-training Text Encoders as Discriminators Rather Than Generators",
    sizes={
        "small": electra_size(12, 256, 4, embedding_width=128),
        "small++": electra_size(12, 256, 4, embedding_width=128, generator=1.0),  # what was released as small
        "base": electra_size(12, 768, 12, generator=1 / 3),
        "large": electra_size(24, 1024, 16),
        # for CPUs: ours, in no paper
        "tiny": electra_size(4, 256, 4, embedding_width=128),
        "mini": electra_size(6, 256, 4, embedding_width=128),
        "medium": electra_size(8, 512, 8, embedding_width=128),
    },
    tokenizer="wordpiece",
    examples="pairs",  # build_pretraining_dataset.py: two segments in a row and no task of their own (its tenth with one is left out)
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
        output="generator_lm_head",
    ),
    presets={  # appendix A, table 6
        "": BASE,
        "small": SMALL,
        "small++": replace(
            SMALL, steps=4_000_000, length=512, source="by the release's README"
        ),  # the release's README; section 3.4: longer, on longer sequences
        "large": replace(
            BASE, steps=1_750_000, batch=2048, mask_rate=0.25
        ),  # the released ELECTRA-1.75M; 400,000 steps are table 3's other
        **dict.fromkeys(("tiny", "mini", "medium"), replace(SMALL, steps=2000, batch=64, warmup=100, source=OURS)),
    },
    masking=Masking(mask=0.85, random=0.0, with_replacement=True),  # the released code: no random tokens, some places drawn twice
    pool="gelu",
)
