"""Stage: weights that were trained elsewhere become a model of ours, from files that hold no code (config.json, safetensors).

The tokenizer's ids must be those the weights were learnt with: the folder's own vocabulary is compared with it, piece by piece.
Nothing here imports torch before the work begins.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from data_prep.tokenizer import catalog as tokenizers
from data_prep.tokenizer import hub_json, hub_options, published, wordpiece
from data_prep.tokenizer.base import JSON, META, Meta, Tokenizer, read_meta
from data_prep.tokenizer.frame import Frame, frame_of
from data_prep.tokenizer.hub import HOSTILE
from infra.artifact import Artifact, Counts, SourceFile
from infra.compute import Compute
from infra.errors import ConfigError
from infra.log import event
from infra.stage import Inputs, Stage
from training.card import CARD, export_model, write_json

if TYPE_CHECKING:
    from training.families.family import Family, Use
    from training.objectives.tower import Tower

SETTINGS, WEIGHTS, INDEX, GENERATOR = "config.json", "*.safetensors", "*.safetensors.index.json", "generator"
TOLD = hub_json.SETTINGS
VOCABULARIES = (  # tokenizer.json first: it alone says what is done to a text before
    (JSON,),
    ("vocab.txt",),
    ("vocab.json", "merges.txt"),
    ("encoder.json", "vocab.bpe"),
    ("spiece.model",),
    ("tokenizer.model",),
)


@dataclass(frozen=True)
class ImportConfig:
    """The files of a folder that transformers or textmill saved, and the family and size ("": any) that a recipe expects there."""

    files: tuple[SourceFile, ...]
    family: str
    size: str = ""

    @property
    def folder(self) -> Path:
        """Where the files lie."""
        return next(Path(file.path).parent for file in self.files if file.name == SETTINGS)


def files_of(folder: Path) -> list[Path]:
    """What is read of a folder, and so part of a fingerprint. Raises ConfigError when it holds no model, or only a pickled one."""
    if not (folder / SETTINGS).is_file():
        raise ConfigError(f"{folder} holds no {SETTINGS}; give the folder of a model that transformers or textmill saved")
    weights = sorted(folder.glob(WEIGHTS))
    if not weights:
        pickled = sorted(path.name for path in folder.glob("*.bin")) + sorted(path.name for path in folder.glob("*.pt"))
        why = (
            f"{pickled[0]} is pickled, and opening it could run code: save the model as safetensors" if pickled else "there are no weights"
        )
        raise ConfigError(f"{folder}: only safetensors are read, and {why}")
    names = (META, TOLD, *(name for files in VOCABULARIES for name in files))
    second = [path for path in (folder / GENERATOR / SETTINGS, *sorted((folder / GENERATOR).glob(WEIGHTS))) if path.is_file()]
    return [folder / SETTINGS, *weights, *sorted(folder.glob(INDEX)), *(folder / n for n in names if (folder / n).is_file()), *second]


def work(config: ImportConfig, inputs: Inputs, out: Path, compute: Compute) -> Counts:
    """Inputs: tokenizer."""
    from training.backbone.transformer import count_parameters
    from training.families import catalog

    family, tokenizer = catalog.family_of(config.folder), inputs["tokenizer"]
    wanted = catalog.family(config.family)
    if family.layout.model_type != wanted.layout.model_type:
        raise ConfigError(f"{config.folder} holds a {family.name}, not a {wanted.name}: say models.*.family: {family.name}")
    same_pieces(config.folder, tokenizer)
    meta = tokenizers.meta(tokenizer)
    tower, use = opened(config.folder, wanted, meta, listed(tokenizers.load(tokenizer)))
    if config.size:
        same_shape(asdict(wanted.backbone(config.size, meta.vocab)), asdict(tower.config))
    export_model(wanted, tower, out, tokenizer, use)
    parameters = count_parameters(tower)
    write_json(out / CARD, card_of(config, tower, tokenizer=meta.fingerprint, parameters=parameters))
    return {"parameters": parameters, "files": len(config.files)}


IMPORT = Stage(name="import", version=2, work=work)


def card_of(config: ImportConfig, tower: Tower, *, tokenizer: str, parameters: int) -> dict[str, Any]:
    """As a pretrained model's; nothing is known of how it was trained."""
    return {
        "family": config.family,
        "size": "imported",
        "backbone": asdict(tower.config),
        "heads": [head.name for head in tower.heads],
        "tokenizer_fingerprint": tokenizer,
        "parameters": parameters,
        "steps": 0,
        "tokens": 0,
        "length": tower.config.positions,
    }


