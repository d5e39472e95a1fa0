"""Every field of transformers' configuration classes: which are mapped, which must have one value, which cannot change the output.

A field that is in none of the three tables is refused, and so is a value outside them: a model that would compute something else
is an error that names the field, never a silent change. Names and defaults are those of transformers 4.57 and 5.x together with
older names that published files still hold; tests compare the tables with the classes of both versions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from infra.errors import ConfigError

TRAINING = "used in training only"
GENERATION = "used by generate() only"
RETURNED = "decides what a call returns next to the logits"
RECORD = "a record of where the file comes from"
TOKENS = "an id of the tokenizer; the model does not read it"
CLASSES = "names of classes; retained"
UNREAD = "an older name that transformers no longer reads"
OTHER_HEAD = "read only by a head that is refused"

_GENERATION = (
    "max_length min_length do_sample early_stopping num_beams temperature top_k top_p typical_p repetition_penalty length_penalty "
    "no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids num_return_sequences output_scores return_dict_in_generate "
    "forced_bos_token_id forced_eos_token_id remove_invalid_values exponential_decay_length_penalty suppress_tokens "
    "begin_suppress_tokens num_beam_groups diversity_penalty use_cache task_specific_params prefix decoder_start_token_id max_new_tokens"
)
_RETURNED = "output_hidden_states output_attentions output_past return_dict use_return_dict"
_RECORD = (
    "_name_or_path transformers_version dtype torch_dtype architectures model_type finetuning_task tokenizer_class torchscript "
    "use_bfloat16 tf_legacy_loss language _attn_implementation_autoset _attn_implementation attn_implementation gradient_checkpointing "
    "_commit_hash"
)
IRRELEVANT: Mapping[str, str] = {
    **dict.fromkeys(_GENERATION.split(), GENERATION),
    **dict.fromkeys(_RETURNED.split(), RETURNED),
    **dict.fromkeys(_RECORD.split(), RECORD),
    **dict.fromkeys(("bos_token_id", "eos_token_id", "sep_token_id", "cls_token_id", "mask_token_id", "unk_token_id"), TOKENS),
    **dict.fromkeys(("id2label", "label2id", "num_labels", "_num_labels"), CLASSES),
    "pad_token_id": "the tokenizer's padding; retained, and compared with the tokenizer",
    "chunk_size_feed_forward": "the same sums, some rows at a time",
    "textmill": "what textmill adds to its own exports",
}
REQUIRED: Mapping[str, tuple[Any, ...]] = {  # field -> the values under which a model computes what textmill does
    "is_encoder_decoder": (False,),
    "is_decoder": (False,),
    "add_cross_attention": (False,),
    "cross_attention_hidden_size": (None,),
    "tie_encoder_decoder": (False,),
    "pruned_heads": ({}, None),
    "problem_type": (None, "single_label_classification", "multi_label_classification", "regression"),
}
ABSOLUTE = {"position_embedding_type": ("absolute", None)}
OWN = ("auto_map", "band")  # of textmill's exports with banded attention: the code for other programs, and what `textmill` repeats
SUMMARY = dict.fromkeys(
    ["summary_type", "summary_use_proj", "summary_activation", "summary_first_dropout", "summary_last_dropout", "summary_proj_to_labels"],
    OTHER_HEAD,
)
# written out again by `describe`, or true only of the file that was read
NOT_RETAINED = {*_RECORD.split(), *_GENERATION.split(), "textmill", "num_labels", "_num_labels", "output_past", "use_return_dict"} - {
    "use_cache"
}


@dataclass(frozen=True)
class Fields:
    """The tables of one configuration class. mapped: field -> the default that the class gives it where a file lacks it."""

    mapped: Mapping[str, Any]
    required: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    irrelevant: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)  # another name for a mapped field -> that field

    def all_required(self) -> dict[str, tuple[Any, ...]]:
        """The class's own and the common ones."""
        return {name: values for name, values in {**REQUIRED, **self.required}.items() if name not in self.irrelevant}

    def all_irrelevant(self) -> dict[str, str]:
        """The same of the third table; what the class maps or requires is not irrelevant."""
        every = {**IRRELEVANT, **self.irrelevant}
        return {name: why for name, why in every.items() if name not in self.mapped and name not in self.required}


