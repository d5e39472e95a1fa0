"""A vocabulary out of a tokenizer.json, the one file that transformers writes since its fifth version; every id stays what it was.

The file names its model: WordPiece, BPE of bytes or of words with </w>, Unigram or BPE of sentencepiece's kind. What stands
before the model (lower case, accents, spaces) is taken as it is, and only from a list of steps that are known: a file of
somebody else's may hold expressions that never end. Where plain text would have other ids here, the file is refused.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import models

from data_prep.tokenizer import bpe_eow, byte_bpe, catalog, charsmap, hub, sentencepiece, wordpiece
from data_prep.tokenizer.base import JSON, META, Meta, digests, identity, ordered, save_meta
from data_prep.tokenizer.pieces import SPACE
from infra.errors import ArtifactError, ConfigError

SETTINGS = "tokenizer_config.json"
LIBRARY = ("PreTrainedTokenizerFast", "TokenizersBackend")  # classes that take the file as it is
BERT = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True}
FORMS = {"NFC", "NFD", "NFKC", "NFKD"}
STEPS = {  # what may be done to a text before its pieces are looked up, and to pieces that become text again
    "normalizer": {*FORMS, "BertNormalizer", "Lowercase", "Precompiled", "Replace", "Strip", "StripAccents", "Sequence"},
    "pre_tokenizer": {"BertPreTokenizer", "ByteLevel", "Metaspace", "WhitespaceSplit", "Sequence"},
    "decoder": {"WordPiece", "BPEDecoder", "ByteLevel", "Metaspace", "Replace", "ByteFallback", "Fuse", "Strip", "Sequence"},
}
LONGEST_REPLACEMENT = 16  # letters
MARKED = re.compile(r"[<\[{(].*[>\]})]", re.DOTALL)  # how a special token is written


def read(path: Path, folder: Path, lowercase: bool) -> Meta:
    """Save the vocabulary of the file in a folder. Raises ConfigError for what cannot be had here, ArtifactError for a broken file."""
    record = opened(path)
    folded = lowers(record)
    if lowercase and not folded:
        raise ConfigError(f"{path} keeps capital letters; take lowercase out")
    kind, ids = kind_of(record, path), ids_of(record, path)
    model, bert = record["model"], is_berts(record)
    if kind == "wordpiece" and bert and model.get("max_input_chars_per_word") == wordpiece.LONGEST_WORD:
        meta = wordpiece.adopt(ordered(ids), folder, folded)
    elif kind == bpe_eow.KIND and bert and not model.get("fuse_unk"):
        meta = bpe_eow.save(ids, pairs(model), folder, folded)
    elif kind == "byte_bpe":
        check_bytes(record, ids, path)
        meta = byte_bpe.finish(byte_bpe.blank(models.BPE(ids, pairs(model)), folded), folder, folded, byte_bpe.set_of(ids, path))
    else:
        meta = as_it_is(record, ids, kind, folder, path)
    check_ids(record, folder, meta, path)
    return meta


def opened(path: Path) -> dict[str, Any]:
    """The file, of a shape that the library opens. Raises ArtifactError."""
    try:
        record: Any = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(record, dict) or not isinstance(record.get("model"), dict):
            raise ValueError("it has no model; pieces alone need their merges beside them, in a .bpe or .txt")
        check_steps(record, path)
        for part in parts(record.get("normalizer")):
            if part.get("type") == "Precompiled":
                _table(part)
        engine_of(record)
    except ConfigError:
        raise
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ArtifactError(f"{path}: not a tokenizer that can be read ({_short(error)})") from error
    return record


def engine_of(record: Mapping[str, Any]) -> tokenizers.Tokenizer:
    """The library's own tokenizer of the record, without what it does to the end of a text. Raises ValueError."""
    try:
        return tokenizers.Tokenizer.from_str(
            json.dumps({**record, "version": "1.0", "post_processor": None, "truncation": None, "padding": None})
        )
    except BaseException as error:
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":  # the library's, which derives from BaseException
            raise ValueError(_short(error)) from error
        raise


def _short(error: BaseException) -> str:
    return str(error)[:200] or type(error).__name__


