"""Let a model write: go on with a text (GPT), or fill its gaps (BERT).

Letters: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from data_prep.tokenizer import catalog as tokenizers
from data_prep.tokenizer.base import Tokenizer
from infra.errors import ConfigError
from training.families import catalog
from training.objectives.tower import Tower

GAP = "[MASK]"  # what a gap is called in a text, whatever the tokenizer calls it


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen; temperature 0 takes the likeliest. top_k 0 and top_p 1 leave every token in."""

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0  # the smallest set of tokens with this probability (Holtzman et al. 2020, section 3.1)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1:
            raise ConfigError(
                f"temperature {self.temperature} and top_k {self.top_k} must be at least 0, top_p {self.top_p} above 0 and at most 1"
            )


@dataclass(frozen=True)
class Guess:
    """A token for a gap."""

    token: str
    probability: float


# ---- going on ------------------------------------------------------------------------------------------------------------


def continue_text(folder: Path, prompt: str, tokens: int = 60, sampling: Sampling | None = None) -> str:
    """The prompt and what the model in `folder` makes of it; ends early where the model ends the document."""
    tower, tokenizer = open_model(folder)
    separator = tokenizer.specials.get("eos", tokenizer.specials.get("sep"))
    ids = tokenizer.encode_batch([prompt])[0]
    if not ids and separator is not None:
        ids = [separator]  # a text begins where another has ended
    written = list(continue_ids(tower, ids, tokens, sampling or Sampling(), stop=separator, vocab=tokenizer.vocab))
    return prompt + tokenizer.decode(written)


def continue_ids(
    tower: Tower, ids: Sequence[int], tokens: int, sampling: Sampling, *, stop: int | None = None, vocab: int = 0
) -> Iterator[int]:
    """New ids one by one. Beyond the model's positions it sees the latest only; ids from `vocab` on are padding of the table."""
    if not tower.config.causal:
        raise ConfigError("this model reads both ways and cannot go on with a text; ask it to fill gaps (fill_gaps)")
    if not ids:
        raise ConfigError("there is no token to start from; give a prompt")
    rng = torch.Generator().manual_seed(sampling.seed)
    seen = list(ids)
    for _ in range(tokens):
        found = choose(next_scores(tower, seen)[: vocab or None], sampling, rng)
        if found == stop:
            return
        seen.append(found)
        yield found


@torch.inference_mode()
def next_scores(tower: Tower, seen: Sequence[int]) -> Tensor:
    """Scores [V] of what follows."""
    tower.eval()
    window = torch.tensor([list(seen[-tower.config.positions :])])
    at_BL = torch.zeros(window.shape, dtype=torch.bool)
    at_BL[0, -1] = True
    return tower.language_head().logits(tower.backbone(window), at_BL)[0].float()


def choose(scores_V: Tensor, sampling: Sampling, rng: torch.Generator) -> int:
    """One id."""
    if sampling.temperature == 0:
        return int(scores_V.argmax())
    scores_V, ids_V = (scores_V / sampling.temperature).sort(descending=True, stable=True)
    if sampling.top_k:
        scores_V = scores_V[: sampling.top_k]
    odds_V = scores_V.softmax(-1)
    before_V = odds_V.cumsum(-1) - odds_V
    odds_V = odds_V.masked_fill(before_V >= sampling.top_p, 0.0)  # the likeliest token always stays
    return int(ids_V[torch.multinomial(odds_V, 1, generator=rng)])


# ---- filling in ----------------------------------------------------------------------------------------------------------


def fill_gaps(folder: Path, text: str, best: int = 5) -> list[list[Guess]]:
    """For every [MASK] in `text` the likeliest tokens, best first."""
    tower, tokenizer = open_model(folder)
    ids, gaps = with_gaps(text, tokenizer)
    if tower.config.causal:
        raise ConfigError("this model reads left to right and cannot fill gaps; let it go on with a text (continue_text)")
    if len(ids) > tower.config.positions:
        raise ConfigError(f"the text has {len(ids)} tokens, the model {tower.config.positions} positions; shorten it")
    with torch.inference_mode():
        at_BL = torch.zeros(1, len(ids), dtype=torch.bool)
        at_BL[0, gaps] = True
        scores_NV = tower.eval().language_head().logits(tower.backbone(torch.tensor([ids])), at_BL)
        odds, found = scores_NV[:, : tokenizer.vocab].float().softmax(-1).topk(best)
    return [
        [Guess(tokenizer.decode([i]), p) for i, p in zip(row, chances, strict=True)]
        for row, chances in zip(found.tolist(), odds.tolist(), strict=True)
    ]


def with_gaps(text: str, tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The framed ids of a text, and where its gaps stand among them."""
    if "mask" not in tokenizer.specials:
        raise ConfigError(f"a {tokenizer.kind} tokenizer without a mask token belongs to no model that fills gaps")
    if GAP not in text:
        raise ConfigError(f"the text has no gap; write {GAP} where a word is missing")
    mask, first, last = tokenizer.specials["mask"], tokenizer.specials.get("cls"), tokenizer.specials.get("sep")
    parts = tokenizer.encode_batch(text.split(GAP))
    ids = [] if first is None else [first]
    gaps: list[int] = []
    for index, part in enumerate(parts):
        if index:
            gaps.append(len(ids))
            ids.append(mask)
        ids.extend(part)
    return ids if last is None else [*ids, last], gaps


def open_model(folder: Path) -> tuple[Tower, Tokenizer]:
    """Model and tokenizer of a model folder."""
    return catalog.load(Path(folder)).eval(), tokenizers.load(Path(folder))