_GPT_ALIASES = {
    "hidden_size": "n_embd",
    "max_position_embeddings": "n_positions",
    "num_attention_heads": "n_head",
    "num_hidden_layers": "n_layer",
}
_GPT = {
    "n_positions": 1024, "n_embd": 768, "n_layer": 12, "n_head": 12, "resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1,
    "layer_norm_epsilon": 1e-5, "initializer_range": 0.02, "tie_word_embeddings": True,
}  # fmt: skip
_BERT = {
    "vocab_size": 30522, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
    "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1, "max_position_embeddings": 512,
    "type_vocab_size": 2, "initializer_range": 0.02, "layer_norm_eps": 1e-12, "tie_word_embeddings": True,
}  # fmt: skip
_DIRECTION = dict.fromkeys(
    ["directionality", "pooler_fc_size", "pooler_num_attention_heads", "pooler_num_fc_layers", "pooler_size_per_head", "pooler_type"],
    UNREAD,
)
FIELDS: Mapping[str, Fields] = {
    "gpt2": Fields(
        mapped={
            **_GPT, "vocab_size": 50257, "n_inner": None, "activation_function": "gelu_new", "scale_attn_weights": True,
            "scale_attn_by_inverse_layer_idx": False,
        },
        irrelevant={
            **SUMMARY,
            "is_decoder": "a GPT is causal with either value",
            "reorder_and_upcast_attn": "the same softmax in another order of float32 operations; retained",
            "n_ctx": UNREAD,
        },
        aliases=_GPT_ALIASES,
    ),
    "openai-gpt": Fields(
        mapped={**_GPT, "vocab_size": 40478, "n_positions": 512, "afn": "gelu"},
        irrelevant={
            **SUMMARY,
            "is_decoder": "a GPT is causal with either value",
            **dict.fromkeys(("n_ctx", "n_special", "predict_special_tokens"), UNREAD),
        },
        aliases=_GPT_ALIASES,
    ),
    "bert": Fields(
        mapped=_BERT,
        required=ABSOLUTE,
        irrelevant={**_DIRECTION, "classifier_dropout": TRAINING},
    ),
    "roberta": Fields(
        mapped={**_BERT, "vocab_size": 50265, "pad_token_id": 1},  # its positions are counted from the padding id on
        required=ABSOLUTE,
        irrelevant={"classifier_dropout": TRAINING, "output_past": UNREAD},
    ),
    "albert": Fields(
        mapped={
            **_BERT, "vocab_size": 30000, "embedding_size": 128, "hidden_size": 4096, "num_attention_heads": 64,
            "intermediate_size": 16384, "hidden_act": "gelu_new", "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0,
            "num_hidden_groups": 1,
        },
        required={**ABSOLUTE, "inner_group_num": (1,), "net_structure_type": (0,), "num_memory_blocks": (0,)},
        irrelevant={"classifier_dropout_prob": TRAINING, "classifier_dropout": UNREAD, "gap_size": UNREAD, "down_scale_factor": UNREAD,
                    "layers_to_keep": UNREAD},
    ),
    "electra": Fields(
        mapped={**_BERT, "embedding_size": 128, "hidden_size": 256, "num_attention_heads": 4, "intermediate_size": 1024},
        required=ABSOLUTE,
        irrelevant={**SUMMARY, "classifier_dropout": TRAINING},
    ),
    "distilbert": Fields(
        mapped={
            "vocab_size": 30522, "max_position_embeddings": 512, "n_layers": 6, "n_heads": 12, "dim": 768, "hidden_dim": 3072,
            "dropout": 0.1, "attention_dropout": 0.1, "activation": "gelu", "initializer_range": 0.02, "tie_word_embeddings": True,
        },
        irrelevant={
            "sinusoidal_pos_embds": "the table of positions is in the weights either way; the output has False",
            "qa_dropout": TRAINING,
            "seq_classif_dropout": TRAINING,
            "tie_weights_": UNREAD,
        },
        aliases={"hidden_size": "dim", "num_attention_heads": "n_heads", "num_hidden_layers": "n_layers"},
    ),
}  # fmt: skip
WHOLE = [
    "vocab_size",
    "n_positions",
    "n_embd",
    "n_layer",
    "n_head",
    "n_inner",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "max_position_embeddings",
    "type_vocab_size",
    "embedding_size",
    "num_hidden_groups",
    "pad_token_id",
    "n_layers",
    "n_heads",
    "dim",
    "hidden_dim",
]
SWITCHES = ("tie_word_embeddings", "scale_attn_weights", "scale_attn_by_inverse_layer_idx")
WORDS = ("hidden_act", "activation_function", "activation", "afn")