# ---- what it is ----------------------------------------------------------------------------------------------------------


def kind_of(record: Mapping[str, Any], path: Path) -> str:
    """Which of our kinds. Raises ConfigError for a model that is none of them."""
    model, before = record["model"], names(record.get("pre_tokenizer"))
    kind = model.get("type") or ("BPE" if "merges" in model else "")
    if model.get("dropout"):
        raise ConfigError(f"{path} drops merges at random (dropout {model['dropout']}): no text has the same ids twice")
    if model.get("continuing_subword_prefix") and (kind != "WordPiece" or model["continuing_subword_prefix"] != "##"):
        raise ConfigError(f"{path} marks the inside of words with {model['continuing_subword_prefix']!r}; only WordPiece's ## can be read")
    if kind == "WordPiece" and before == ["BertPreTokenizer"]:
        return "wordpiece"
    if kind == "BPE" and model.get("end_of_word_suffix") == bpe_eow.SUFFIX and before == ["BertPreTokenizer"]:
        return bpe_eow.KIND
    if kind == "BPE" and before == ["ByteLevel"] and not model.get("end_of_word_suffix"):
        return "byte_bpe"
    if kind in ("BPE", "Unigram") and "Metaspace" in before and "ByteLevel" not in before and not model.get("end_of_word_suffix"):
        return "sentencepiece_bpe" if kind == "BPE" else "sentencepiece_unigram"
    what = f"{kind or 'tokenizer'} after {', '.join(before) or 'nothing'}"
    raise ConfigError(
        f"{path} holds a {what} that cannot be read; WordPiece and BPE with </w> of words cut as BERT cuts them, BPE of bytes, and "
        "Unigram and BPE of sentencepiece's kind can"
    )


def ids_of(record: Mapping[str, Any], path: Path) -> dict[str, int]:
    """Piece -> id, with the tokens that were added. Raises ConfigError where an added one is plain text, ArtifactError for gaps."""
    vocabulary = record["model"]["vocab"]
    ids = {piece: number for number, (piece, _) in enumerate(vocabulary)} if isinstance(vocabulary, list) else dict(vocabulary)
    if len(ids) != len(vocabulary):
        raise ArtifactError(f"{path}: a piece has two ids")
    for token in record.get("added_tokens") or ():
        text, number = token["content"], token["id"]
        if not token["special"] or not MARKED.fullmatch(text):
            raise ConfigError(f"{path} adds the token {text!r}, which plain text would become; only special ones such as [SEP] can be")
        if ids.setdefault(text, number) != number:
            raise ArtifactError(f"{path}: {text!r} is {ids[text]} in the vocabulary and {number} where it is added")
    ordered(ids)
    return ids


def check_steps(record: Mapping[str, Any], path: Path) -> None:
    """Raises ConfigError that names the first step which is not known, or replaces what it may not."""
    for what, known in STEPS.items():
        for part in parts(record.get(what)):
            if part.get("type") not in known:
                raise ConfigError(f"{path} has {part.get('type')!r} as a {what}; known: {', '.join(sorted(known))}")
            if part.get("replacement", SPACE) != SPACE:
                raise ConfigError(f"{path} writes a space as {part['replacement']!r}; only {SPACE!r} can be read")
            if not _may_replace(part, record):
                pattern = str(part.get("pattern"))[:100]
                raise ConfigError(
                    f"{path} replaces {pattern}; only plain text and {sentencepiece.SPACES!r} can be, "
                    f"by {LONGEST_REPLACEMENT} letters at most"
                )


def _may_replace(part: Mapping[str, Any], record: Mapping[str, Any]) -> bool:
    """Whether a step replaces plain text, or by a regular expression that our own exports have, by a short text."""
    regex = (part.get("pattern") or {}).get("Regex", sentencepiece.SPACES)
    if len(part.get("content") or "") > LONGEST_REPLACEMENT:
        return False
    if regex in (sentencepiece.SPACES, sentencepiece.ENDS):
        return True
    return any(
        regex == sentencepiece.behind_replaced(_table(one)) for one in parts(record.get("normalizer")) if one.get("type") == "Precompiled"
    )


