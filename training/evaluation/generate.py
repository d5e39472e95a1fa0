"""Generate text with a model directory: continue prompts (causal models), or fill masked tokens (masked language models)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from data_prep.tokenizer import catalog as tokenizers
from data_prep.tokenizer.base import Tokenizer
from infra.errors import ConfigError
from training.evaluation.decoding import BeamSearch, Ended, Ids, Sampling, decode
from training.families import catalog
from training.feed.batch import Batch
from training.objectives.tower import Tower

MASK = "[MASK]"  # what a masked token is called in a text, whatever the tokenizer calls it
SPARE_TOKENS = 8  # ids that decode to nothing may stand among those that spell a stop string


@dataclass(frozen=True)
class Guess:
    """A token for a masked position."""

    token: str
    probability: float


# ---- continue prompts ----------------------------------------------------------------------------------------------------


def continue_texts(
    folder: Path, prompts: Sequence[str], tokens: int = 60, how: Sampling | BeamSearch | None = None, stop: Sequence[str] = ()
) -> list[list[str]]:
    """For each prompt the texts that continue it, prompt included: `samples` of them, or one from a beam search.

    A text ends early where the model ends the document, or before a stop string. Raises ConfigError for a model that is not causal.
    """
    if not all(stop):
        raise ConfigError("a stop string is empty; leave it out or name the text that ends a generation")
    model, tokenizer = open_model(folder)
    separator = tokenizer.specials.get("eos", tokenizer.specials.get("sep"))
    starts = tokenizer.encode_batch(list(prompts))
    if separator is not None:
        starts = [ids or [separator] for ids in starts]  # a document begins where another has ended
    ended = _stop_at(tokenizer, stop) if stop else None
    found = decode(model, starts, tokens, how or Sampling(), stop=separator, vocab=tokenizer.vocab, ended=ended)
    return [
        [prompt + _before_stop(continuation(tokenizer, prompt, ids, new), stop) for new in texts]
        for prompt, ids, texts in zip(prompts, starts, found, strict=True)
    ]


def continuation(tokenizer: Tokenizer, prompt: str, ids: Sequence[int], new: Sequence[int]) -> str:
    """The text of new ids after a prompt: what decoding prompt and new ids together adds, so that spaces between words are kept.

    White space at the prompt's end is not written twice.
    """
    if not new:
        return ""
    before, both = tokenizer.decode(ids), tokenizer.decode([*ids, *new])
    added = both[len(before) :] if prompt and both.startswith(before) else tokenizer.decode(new)
    return added.lstrip() if prompt[-1:].isspace() and not before[-1:].isspace() else added


def _stop_at(tokenizer: Tokenizer, stop: Sequence[str]) -> Ended:
    """A token spells at least one byte, so a stop string lies within as many of the latest ids as it has bytes, and a few spare ones."""
    tail = max(len(text.encode()) for text in stop) + SPARE_TOKENS

    def ended(ids: Ids) -> bool:
        text = tokenizer.decode(ids[-tail:])
        return any(one in text for one in stop)

    return ended


def _before_stop(text: str, stop: Sequence[str]) -> str:
    """The text up to the first stop string."""
    places = [place for one in stop if (place := text.find(one)) >= 0]
    return text[: min(places)] if places else text


# ---- fill masked tokens --------------------------------------------------------------------------------------------------


def fill_masked(folder: Path, texts: Sequence[str], best: int = 5) -> list[list[list[Guess]]]:
    """For every [MASK] of every text the most probable tokens, best first.

    Raises ConfigError for a model without a masked-language-model head, a text without [MASK], or one that is too long.
    """
    model, tokenizer = open_model(folder)
    if model.config.causal:
        raise ConfigError("this model is causal and cannot fill masked tokens; continue a text with it (`textmill generate`)")
    if not any(head.name == "mlm" for head in model.heads):
        raise ConfigError(f"{folder} has no masked-language-model head: it was fine-tuned or exported without one")
    framed = [with_masks(text, tokenizer) for text in texts]
    for number, (ids, _) in enumerate(framed):
        if len(ids) > model.config.positions:
            raise ConfigError(f"text {number + 1} has {len(ids)} tokens, the model {model.config.positions} positions; shorten it")
    scores_NV = _masked_logits(model, framed)[:, : tokenizer.vocab].float()
    odds, found = (each.tolist() for each in scores_NV.softmax(-1).topk(min(best, tokenizer.vocab)))
    guesses = iter([Guess(tokenizer.decode([i]).strip(), p) for i, p in zip(*row, strict=True)] for row in zip(found, odds, strict=True))
    return [[next(guesses) for _ in masked] for _, masked in framed]


@torch.inference_mode()
def _masked_logits(model: Tower, framed: Sequence[tuple[list[int], list[int]]]) -> Tensor:
    """Logits [N, V] of the masked positions, text by text; shorter texts are padded on the right."""
    shape = len(framed), max(len(ids) for ids, _ in framed)
    tokens_BL, keep_BL = torch.zeros(shape, dtype=torch.long), torch.zeros(shape, dtype=torch.bool)
    at_BL = torch.zeros(shape, dtype=torch.bool)
    for row, (ids, masked) in enumerate(framed):
        tokens_BL[row, : len(ids)], keep_BL[row, : len(ids)] = torch.tensor(ids), True
        at_BL[row, masked] = True
    device = model.backbone.embedding.token.weight.device
    batch = Batch(tokens_BL, keep_BL=None if bool(keep_BL.all()) else keep_BL).to(device)
    return model.language_logits(batch, at_BL.to(device))


def with_masks(text: str, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """Ids of a text with its special tokens, and the positions of its masked ones; a mask takes the space before it, as published
    tokenizers have it (lstrip)."""
    if "mask" not in tokenizer.specials:
        raise ConfigError(f"this {tokenizer.kind} tokenizer has no mask token: its model cannot fill masked tokens")
    if MASK not in text:
        raise ConfigError(f"the text has no masked token; write {MASK} where a word is missing")
    mask, first, last = tokenizer.specials["mask"], tokenizer.specials.get("cls"), tokenizer.specials.get("sep")
    *before, rest = text.split(MASK)
    parts = tokenizer.encode_batch([*(part.rstrip() for part in before), rest])
    ids = [] if first is None else [first]
    masked: list[int] = []
    for index, part in enumerate(parts):
        if index:
            masked.append(len(ids))
            ids.append(mask)
        ids.extend(part)
    return ids if last is None else [*ids, last], masked


def open_model(folder: Path) -> tuple[Tower, Tokenizer]:
    """Model, on the GPU if there is one, and tokenizer of a model directory."""
    model = catalog.load(Path(folder)).eval()
    return model.to("cuda" if torch.cuda.is_available() else "cpu"), tokenizers.load(Path(folder))