def checked(settings: Mapping[str, Any], model_type: str) -> dict[str, Any]:
    """Return the mapped fields of a config.json, defaults of the class included. Raises ConfigError that names field and value."""
    fields = FIELDS[model_type]
    required, irrelevant, found = fields.all_required(), fields.all_irrelevant(), dict(fields.mapped)
    own = "textmill" in settings
    for name, value in settings.items():
        if name in fields.mapped:
            found[name] = _typed(name, value, model_type)
        elif name in fields.aliases:
            _same(name, fields.aliases[name], settings)
            found[fields.aliases[name]] = _typed(name, value, model_type)
        elif name in required:
            if not any(value == known and type(value) is type(known) for known in required[name]):
                known = " or ".join(repr(one) for one in required[name])
                raise ConfigError(f"config.json says {name}: {_short(value)}; {model_type} models can be read only with {known}")
        elif name not in irrelevant and not (own and name in OWN):
            raise ConfigError(
                f"config.json says {name}: {_short(value)}, a field that textmill does not know for {model_type} models and that may "
                "change what the model computes; remove it if it does not"
            )
    _classes(settings)
    return found


def retained(settings: Mapping[str, Any], model_type: str) -> dict[str, Any]:
    """Return the fields that an import passes on to its own config.json as they are: they change nothing in the forward pass."""
    known = {**FIELDS[model_type].all_irrelevant(), "problem_type": ""}
    return {name: value for name, value in settings.items() if name in known and name not in NOT_RETAINED and value is not None}


def _same(alias: str, name: str, settings: Mapping[str, Any]) -> None:
    if name in settings and settings[name] != settings[alias]:
        raise ConfigError(f"config.json says {name}: {settings[name]} and {alias}: {settings[alias]}, which are one field; remove one")


def _typed(name: str, value: Any, model_type: str) -> Any:
    """The value, if it has the field's type."""
    if name in WHOLE:
        fits = (type(value) is int and value >= 0) or (value is None and name == "n_inner")
        expected = "a whole number"
    elif name in SWITCHES:
        fits, expected = type(value) is bool, "true or false"
    elif name in WORDS:
        fits, expected = isinstance(value, str), "the name of an activation"
    else:
        fits, expected = type(value) in (int, float) and math.isfinite(value), "a finite number"
    if not fits:
        raise ConfigError(f"config.json says {name}: {_short(value)}; for a {model_type} model it must be {expected}")
    return value


def _classes(settings: Mapping[str, Any]) -> None:
    """Names of classes are numbered 0..n-1, as many as any other field says."""
    names = settings.get("id2label")
    if names is None:
        names = {"0": "LABEL_0", "1": "LABEL_1"}
    elif not isinstance(names, Mapping) or sorted(map(str, names)) != sorted(map(str, range(len(names)))) or not names:
        raise ConfigError(f"config.json says id2label: {_short(names)}; its keys must be 0 to the number of classes less one")
    for name in ("num_labels", "_num_labels"):
        if settings.get(name) not in (None, len(names)):
            raise ConfigError(f"config.json says {name}: {_short(settings[name])}, and id2label names {len(names)} classes")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