def adopt(source: Path, folder: Path, lowercase: bool = False) -> dict[str, Any]:
    """Write a folder of the library's as ours, tokenizer and its record included, so that every command opens it.

    lowercase: whether a WordPiece vocabulary is of lower-cased text, which its file does not say.
    """
    from training.backbone.transformer import count_parameters
    from training.families import catalog

    files_of(source)
    family, vocabulary = catalog.family_of(source), vocabulary_of(source)
    with tempfile.TemporaryDirectory() as draft:
        tokenizer = source if (source / META).is_file() else Path(draft)
        if tokenizer == source:
            published.check(source)
        else:
            read_vocabulary(source, vocabulary, tokenizer, lowercase)
        meta = read_meta(tokenizer)
        tower, use = opened(source, family, meta, listed(tokenizers.load(tokenizer)))
        family.export(tower, folder, tokenizer, use)
    heads = [head.name for head in tower.heads]
    found = {"family": family.name, "parameters": count_parameters(tower), "heads": heads, "tokenizer": meta.kind, "vocab": meta.vocab}
    return {**found, **({"padded_vocab": tower.config.padded_vocab} if tower.config.padded_vocab else {})}


def opened(folder: Path, family: Family, meta: Meta, pieces: Sequence[str]) -> tuple[Tower, Use]:
    """The model of a folder, and what its files say of its use, both checked against the tokenizer that was read from it.

    Raises ConfigError that names a field of config.json or tokenizer_config.json which textmill cannot reproduce, and ArtifactError
    that names tensors which do not fit.
    """
    from training.backbone import exchange, hub_fields
    from training.families.family import Use

    settings = exchange.read_settings(folder)
    tower = family.load(folder, meta.vocab)
    if tower.config.vocab != meta.vocab:
        raise ConfigError(
            f"config.json says vocab_size: {tower.config.vocab}, fewer than the {meta.vocab} tokens of the tokenizer; give the model's own"
        )
    hub_options.check(folder, meta.specials, pieces)
    retained = hub_fields.retained(settings, family.layout.model_type)
    classifier = any(head.name == "class" for head in tower.heads)
    pad = padding(folder, settings, meta, pieces, classifier)
    retained.pop("pad_token_id", None)
    if pad is not None:
        retained["pad_token_id"] = pad
    frame = frame_in(folder, family.frame(tower.config, meta.specials), tower.config.causal and classifier)
    return tower, Use(frame, hub_options.length(folder), retained, hub_options.carried(folder))


def padding(folder: Path, settings: Mapping[str, Any], meta: Meta, pieces: Sequence[str], classifier: bool) -> int | None:
    """The id that pads. Raises ConfigError where it decides what is computed, and config.json and the tokenizer disagree.

    A RoBERTa counts positions from it on, a GPT's classifier reads the last token before it.
    """
    given, own = settings.get("pad_token_id"), meta.specials.get("pad", hub_options.padding(folder, pieces))
    if given is not None and own is not None and given != own:
        raise ConfigError(f"config.json says pad_token_id: {given}, the tokenizer pads with {own} ({pieces[own]!r}); set one to the other")
    found = own if given is None else given
    if found is not None and "pad" not in meta.specials and found not in meta.specials.values():
        if classifier:
            named = repr(pieces[found]) if isinstance(found, int) and 0 <= found < len(pieces) else "no token"
            raise ConfigError(f"config.json says pad_token_id: {found}, which is {named}, not a special token: a text may contain it")
        return None
    return found


def frame_in(folder: Path, usual: Frame, own: bool) -> Frame:
    """The special tokens that the folder's tokenizer puts around texts. own: keep its way to join a pair, as its classifier learned it.

    Raises ConfigError that names the post_processor where it gives a model other inputs than textmill does.
    """
    path = folder / JSON
    if not path.is_file():
        return Frame() if own else usual
    found = frame_of(hub_json.opened(path))
    if (found.start, found.stop) != (usual.start, usual.stop) or (usual.start and found.between != usual.between):
        raise ConfigError(f"{path} has a post_processor that frames texts with {found}; models of this family are read with {usual}")
    if usual.segments and not found.segments:
        raise ConfigError(f"{path} has a post_processor that gives the second text segment 0; models of this family are read with 1")
    return found if own else usual


def read_vocabulary(folder: Path, files: Sequence[Path], out: Path, lowercase: bool = False) -> None:
    """Save the vocabulary of a folder as a tokenizer, with what its tokenizer_config.json says of accents and Chinese characters."""
    said = hub_json.told(folder)
    steps = {"strip_accents": said.get("strip_accents"), "handle_chinese_chars": said.get("tokenize_chinese_chars", True)}
    if [path.name for path in files] != ["vocab.txt"] or steps == {"strip_accents": None, "handle_chinese_chars": True}:
        published.read(files, out, hub_json.lowercase(folder, lowercase))
        return
    with tempfile.TemporaryDirectory() as draft:
        path = Path(draft) / JSON
        path.write_text(json.dumps(wordpiece.record(files[0], lowercase or bool(said.get("do_lower_case")), steps)), encoding="utf-8")
        hub_json.read(path, out, False)