def _table(part: Mapping[str, Any]) -> bytes:
    """The compiled table of letters of a step. Raises ValueError for one that the library would read beyond its end."""
    table = base64.b64decode(part["precompiled_charsmap"], validate=True)
    charsmap.check(table)
    return table


def check_bytes(record: Mapping[str, Any], ids: Mapping[str, int], path: Path) -> None:
    """Raises ConfigError where a byte-level vocabulary is not as GPT-2's."""
    cut = next(parts(record["pre_tokenizer"]))
    if cut.get("add_prefix_space") or not cut.get("use_regex", True):
        raise ConfigError(f"{path} puts a space before every text, or cuts none; save it with add_prefix_space=False")
    if names(record.get("normalizer")) not in ([], ["Lowercase"]) or record["model"].get("ignore_merges"):
        raise ConfigError(f"{path} changes text before its bytes, or takes whole words without merges; GPT-2's and RoBERTa's do neither")
    lacking = set(tokenizers.pre_tokenizers.ByteLevel.alphabet()) - set(ids)
    if lacking:
        raise ConfigError(f"{path} lacks {len(lacking)} of the 256 bytes, so that some text would be lost")


def is_berts(record: Mapping[str, Any]) -> bool:
    """Whether text is prepared as BERT does: accents go where capitals go."""
    said = dict(record.get("normalizer") or {})
    if said.pop("strip_accents", None) not in (None, said.get("lowercase")) or record["model"].get("unk_token") not in ("[UNK]", "<unk>"):
        return False
    return said == {**BERT, "lowercase": said.get("lowercase")}


