"""What a transformer is, in numbers: one class for GPT, BERT and all their kin."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from infra.errors import ConfigError

Share = Literal["none", "attention", "ffn", "all"]
Activation = Literal["gelu", "gelu_tanh", "relu", "silu", "tanh", "quick_gelu"]
CHOICES = {
    "norm": ("pre", "post"),
    "activation": get_args(Activation),
    "head_activation": ("", *get_args(Activation)),
    "share": ("none", "attention", "ffn", "all"),
}


@dataclass(frozen=True, kw_only=True)
class BackboneConfig:
    """Checked when it is made: what cannot be built is a ConfigError that says what to change."""

    vocab: int  # tokens of the tokenizer
    width: int
    layers: int
    heads: int
    positions: int  # the longest sequence; the table has `position_offset` rows more
    causal: bool
    norm: Literal["pre", "post"]  # the layer norm before each sublayer (GPT-2) or after it (GPT-1, BERT)
    embedding_norm: bool  # BERT and its kin; GPT-1 is "post" without it
    activation: Activation = "gelu"
    head_activation: Activation | Literal[""] = ""  # of the masked-token head; "": as `activation`
    padded_vocab: int = 0  # rows of the embedding table, those after `vocab` are padding and never predicted; 0: `vocab` rows
    ffn: int = 0  # 0: four times the width
    embedding_width: int = 0  # 0: the width; another value factorises the embedding (ALBERT, section 3.1)
    segments: int = 0  # 0: no segment embedding, segment ids of a batch are ignored
    share: Share = "none"  # what all layers have in common, with its layer norm (ALBERT, table 4)
    dropout: float = 0.1  # after the embedding and after each sublayer
    attention_dropout: float | None = None  # on the attention probabilities; None: as `dropout`
    embedding_dropout: float | None = None  # after the embedding; None: as `dropout`
    eps: float = 1e-12
    init_std: float = 0.02
    truncated_init: bool = False  # cut at two deviations (BERT's released code)
    residual_init: bool = False  # projections into the residual stream start at init_std / sqrt(2 layers) (GPT-2, section 2.3)
    position_offset: int = 0  # RoBERTa counts real tokens from 2 on, row 1 is padding's
    tied: bool = True  # the output matrix is the embedding; False: a matrix of its own
    scale_attention: bool = True  # attention logits are divided by the root of the head's width (Vaswani et al. 2017, equation 1)
    scale_by_layer: bool = False  # and by the layer's number, counted from 1 (GPT-2's scale_attn_by_inverse_layer_idx)
    band: int = 0  # 0: dense; else every second layer sees only the latest `band` positions (GPT-3, section 2.1)
    generator: float = (
        0.0  # 0: none; else a second model, this part as wide, proposes the tokens that this one doubts (ELECTRA, section 3.2)
    )

    def __post_init__(self) -> None:
        object.__setattr__(self, "ffn", self.ffn or 4 * self.width)
        object.__setattr__(self, "embedding_width", self.embedding_width or self.width)
        self._check_choices()
        self._check_sizes()
        self._check_rates()

    def _check_choices(self) -> None:
        for name, known in CHOICES.items():
            if getattr(self, name) not in known:
                raise ConfigError(f"{name} is {getattr(self, name)!r}; choose one of {', '.join(known)}")

    def _check_sizes(self) -> None:
        for name in ("vocab", "width", "layers", "heads", "positions", "ffn", "embedding_width"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be at least 1")
        if self.padded_vocab and self.padded_vocab < self.vocab:
            raise ConfigError(f"padded_vocab is {self.padded_vocab}; it must be 0 (none) or at least the vocabulary's {self.vocab}")
        for name in ("segments", "position_offset", "band"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 0 (none) or more")
        if self.width % self.heads:
            near = [h for h in range(1, self.width + 1) if self.width % h == 0]
            best = min(near, key=lambda h: abs(h - self.heads))
            raise ConfigError(f"width {self.width} is not a multiple of heads {self.heads}; {best} heads would do")
        if self.band and not self.causal:
            raise ConfigError(f"band {self.band} is for models that read left to right; set causal, or band to 0")

    def _check_rates(self) -> None:
        for name in ("dropout", "attention_dropout", "embedding_dropout"):
            rate = getattr(self, name)
            if rate is not None and not 0.0 <= rate < 1.0:
                raise ConfigError(f"{name} is {rate}; it must be at least 0 and below 1")
        for name in ("eps", "init_std"):
            if getattr(self, name) <= 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be above 0")
        if not 0.0 <= self.generator <= 1.0:
            raise ConfigError(f"generator is {self.generator}; it must be a part of this model's width, at most 1, or 0 for none")

    @property
    def attention_rate(self) -> float:
        """The dropout on attention probabilities."""
        return self.dropout if self.attention_dropout is None else self.attention_dropout

    @property
    def embedding_rate(self) -> float:
        """The dropout after the embedding."""
        return self.dropout if self.embedding_dropout is None else self.embedding_dropout

    @property
    def vocab_rows(self) -> int:
        """Rows of the embedding table."""
        return self.padded_vocab or self.vocab

    @property
    def head_width(self) -> int:
        return self.width // self.heads