def vocabulary_of(folder: Path) -> list[Path]:
    """The files that `kind: import` reads; none where our own record stands. Raises ConfigError when there are none."""
    for names in VOCABULARIES:
        if all((folder / name).is_file() for name in names):
            return [folder / name for name in names]
    if (folder / META).is_file():
        return []
    known = ", ".join(" + ".join(names) for names in VOCABULARIES)
    raise ConfigError(f"{folder} holds no vocabulary that can be read ({known}); add the files that were published with the model")


# ---- the same ids --------------------------------------------------------------------------------------------------------


def same_pieces(folder: Path, tokenizer: Artifact | Path) -> None:
    """Raises ConfigError unless the folder's vocabulary and the tokenizer's are one, id by id: equal sizes prove nothing.

    Nor do equal pieces: where the folder says what is done to a text before, texts full of traps must have the same ids.
    """
    if (folder / META).is_file() and read_meta(folder).fingerprint == tokenizers.meta(tokenizer).fingerprint:
        return
    theirs, ours = tokenizer_of(folder), tokenizers.load(tokenizer)
    a, b = listed(theirs), listed(ours)
    if a != b:
        differing = [i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y]
        said = f"id {differing[0]} is {a[differing[0]]!r} there and {b[differing[0]]!r} here" if differing else "one is longer"
        raise ConfigError(
            f"{folder} was learnt with other pieces than the tokenizer has ({len(a)} and {len(b)}; {said}): give the recipe "
            "a tokenizer of kind: import with the vocabulary files of the model"
        )
    for text, x, y in zip(HOSTILE, theirs.encode_batch(HOSTILE), ours.encode_batch(HOSTILE), strict=True):
        if x != y and hub_json.tells(folder):
            raise ConfigError(
                f"{folder} was learnt with the tokenizer's pieces, but not with its letters: {text[:30]!r} has other ids there (lower "
                f"case or accents differ); give the recipe a tokenizer of kind: import with {vocabulary_of(folder)[0].name} of the model"
            )


class Listed(Protocol):
    """Every kind of tokenizer knows its pieces by id."""

    pieces: Sequence[str]


def listed(tokenizer: Tokenizer) -> list[str]:
    """The pieces of a tokenizer of ours in the order of ids."""
    return list(cast("Listed", tokenizer).pieces)


def tokenizer_of(folder: Path) -> Tokenizer:
    """The tokenizer of a folder, of ours or of the library's."""
    if (folder / META).is_file():
        published.check(folder)
        return tokenizers.load(folder)
    with tempfile.TemporaryDirectory() as draft:
        read_vocabulary(folder, vocabulary_of(folder), Path(draft))
        return tokenizers.load(Path(draft))


def pieces(folder: Path) -> list[str]:
    """Every piece of a folder's vocabulary in the order of ids."""
    return listed(tokenizer_of(folder))


# ---- what a pretraining starts from --------------------------------------------------------------------------------------


def begin(tower: Tower, folder: Path) -> list[str]:
    """Give a fresh tower the weights of a model folder, head by head by name; the names of the heads that stay fresh.

    Raises ConfigError when the backbones differ in shape.
    """
    from training.families import catalog
    from training.objectives.rtd import GeneratorDiscriminator

    given = catalog.load(folder)
    tower.backbone.load_state_dict(given.backbone.state_dict())
    if isinstance(tower, GeneratorDiscriminator) and isinstance(given, GeneratorDiscriminator):
        tower.generator.load_state_dict(given.generator.state_dict())
    theirs = {head.name: head for head in given.heads}
    fresh = []
    for head in tower.heads:
        if head.name in theirs:
            head.load_state_dict(theirs[head.name].state_dict())
        else:
            fresh.append(head.name)
    return fresh


def same_shape(asked: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raises ConfigError that names every field in which a recipe's backbone is not the imported one."""
    from training.families.family import ONLY_FOR_TRAINING

    wrong = [
        f"{name} {given.get(name)} (here {value})"
        for name, value in asked.items()
        if name not in (*ONLY_FOR_TRAINING, "padded_vocab") and given.get(name) != value
    ]
    if wrong:
        raise ConfigError(f"the imported model has {', '.join(wrong)}: choose its size, or say what differs in pretrain.overrides")


def tell_fresh(name: str, fresh: Sequence[str]) -> None:
    """A note for the heads that the imported model did not bring."""
    if fresh:
        event("note", message=f"{name}: the imported model brings no {', '.join(fresh)} head; it starts from random weights")
