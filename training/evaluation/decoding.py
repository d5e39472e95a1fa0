"""Decoding with a causal model: greedy, sampling with top-k and top-p, beam search; batches of prompts with a key-value cache.

Letters: R rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from infra.errors import ConfigError
from training.backbone.kv_cache import KVCache
from training.backbone.transformer import Hidden
from training.feed.random import draws, fold, unit
from training.objectives.tower import Tower

Ids = list[int]
Ended = Callable[[Ids], bool]  # whether these new ids end a text, stop token aside


@dataclass(frozen=True)
class Sampling:
    """How the next token is drawn; temperature 0 takes the most probable (greedy). top_k 0 and top_p 1 exclude no token.

    top_p: the smallest set of tokens with this probability (Holtzman et al. 2020, section 3.1). samples: texts per prompt. Draws are
    functions of (seed, row, step), so a prompt's texts do not depend on how many others are in the batch after it.
    """

    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    seed: int = 0
    samples: int = 1

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.top_k < 0 or not 0 < self.top_p <= 1 or self.samples < 1:
            raise ConfigError(
                f"temperature {self.temperature} and top_k {self.top_k} must be at least 0, top_p {self.top_p} above 0 and at most 1, "
                f"samples {self.samples} at least 1"
            )


@dataclass(frozen=True)
class BeamSearch:
    """Beam search as transformers.generate does it (early_stopping=False): finished texts are compared by their log-probability
    divided by length ** length_penalty, the end token counted; a search ends when the best unfinished one is no better."""

    beams: int = 4
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.beams < 1:
            raise ConfigError(f"beams is {self.beams}; it must be at least 1")


def decode(
    tower: Tower,
    prompts: Sequence[Sequence[int]],
    tokens: int,
    how: Sampling | BeamSearch,
    *,
    stop: int | None = None,
    vocab: int = 0,
    ended: Ended | None = None,
) -> list[list[Ids]]:
    """New ids for each prompt, without the stop token: `samples` lists for each, or one from a beam search.

    vocab: ids from here on are padding of the table and are never chosen (0: none). Raises ConfigError for a bidirectional model, an
    empty prompt, or fewer than one token.
    """
    if not tower.config.causal:
        raise ConfigError("this model is bidirectional and cannot continue a text; fill masked tokens with it (`textmill fill`)")
    if not prompts or not all(prompts):
        raise ConfigError("there is no token to start from; give a prompt")
    if tokens < 1:
        raise ConfigError(f"tokens is {tokens}; it must be at least 1")
    rows = Rows(tower.eval(), prompts, tokens, vocab)
    ended = ended or (lambda ids: False)
    if isinstance(how, BeamSearch):
        return [[best] for best in _beam_search(rows, tokens, how, stop, ended)]
    found = _one_by_one(rows, tokens, how, stop, ended)
    return [found[start : start + how.samples] for start in range(0, len(found), how.samples)]


class Rows:
    """Texts that grow by a token at a time, and the model's logits for what follows each.

    A row longer than the model's positions is read from its latest tokens only, without a cache: each token then moves all positions.
    """

    def __init__(self, tower: Tower, prompts: Sequence[Sequence[int]], tokens: int, vocab: int) -> None:
        self.tower, self.vocab = tower, vocab or tower.config.vocab
        self.ids: list[Ids] = [list(prompt) for prompt in prompts]
        self.device = tower.backbone.embedding.token.weight.device
        self._cache: KVCache | None = None
        self._unread, padding_R = self._padded()
        if self._unread.shape[1] == max(map(len, self.ids)):
            capacity = min(tower.config.positions, self._unread.shape[1] + tokens)
            self._cache = KVCache(tower.backbone, len(self.ids), capacity, padding_R)

    @torch.inference_mode()
    def logits(self) -> Tensor:
        """Float32 logits [R, V] of the next token."""
        if self._cache is not None and self._cache.length + self._unread.shape[1] <= self._cache.capacity:
            last_R1D = self._cache.extend(self._unread)
        else:
            self._cache = None
            window_RL, padding_R = self._padded()
            last_R1D = KVCache(self.tower.backbone, len(self.ids), window_RL.shape[1], padding_R).extend(window_RL)
        return self.tower.language_head().logits(Hidden(last_R1D))[:, 0, : self.vocab].float()

    def append(self, new: Sequence[int]) -> None:
        """One id for each row."""
        for ids, one in zip(self.ids, new, strict=True):
            ids.append(one)
        self._unread = torch.tensor(new, device=self.device)[:, None]

    def select(self, rows: Sequence[int]) -> None:
        """Continue with these rows, in this order; one may be named several times."""
        if list(rows) == list(range(len(self.ids))):
            return
        self.ids = [list(self.ids[row]) for row in rows]
        if self._cache is not None:
            self._cache.select(torch.tensor(rows, device=self.device))

    def _padded(self) -> tuple[Tensor, Tensor]:
        """The latest tokens of every row, padded on the left to one length, and how many are padding."""
        latest = [ids[-self.tower.config.positions :] for ids in self.ids]
        length = max(map(len, latest))
        padding = [length - len(ids) for ids in latest]
        padded = [[0] * more + ids for more, ids in zip(padding, latest, strict=True)]
        return torch.tensor(padded, device=self.device), torch.tensor(padding, device=self.device)


# ---- greedy and sampling -------------------------------------------------------------------------------------------------


def _one_by_one(rows: Rows, tokens: int, how: Sampling, stop: int | None, ended: Ended) -> list[Ids]:
    texts: list[Ids] = [[] for _ in range(len(rows.ids) * how.samples)]
    running = list(range(len(texts)))
    logits_RV = rows.logits()
    if how.samples > 1:
        first = [row // how.samples for row in running]
        rows.select(first)
        logits_RV = logits_RV[first]
    for step in range(tokens):
        if step:
            logits_RV = rows.logits()
        chosen = choose(logits_RV, how, running, step)
        for row, one in zip(running, chosen, strict=True):
            if one != stop:
                texts[row].append(one)
        left = [i for i, (row, one) in enumerate(zip(running, chosen, strict=True)) if one != stop and not ended(texts[row])]
        if not left:
            break
        rows.select(left)
        rows.append([chosen[i] for i in left])
        running = [running[i] for i in left]
    return texts


def choose(logits_RV: Tensor, how: Sampling, rows: Sequence[int], step: int) -> Ids:
    """One id for each row; rows: their numbers, which key the random draws."""
    if how.temperature == 0:
        return [int(one) for one in logits_RV.argmax(-1)]
    sorted_RV, ids_RV = (logits_RV / how.temperature).sort(dim=-1, descending=True, stable=True)
    if how.top_k:
        sorted_RV = sorted_RV[:, : how.top_k]
    odds_RV = sorted_RV.double().softmax(-1)
    before_RV = odds_RV.cumsum(-1) - odds_RV
    odds_RV = odds_RV.masked_fill(before_RV >= how.top_p, 0.0)  # the most probable token always stays
    draw_R1 = torch.from_numpy(unit(draws(fold(how.seed, rows, step), 1))).to(odds_RV.device)
    sums_RV = odds_RV.cumsum(-1)
    place_R1 = torch.searchsorted(sums_RV, draw_R1 * sums_RV[:, -1:], right=True).clamp_(max=odds_RV.shape[1] - 1)
    return [int(one) for one in ids_RV.gather(1, place_R1)[:, 0]]


# ---- beam search ---------------------------------------------------------------------------------------------------------


@dataclass
class _Search:
    """The beam search of one prompt. running: log-probability and new ids, best first; finished: the same with the compared score."""

    running: list[tuple[float, Ids]] = field(default_factory=lambda: [(0.0, [])])
    finished: list[tuple[float, Ids]] = field(default_factory=list)
    done: bool = False


def _beam_search(rows: Rows, tokens: int, how: BeamSearch, stop: int | None, ended: Ended) -> list[Ids]:
    if 2 * how.beams > rows.vocab:
        raise ConfigError(f"{how.beams} beams need a vocabulary of at least {2 * how.beams} tokens; it has {rows.vocab}")
    searches = [_Search() for _ in rows.ids]
    active = list(searches)
    for length in range(1, tokens + 1):
        logprobs_RV = rows.logits().log_softmax(-1)
        parents: list[int] = []
        chosen: Ids = []
        start = 0
        for search in active:
            width = len(search.running)
            scores_W1 = torch.tensor([[score] for score, _ in search.running], device=rows.device)
            top = (logprobs_RV[start : start + width] + scores_W1).flatten().topk(2 * how.beams)
            best = [(score, *divmod(place, rows.vocab)) for score, place in zip(top.values.tolist(), top.indices.tolist(), strict=True)]
            for beam, one in _advance(search, best, length, tokens, how, stop, ended):
                parents.append(start + beam)
                chosen.append(one)
            start += width
        active = [search for search in active if not search.done]
        if not active:
            break
        rows.select(parents)
        rows.append(chosen)
    return [search.finished[0][1] for search in searches]


def _advance(
    search: _Search, best: list[tuple[float, int, int]], length: int, tokens: int, how: BeamSearch, stop: int | None, ended: Ended
) -> list[tuple[int, int]]:
    """Take one step; best: (log-probability, beam, token) of the likeliest continuations. Returns (beam, token) of those that run on."""
    before, divisor = search.running, length**how.length_penalty
    search.running, going = [], []
    for rank, (score, beam, one) in enumerate(best):
        ids = before[beam][1] if one == stop else [*before[beam][1], one]
        if one == stop or length == tokens or ended(ids):
            if rank < how.beams:  # as in the reference: the lower half only keeps the beam full
                search.finished.append((score / divisor, ids))
        elif len(search.running) < how.beams:
            search.running.append((score, ids))
            going.append((beam, one))
    search.finished = sorted(search.finished, key=lambda each: -each[0])[: how.beams]
    full = len(search.finished) == how.beams
    search.done = not search.running or (full and search.running[0][0] / divisor <= search.finished[-1][0])
    return [] if search.done else going
