"""SentencePiece BPE and Unigram (Kudo and Richardson 2018), numbered as ALBERT numbers them: text as a stream, spaces as ▁.

The library's only door. Beside its own .model the folder holds a tokenizer.json made from it, which transformers loads.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece as spm
from numpy.typing import NDArray
from sentencepiece import sentencepiece_model_pb2 as protobuf
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

from data_prep.tokenizer import charsmap
from data_prep.tokenizer.base import JSON, Meta, check_files, digests, identity, save_meta, threads
from data_prep.tokenizer.hub import HubTokenizer, save_hub
from data_prep.tokenizer.pieces import SPACE, word_start
from data_prep.tokenizer.word_ids import Encoded, concatenated, flattened
from data_prep.tokenizer.wordpiece import around
from infra.errors import ArtifactError, ConfigError

MODEL = "spiece.model"
NAMES = {"pad": "<pad>", "unk": "<unk>", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}  # ids 0-4
OTHERS = {"bos": "<s>", "eos": "</s>"}  # that published models may have, as T5's has its end
NORMAL = 1  # sentencepiece_model.proto: the type of a piece that text can become
MODELS = {1: "unigram", 2: "bpe"}  # sentencepiece_model.proto: TrainerSpec.ModelType
SEPARATOR = "\ufdd0"  # a noncharacter: no text has it
ENDS, SPACES = "^ +| +$", " {2,}"  # regular expressions of steps that remove spaces, and make one of several
THREADS = 4  # fixed: Unigram's sums are taken by thread, and another number of threads could round otherwise
LONGEST_LINE = 16_384  # bytes; the trainer drops longer lines, so longer ones are cut before it sees them
TOGETHER = 512  # texts encoded in one call


def train(texts: Sequence[str], folder: Path, vocab: int, model: str, lowercase: bool = False, coverage: float = 0.9995) -> Meta:
    """model: "bpe" or "unigram". coverage: the share of letters that get an id of their own (the rest is unknown)."""
    written = io.BytesIO()
    try:
        spm.SentencePieceTrainer.train(
            sentence_iterator=iter(_lines(texts)),
            model_writer=written,
            vocab_size=vocab,
            model_type=model,
            character_coverage=coverage,
            normalization_rule_name="nmt_nfkc_cf" if lowercase else "nmt_nfkc",
            control_symbols=[NAMES["cls"], NAMES["sep"], NAMES["mask"]],
            pad_id=0,
            unk_id=1,
            bos_id=-1,
            eos_id=-1,
            pad_piece=NAMES["pad"],
            unk_piece=NAMES["unk"],
            unk_surface="<unk>",
            hard_vocab_limit=False,
            shuffle_input_sentence=False,
            input_sentence_size=0,
            max_sentence_length=LONGEST_LINE,
            num_threads=THREADS,
            minloglevel=2,
        )
    except (RuntimeError, OSError, ValueError) as error:
        raise ConfigError(
            f"tokenizer.vocab {vocab}: sentencepiece cannot make a {model} of this size from {len(texts)} documents ({error})"
        ) from error
    return _save(written.getvalue(), folder, model, lowercase)


def _lines(texts: Sequence[str]) -> list[str]:
    """The trainer counts words within lines, takes NUL for its own, and drops lines above a length."""
    lines = (line for text in texts for line in text.replace("\0", " ").splitlines())
    step = LONGEST_LINE // 4  # a letter has at most four bytes
    return [line[at : at + step] for line in lines for at in range(0, len(line), step)]


def proven(serialized: bytes) -> Any:
    """A model from elsewhere, whose tables the library may follow. Raises ValueError."""
    try:
        proto = protobuf.ModelProto.FromString(serialized)  # type: ignore[attr-defined]
    except Exception as error:  # protobuf's DecodeError derives from Exception alone
        raise ValueError(f"no sentencepiece model: {error}") from error
    charsmap.check(proto.normalizer_spec.precompiled_charsmap)
    return proto


def adopt(serialized: bytes, folder: Path, lowercase: bool) -> Meta:
    """A published model. Its kind and its specials are those that it says itself."""
    kind = proven(serialized).trainer_spec.model_type
    if kind not in MODELS:
        raise ConfigError("this sentencepiece model is of words or characters; BPE and Unigram can be read")
    if lowercase and "A" in spm.SentencePieceProcessor(model_proto=serialized).normalize("A"):
        raise ConfigError(
            "this sentencepiece model keeps capital letters: what lower-cases text before it is not in its file; take lowercase out, or "
            "give the tokenizer.json that transformers (5 or later) saves"
        )
    return _save(serialized, folder, MODELS[kind], lowercase)


def _save(serialized: bytes, folder: Path, model: str, lowercase: bool) -> Meta:
    proto = protobuf.ModelProto.FromString(serialized)  # type: ignore[attr-defined]  # made at import by protobuf
    pieces = [p.piece for p in proto.pieces]
    names = names_of(proto)
    specials = {role: pieces.index(name) for role, name in names.items()}
    rule = {"name": proto.normalizer_spec.name, "charsmap": proto.normalizer_spec.precompiled_charsmap.hex()}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MODEL).write_bytes(serialized)
    save_hub(folder, convert(proto, model), names, {"do_lower_case": lowercase})
    kind = f"sentencepiece_{model}"
    scores = [f"{p.piece} {p.score!r}" for p in proto.pieces]  # for Unigram the scores choose the pieces
    meta = Meta(kind, len(pieces), specials, identity(kind, scores, rule, specials), files=digests(folder, JSON, MODEL))
    save_meta(folder, meta)
    return meta


def names_of(proto: Any) -> dict[str, str]:
    """Role -> piece, of those a model has: all of ours, or what a published one calls so."""
    controls = {p.piece for p in proto.pieces if p.type != NORMAL}
    return {role: name for role, name in (NAMES | OTHERS).items() if name in controls}


def convert(proto: Any, model: str) -> Tokenizer:
    """The same model for the `tokenizers` library."""
    scored = [(p.piece, p.score) for p in proto.pieces]
    ids = {piece: number for number, (piece, _) in enumerate(scored)}
    names = names_of(proto)
    if model == "unigram":
        engine = Tokenizer(models.Unigram(scored, unk_id=ids[names["unk"]], byte_fallback=False))
    else:
        normal = {p.piece: p.score for p in proto.pieces if p.type == NORMAL}
        engine = Tokenizer(models.BPE(ids, merges(normal, ids), unk_token=names["unk"], fuse_unk=True))
    table = proto.normalizer_spec.precompiled_charsmap
    steps = _precompiled(table) if table else []
    if "nfkc" in proto.normalizer_spec.name:  # `tokenizers` looks a grapheme up, sentencepiece the longest match: three jamo, two accents
        steps.insert(0, normalizers.NFC())
    engine.normalizer = normalizers.Sequence([*steps, normalizers.Replace(Regex(ENDS), ""), normalizers.Replace(Regex(SPACES), " ")])
    engine.pre_tokenizer = pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="always")
    engine.decoder = decoders.Metaspace(replacement=SPACE, prepend_scheme="always")
    engine.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names.values()])
    if "cls" in names and "sep" in names:
        engine.post_processor = around(names["cls"], names["sep"], ids)
    return engine


def _precompiled(table: bytes) -> list[Any]:
    """The compiled table of letters, applied as sentencepiece applies it.

    `tokenizers` replaces a whole grapheme by what its first letter becomes, and a combining mark is lost. A separator, which is removed
    again, keeps marks apart from letters that the table replaces by themselves. Left is a mark after a letter that the table also replaces
    together with other marks (Roman numerals, fullwidth and circled Latin letters).
    """
    step, pattern = normalizers.Precompiled(table), behind_replaced(table)
    return [normalizers.Replace(Regex(pattern), SEPARATOR), step, normalizers.Replace(SEPARATOR, "")] if pattern else [step]


def behind_replaced(table: bytes) -> str:
    """A regular expression for the place between a letter that the table replaces by itself and what is not ASCII; "" if there is none."""
    letters = "".join(f"\\x{{{ord(letter):x}}}" for letter in charsmap.alone(table))
    return f"(?<=[{letters}])(?=\\P{{ASCII}})" if letters else ""


def merges(known: Mapping[str, float], rank: Mapping[str, int]) -> list[tuple[str, str]]:
    """Every way to put a piece together from two others, the best-scored piece first, as sentencepiece would join them."""
    found = []
    for piece, score in known.items():
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in known and right in known:
                found.append((-score, rank[left], rank[right], left, right))
    return [(left, right) for *_, left, right in sorted(found)]


class SentencePieceTokenizer:
    """Control symbols have no surface for the library's encoder, so no text becomes one."""

    def __init__(self, folder: Path, meta: Meta) -> None:
        self.kind, self.vocab, self.specials, self.fingerprint = meta.kind, meta.vocab, dict(meta.specials), meta.fingerprint
        check_files(folder, meta)
        try:
            self._engine = spm.SentencePieceProcessor(model_file=str(folder / MODEL))
        except (OSError, RuntimeError) as error:
            raise ArtifactError(f"{folder / MODEL}: not a sentencepiece model ({error}); run the tokenizer stage again") from error
        self.pieces = [self._engine.id_to_piece(number) for number in range(self._engine.get_piece_size())]

    @property
    def word_start(self) -> NDArray[np.bool_]:
        return word_start(self.kind, self.pieces, self.specials)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        ids: list[list[int]] = self._engine.encode(list(texts), out_type=int, num_threads=threads())
        return ids

    def encode_flat(self, texts: Sequence[str]) -> Encoded:
        """Some texts at a time, so that the library's lists are still in the processor's cache when they are read, and never many."""
        parts = (texts[at : at + TOGETHER] for at in range(0, len(texts), TOGETHER))
        return concatenated([flattened(self.encode_batch(part)) for part in parts])

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._engine.decode([int(number) for number in ids]))


def load(folder: Path, meta: Meta) -> SentencePieceTokenizer | HubTokenizer:
    """The tokenizer saved in a folder: of the library itself, or of a tokenizer.json that did other things before (hub_json.py)."""
    return SentencePieceTokenizer(folder, meta) if MODEL in meta.files else HubTokenizer(folder, meta)
