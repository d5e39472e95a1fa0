"""GPT with alternating dense and locally banded attention, for `trust_remote_code=True`: no class of transformers computes it.

GPT-2's architecture (Radford et al. 2019), but every second layer attends to the latest `band` positions alone (Brown et al. 2020,
section 2.1; Child et al. 2019). Exports of banded models carry a copy of this file; it needs torch and transformers (4.57 or 5) only.
Letters: B sequences, L new positions, P cached and new positions, H heads, D width.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import DynamicCache, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPast, CausalLMOutputWithPast, SequenceClassifierOutputWithPast
from transformers.pytorch_utils import Conv1D

# later versions of transformers call the key-value cache `cache`, earlier ones `past_key_values`
CACHE = "cache" if any(field.name == "cache" for field in fields(CausalLMOutputWithPast)) else "past_key_values"
ACTIVATIONS = {"gelu_new": nn.GELU(approximate="tanh"), "gelu": nn.GELU(), "relu": nn.ReLU()}


class BandedGPTConfig(PretrainedConfig):
    """GPT-2's fields, and band: how many of the latest positions, its own included, a token sees in layers 1, 3, 5, ..."""

    model_type = "textmill-banded"
    keys_to_ignore_at_inference = [CACHE]  # noqa: RUF012
    attribute_map = {  # noqa: RUF012
        "hidden_size": "n_embd",
        "max_position_embeddings": "n_positions",
        "num_attention_heads": "n_head",
        "num_hidden_layers": "n_layer",
    }

    def __init__(
        self,
        vocab_size: int = 50257,
        n_positions: int = 2048,
        n_embd: int = 768,
        n_layer: int = 12,
        n_head: int = 12,
        n_inner: int | None = None,
        activation_function: str = "gelu_new",
        layer_norm_epsilon: float = 1e-5,
        embd_pdrop: float = 0.1,
        resid_pdrop: float = 0.1,
        attn_pdrop: float = 0.1,
        initializer_range: float = 0.02,
        band: int = 128,
        use_cache: bool = True,
        **more: Any,
    ) -> None:
        self.vocab_size, self.n_positions, self.n_embd, self.n_layer, self.n_head = vocab_size, n_positions, n_embd, n_layer, n_head
        self.n_inner, self.activation_function, self.layer_norm_epsilon = n_inner, activation_function, layer_norm_epsilon
        self.embd_pdrop, self.resid_pdrop, self.attn_pdrop = embd_pdrop, resid_pdrop, attn_pdrop
        self.initializer_range, self.band, self.use_cache = initializer_range, band, use_cache
        super().__init__(**more)


class Attention(nn.Module):
    """Softmax attention of all heads under a mask that says who sees whom."""

    def __init__(self, config: BandedGPTConfig, layer: int) -> None:
        super().__init__()
        self.heads, self.layer, self.dropout = config.n_head, layer, config.attn_pdrop
        self.c_attn, self.c_proj = Conv1D(3 * config.n_embd, config.n_embd), Conv1D(config.n_embd, config.n_embd)

    def forward(self, x_BLD: Tensor, sees_B1LP: Tensor, cache: Any) -> Tensor:
        batch, length, width = x_BLD.shape
        q, k, v = (part.view(batch, length, self.heads, -1).transpose(1, 2) for part in self.c_attn(x_BLD).split(width, dim=2))
        if cache is not None:
            k, v = cache.update(k, v, self.layer)
        dropout = self.dropout if self.training else 0.0
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=sees_B1LP, dropout_p=dropout)
        return self.c_proj(mixed.transpose(1, 2).reshape(batch, length, width))


class FeedForward(nn.Module):
    """Two dense layers with an activation between them."""

    def __init__(self, config: BandedGPTConfig) -> None:
        super().__init__()
        inner = config.n_inner or 4 * config.n_embd
        self.c_fc, self.c_proj = Conv1D(inner, config.n_embd), Conv1D(config.n_embd, inner)
        self.act = ACTIVATIONS[config.activation_function]

    def forward(self, x_BLD: Tensor) -> Tensor:
        return self.c_proj(self.act(self.c_fc(x_BLD)))


class Block(nn.Module):
    """Attention and feed-forward, each after a layer norm and added to what came in."""

    def __init__(self, config: BandedGPTConfig, layer: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.ln_2 = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.attn, self.mlp, self.drop = Attention(config, layer), FeedForward(config), nn.Dropout(config.resid_pdrop)

    def forward(self, x_BLD: Tensor, sees_B1LP: Tensor, cache: Any) -> Tensor:
        x_BLD = x_BLD + self.drop(self.attn(self.ln_1(x_BLD), sees_B1LP, cache))
        return x_BLD + self.drop(self.mlp(self.ln_2(x_BLD)))


class BandedGPTPreTrainedModel(PreTrainedModel):
    """What the three models share."""

    config_class = BandedGPTConfig
    base_model_prefix = "transformer"
    _no_split_modules = ["Block"]  # noqa: RUF012
    _supports_sdpa = True

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.Linear | nn.Embedding | Conv1D):
            nn.init.normal_(module.weight, std=self.config.initializer_range)
            if isinstance(bias := getattr(module, "bias", None), Tensor):
                nn.init.zeros_(bias)