def pairs(model: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Merges, which older files write as one text each."""
    split = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"])
    return [(left, right) for left, right in split]


def parts(step: Mapping[str, Any] | None) -> Iterator[Mapping[str, Any]]:
    """The steps of a normaliser, a pre-tokeniser or a decoder, without the sequences that only hold others."""
    inner = [one for key in ("normalizers", "pretokenizers", "decoders") for one in step.get(key) or ()] if step else []
    if step and not inner:
        yield step
    for one in inner:
        yield from parts(one)


def names(step: Mapping[str, Any] | None) -> list[str]:
    """Their names."""
    return [str(part.get("type")) for part in parts(step) if part.get("type") != "Sequence"]


def lowers(record: Mapping[str, Any]) -> bool:
    """Whether its text is lower-cased."""
    return any(part.get("type") == "Lowercase" or bool(part.get("lowercase")) for part in parts(record.get("normalizer")))


# ---- what becomes of it --------------------------------------------------------------------------------------------------


def as_it_is(record: Mapping[str, Any], ids: Mapping[str, int], kind: str, folder: Path, path: Path) -> Meta:
    """The file's own steps and model, read by the library that wrote them; its specials where they are called as ours are."""
    known, model = wordpiece.NAMES if kind == "wordpiece" else {**sentencepiece.NAMES, **sentencepiece.OTHERS}, record["model"]
    roles = {role: text for role, text in known.items() if text in ids}
    if "unk" not in roles or (kind == "wordpiece" and len(roles) < len(known)):
        raise ConfigError(f"{path} lacks {', '.join(text for role, text in known.items() if role not in roles)}")
    if isinstance(model["vocab"], list):
        last = max(score for _, score in model["vocab"])
        more = [[piece, last] for piece in ordered(ids)[len(model["vocab"]) :]]
        model = {**model, "vocab": [*model["vocab"], *more]}
        extra = [f"{piece} {score!r}" for piece, score in model["vocab"]]
        if model.get("unk_id") != ids[roles["unk"]]:
            raise ConfigError(f"{path}: what is unknown becomes {model.get('unk_id')}, not {roles['unk']}")
    else:
        model = {**model, "vocab": dict(ids)}
        extra = [*ordered(ids), *(" ".join(pair) for pair in (pairs(model) if "merges" in model else ()))]
    engine = engine_of({**record, "model": model, "added_tokens": []})
    specials = [text for text in ids if text in {*roles.values(), *(t["content"] for t in record.get("added_tokens") or ())}]
    engine.add_special_tokens([tokenizers.AddedToken(text, special=True, normalized=False) for text in specials])
    if engine.decoder is None:
        engine.decoder = tokenizers.decoders.WordPiece() if kind == "wordpiece" else tokenizers.decoders.Metaspace()
    if "cls" in roles and "sep" in roles:
        engine.post_processor = wordpiece.around(roles["cls"], roles["sep"], ids)
    folder.mkdir(parents=True, exist_ok=True)
    hub.save_hub(folder, engine, roles, {"do_lower_case": lowers(record)})
    before = {"normalizer": record.get("normalizer"), "pre_tokenizer": record["pre_tokenizer"], "model": options(model)}
    numbers = {role: ids[text] for role, text in roles.items()}
    meta = Meta(kind, len(ids), numbers, identity(kind, extra, before, numbers), files=digests(folder, JSON))
    save_meta(folder, meta)
    return meta


def options(model: Mapping[str, Any]) -> dict[str, Any]:
    """What a model says beside its pieces."""
    return {name: value for name, value in model.items() if name not in ("vocab", "merges")}


def check_ids(record: Mapping[str, Any], folder: Path, meta: Meta, path: Path) -> None:
    """Raises ConfigError unless plain text has the ids that the library gives it, few letters at a time and many."""
    named = [token["content"] for token in record.get("added_tokens") or ()]
    texts = [text for text in hub.HOSTILE if not any(name in text for name in named)]
    wanted = [found.ids for found in engine_of(record).encode_batch(texts, add_special_tokens=False)]
    tokenizer = catalog.LOADERS[meta.kind](folder, meta)
    many = -(-hub.FEW // sum(map(len, texts)))
    for text, ids, few, much in zip(texts, wanted, tokenizer.encode_batch(texts), tokenizer.encode_batch(texts * many), strict=False):
        if not ids == few == much:
            raise ConfigError(f"{path} cannot be read: {text[:40]!r} would have other ids ({few[:8]}, not {ids[:8]})")


# ---- what a folder says beside it ----------------------------------------------------------------------------------------


def told(folder: Path) -> dict[str, Any]:
    """tokenizer_config.json, empty where there is none. Raises ArtifactError."""
    path = folder / SETTINGS
    try:
        said: Any = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if not isinstance(said, dict):
            raise ValueError("it is no object")
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: cannot be read ({_short(error)})") from error
    return said


def tells(folder: Path) -> bool:
    """Whether a folder says what is done to capitals: ours and a tokenizer.json do, other vocabularies only with their settings."""
    return any((folder / name).is_file() for name in (META, JSON)) or "do_lower_case" in told(folder)


def lowercase(folder: Path, asked: bool = False) -> bool:
    """Whether a folder's text is lower-cased, as its settings say; as asked where none do. A tokenizer.json says it itself.

    transformers makes a model's own class anew from the settings: raises ConfigError where they contradict what is asked, the
    tokenizer.json beside them, or what a vocabulary without one can have.
    """
    said = told(folder)
    if said.get("tokenizer_class") in LIBRARY:
        return asked
    found: dict[str, Any] = {"strip_accents": None, "tokenize_chinese_chars": True, "add_prefix_space": None}
    if (folder / JSON).is_file():
        record = opened(folder / JSON)
        found = {"do_lower_case": lowers(record), "keep_accents": "StripAccents" not in names(record.get("normalizer"))}
        for part in parts(record.get("normalizer")):
            if part.get("type") == "BertNormalizer":
                found |= {"strip_accents": part.get("strip_accents"), "tokenize_chinese_chars": part.get("handle_chinese_chars")}
        for part in parts(record.get("pre_tokenizer")):
            if part.get("type") == "ByteLevel":
                found["add_prefix_space"] = part.get("add_prefix_space")
    elif asked:
        found["do_lower_case"] = True
    for name, value in found.items():
        if name in said and (said[name] or None) != (value or None):
            raise ConfigError(f"{folder / SETTINGS} says {name}: {said[name]}, and the vocabulary is read with {value}")
    return asked or (bool(said.get("do_lower_case")) and not (folder / JSON).is_file())
