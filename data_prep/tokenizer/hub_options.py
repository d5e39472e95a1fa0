"""What a tokenizer_config.json may say: options that are carried over, must have one value, or change no ids; all others are refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from data_prep.tokenizer.base import ROLES
from data_prep.tokenizer.hub_json import SETTINGS, told
from infra.errors import ConfigError

CARRIED = ("padding_side", "truncation_side", "clean_up_tokenization_spaces")
REQUIRED: Mapping[str, tuple[Any, ...]] = {  # option -> values under which a text has the ids that it has in textmill
    "add_bos_token": (False, None),
    "add_eos_token": (False, None),
    "do_basic_tokenize": (True, None),
    "never_split": (None, []),
    "remove_space": (True, None),
    "sp_model_kwargs": (None, {}),
    "split_special_tokens": (False, None),
    "wordpieces_prefix": ("##", None),
    "legacy": (None, True),
    "suffix": ("</w>", None),
}
COMPARED = (  # with the vocabulary's own file, by hub_json.lowercase
    "do_lower_case",
    "strip_accents",
    "tokenize_chinese_chars",
    "add_prefix_space",
    "keep_accents",
)
IRRELEVANT = (  # names of files, bookkeeping, decoding, and what a call returns
    "added_tokens_decoder",
    "additional_special_tokens",
    "backend",
    "chat_template",
    "errors",
    "extra_special_tokens",
    "from_slow",
    "init_inputs",
    "is_local",
    "local_files_only",
    "max_len",
    "max_length",
    "merges_file",
    "model_input_names",
    "model_max_length",
    "model_specific_special_tokens",
    "name_or_path",
    "pad_to_multiple_of",
    "pad_token_type_id",
    "processor_class",
    "special_tokens_map_file",
    "spm_file",
    "stride",
    "tokenizer_class",
    "tokenizer_file",
    "trim_offsets",
    "truncation_strategy",
    "unk_id",
    "use_fast",
    "vocab_file",
)


def check(folder: Path, specials: Mapping[str, int], pieces: Sequence[str]) -> None:
    """Raises ConfigError for an option that is unknown or means other ids, and for a special token that is not the tokenizer's.

    specials: role -> id, of the tokenizer that was read from the folder; pieces: the text of every id.
    """
    for name, value in told(folder).items():
        role = name.removesuffix("_token")
        if name.endswith("_token") and role in ROLES:
            text = value.get("content") if isinstance(value, Mapping) else value
            if text is not None and role in specials and text != pieces[specials[role]]:
                raise ConfigError(f"{folder / SETTINGS} says {name}: {text!r}, but the vocabulary's is {pieces[specials[role]]!r}")
        elif name in REQUIRED:
            if value not in REQUIRED[name]:
                raise ConfigError(f"{folder / SETTINGS} says {name}: {value!r}; only {REQUIRED[name][0]!r} can be read")
        elif name not in (*CARRIED, *COMPARED, *IRRELEVANT):
            raise ConfigError(f"{folder / SETTINGS} says {name}: {value!r}, an option that is unknown and may change ids; remove it if not")


def carried(folder: Path) -> dict[str, Any]:
    """The options that the output's tokenizer_config.json repeats."""
    return {name: value for name, value in told(folder).items() if name in CARRIED and value is not None}


def length(folder: Path) -> int:
    """model_max_length, 0 where none is set; transformers writes a huge number for none."""
    value = told(folder).get("model_max_length")
    return int(value) if isinstance(value, int | float) and 0 < value < 1 << 31 else 0


def padding(folder: Path, pieces: Sequence[str]) -> int | None:
    """The id of the pad token that the options name; None where they name none of the vocabulary."""
    value = told(folder).get("pad_token")
    text = value.get("content") if isinstance(value, Mapping) else value
    return pieces.index(text) if text in pieces else None