class BandedGPTModel(BandedGPTPreTrainedModel):
    """Tokens to hidden states."""

    def __init__(self, config: BandedGPTConfig) -> None:
        super().__init__(config)
        self.wte, self.wpe = nn.Embedding(config.vocab_size, config.n_embd), nn.Embedding(config.n_positions, config.n_embd)
        self.drop = nn.Dropout(config.embd_pdrop)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd, eps=config.layer_norm_epsilon)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        return self.wte

    def set_input_embeddings(self, value: nn.Module) -> None:
        self.wte = cast("nn.Embedding", value)

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        inputs_embeds: Tensor | None = None,
        use_cache: bool | None = None,
        cache: Any = None,
        past_key_values: Any = None,
        **_: Any,
    ) -> BaseModelOutputWithPast:
        """attention_mask [B, P]: 0 where padding is, cached positions included. position_ids [B, L]: from 0 on when left out."""
        x_BLD = self.wte(input_ids) if inputs_embeds is None else inputs_embeds
        use_cache = self.config.use_cache and not self.training if use_cache is None else use_cache
        cache = past_key_values if cache is None else cache
        if use_cache and cache is None:
            cache = DynamicCache()
        past = cache.get_seq_length() if cache is not None else 0
        index_L = torch.arange(past, past + x_BLD.shape[1], device=x_BLD.device)
        x_BLD = self.drop(x_BLD + self.wpe(index_L[None] if position_ids is None else position_ids))
        sees = [self.sees(index_L, attention_mask, band) for band in (0, self.config.band)]
        for layer, block in enumerate(self.h):
            x_BLD = block(x_BLD, sees[layer % 2], cache)
        return BaseModelOutputWithPast(last_hidden_state=self.ln_f(x_BLD), **{CACHE: cache if use_cache else None})

    def sees(self, index_L: Tensor, keep_BP: Tensor | None, band: int) -> Tensor:
        """[B or 1, 1, L, P]: no later position, none that is padding, and of a band its latest ones; a position sees itself always."""
        keys_P = torch.arange(int(index_L[-1]) + 1, device=index_L.device)
        back_LP = index_L[:, None] - keys_P[None]
        sees = (back_LP >= 0) & (back_LP < band if band else back_LP >= 0)
        if keep_BP is None:
            return sees[None, None]
        return (sees & keep_BP[:, None, None, : len(keys_P)].bool()) | (back_LP == 0)


class BandedGPTLMHeadModel(BandedGPTPreTrainedModel, GenerationMixin):
    """Scores of the next token, by the embedding matrix."""

    def __init__(self, config: BandedGPTConfig) -> None:
        super().__init__(config)
        self.transformer = BandedGPTModel(config)
        self.post_init()

    def forward(self, input_ids: Tensor | None = None, labels: Tensor | None = None, logits_to_keep: int = 0, **more: Any) -> Any:
        more.pop("return_dict", None)
        out = self.transformer(input_ids, **more)
        logits = nn.functional.linear(out.last_hidden_state[:, -logits_to_keep:], self.transformer.wte.weight)
        loss = None
        if labels is not None:
            loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten())
        return CausalLMOutputWithPast(loss=loss, logits=logits, **{CACHE: out.get(CACHE)})


class BandedGPTForSequenceClassification(BandedGPTPreTrainedModel):
    """Scores of the labels, from the last token that is not padding."""

    def __init__(self, config: BandedGPTConfig) -> None:
        super().__init__(config)
        self.num_labels = int(config.num_labels or 2)
        self.transformer = BandedGPTModel(config)
        self.score = nn.Linear(config.n_embd, self.num_labels, bias=False)
        self.post_init()

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, labels: Tensor | None = None, **more: Any) -> Any:
        more.pop("return_dict", None)
        out = self.transformer(input_ids, attention_mask, **{**more, "use_cache": False})
        real_BL = torch.ones_like(input_ids) if self.config.pad_token_id is None else (input_ids != self.config.pad_token_id).long()
        last_B = (real_BL * torch.arange(1, input_ids.shape[1] + 1, device=input_ids.device)).argmax(-1)
        logits = self.score(out.last_hidden_state[torch.arange(len(last_B), device=last_B.device), last_B])
        loss = None if labels is None else nn.functional.cross_entropy(logits.float(), labels)
        return SequenceClassifierOutputWithPast(loss=loss, logits=logits)
