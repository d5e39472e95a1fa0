"""Random configurations of transformers' classes through `textmill import`: the same logits, or a refusal that names the field.

make prove PROVE=tests/prove_import.py              500 of every family
python -m tests.prove_import --count 500            the same, with the counts printed
python -m tests.prove_import --family bert --seed 3

A configuration is drawn from everything that its class takes: sizes, activations, ties, scales, rates, labels, padded vocabularies,
and now and then a field or a value that textmill does not compute. Every draw must end in logits within 1e-5 of transformers' own
(eager attention, float32), computed by textmill from its import and by transformers from textmill's export; or in an error that
names one of the unusual fields.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import sys
import tempfile
import time
import warnings
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import pytest
import torch
import transformers
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
from tokenizers.pre_tokenizers import ByteLevel

from infra.errors import ArtifactError, ConfigError
from training.families import catalog
from training.feed.batch import Batch
from training.imported import adopt

CLOSE = 1e-5
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(f"w{i}" for i in range(59))]
KNOWN = ["gelu", "gelu_new", "gelu_pytorch_tanh", "gelu_python", "gelu_fast", "relu", "silu", "swish", "tanh", "quick_gelu"]
STRANGE = ["mish", "relu2", "leaky_relu", "gelu_10", "sigmoid"]


@dataclass
class Draw:
    """One model to be: its class, the arguments of its configuration, and the fields that a refusal may name."""

    family: str
    architecture: str
    arguments: dict[str, Any]
    unusual: set[str] = field(default_factory=set)
    extra: dict[str, Any] = field(default_factory=dict)  # written into config.json afterwards
    half: bool = False


# ---- vocabularies --------------------------------------------------------------------------------------------------------


def vocabulary(family: str, folder: Path) -> tuple[int, int | None]:
    """Write the files of a small vocabulary; how many tokens it has, and the id of padding."""
    if family in ("bert", "electra", "distilbert"):
        (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
        return len(WORDS), 0
    if family == "albert":
        return sentencepieces(folder), 0
    if family == "gpt1":
        letters = "abcdefghijklmnopqrstuvwxyz"
        words = ["<unk>", "<|endoftext|>", *letters, *(f"{letter}</w>" for letter in letters)]
    else:
        first = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"] if family == "roberta" else ["<|endoftext|>"]
        words = [*first, *sorted(ByteLevel.alphabet())]
    (folder / "vocab.json").write_text(json.dumps({word: number for number, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    return len(words), 1 if family == "roberta" else None


def sentencepieces(folder: Path) -> int:
    specials = ["<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"]
    pieces = [*((name, 0.0) for name in specials), *((letter, -3.0 - n / 10) for n, letter in enumerate("▁abcdefghijklmnopqrstuvwxyz"))]
    engine = Tokenizer(models.Unigram(pieces, unk_id=1))
    engine.pre_tokenizer = pre_tokenizers.Metaspace()
    engine.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in specials])
    engine.save(str(folder / "tokenizer.json"))
    record = json.loads((folder / "tokenizer.json").read_text())
    record["post_processor"] = {"type": "BertProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2]}
    (folder / "tokenizer.json").write_text(json.dumps(record))
    return len(pieces)


# ---- configurations ------------------------------------------------------------------------------------------------------

ARCHITECTURES = {
    "gpt2": ["GPT2LMHeadModel", "GPT2LMHeadModel", "GPT2ForSequenceClassification"],
    "gpt1": ["OpenAIGPTLMHeadModel", "OpenAIGPTLMHeadModel", "OpenAIGPTForSequenceClassification"],
    "bert": ["BertForPreTraining", "BertForMaskedLM", "BertForSequenceClassification"],
    "roberta": ["RobertaForMaskedLM", "RobertaForMaskedLM", "RobertaForSequenceClassification"],
    "albert": ["AlbertForPreTraining", "AlbertForMaskedLM", "AlbertForSequenceClassification"],
    "electra": ["ElectraForPreTraining", "ElectraForMaskedLM", "ElectraForSequenceClassification"],
    "distilbert": ["DistilBertForMaskedLM", "DistilBertForMaskedLM", "DistilBertForSequenceClassification"],
}
CONFIGS = {
    "gpt2": transformers.GPT2Config,
    "gpt1": transformers.OpenAIGPTConfig,
    "bert": transformers.BertConfig,
    "roberta": transformers.RobertaConfig,
    "albert": transformers.AlbertConfig,
    "electra": transformers.ElectraConfig,
    "distilbert": transformers.DistilBertConfig,
}


def drawn(family: str, rng: random.Random, tokens: int, pad: int | None) -> Draw:
    draw = Draw(family, rng.choice(ARCHITECTURES[family]), {}, half=rng.random() < 0.1)
    heads = rng.choice([1, 2, 4])
    shape = {"width": heads * rng.choice([4, 8, 12]), "heads": heads, "layers": rng.choice([1, 2, 3, 4]), "ffn": rng.randrange(8, 80)}
    shape |= {"positions": rng.randrange(24, 48), "vocab": tokens + rng.choice([0, 0, 1, 8, 64])}
    rates = [rng.choice([0.0, 0.1, 0.3]) for _ in range(3)]
    if family in ("gpt2", "gpt1"):
        gpt_arguments(draw, rng, shape, rates)
    elif family == "distilbert":
        names = {"vocab": "vocab_size", "width": "dim", "heads": "n_heads", "layers": "n_layers", "ffn": "hidden_dim"}
        draw.arguments |= {theirs: shape[ours] for ours, theirs in names.items()}
        draw.arguments |= {"max_position_embeddings": shape["positions"], "dropout": rates[0], "attention_dropout": rates[1]}
        draw.arguments |= {"qa_dropout": rates[2], "sinusoidal_pos_embds": rng.random() < 0.2, "seq_classif_dropout": rates[2]}
        activation(draw, rng, "activation", KNOWN)
    else:
        bert_arguments(draw, rng, shape, rates)
    if rng.random() < 0.3:
        draw.arguments["tie_word_embeddings"] = False
    draw.arguments |= {"initializer_range": rng.choice([0.01, 0.02, 0.1]), "chunk_size_feed_forward": rng.choice([0, 0, 3])}
    if family in ("gpt2", "gpt1"):  # whose attention is not chunked
        draw.arguments["chunk_size_feed_forward"] = 0
    classes(draw, rng)
    padding(draw, rng, tokens, pad)
    strange(draw, rng)
    return draw


def activation(draw: Draw, rng: random.Random, name: str, known: list[str], strange: list[str] = STRANGE) -> None:
    draw.arguments[name] = rng.choice(known)
    if rng.random() < 0.1:
        draw.arguments[name] = rng.choice(strange)
        draw.unusual.add(name)


def gpt_arguments(draw: Draw, rng: random.Random, shape: dict[str, int], rates: list[float]) -> None:
    draw.arguments |= {"n_embd": shape["width"], "n_head": shape["heads"], "n_layer": shape["layers"], "n_positions": shape["positions"]}
    draw.arguments |= {"vocab_size": shape["vocab"], "resid_pdrop": rates[0], "embd_pdrop": rates[1], "attn_pdrop": rates[2]}
    draw.arguments |= {"layer_norm_epsilon": rng.choice([1e-12, 1e-5, 1e-3]), "summary_first_dropout": rates[1]}
    if draw.family == "gpt1":
        activation(draw, rng, "afn", ["gelu", "relu", "silu", "swish"], ["mish"])
        if "afn" in draw.unusual:  # the class knows no other
            draw.arguments["afn"] = "gelu"
            draw.extra["afn"] = "mish"
        return
    draw.arguments["n_inner"] = rng.choice([None, shape["ffn"]])
    activation(draw, rng, "activation_function", KNOWN)
    for name in ("scale_attn_weights", "scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn"):
        draw.arguments[name] = rng.random() < 0.5
    if rng.random() < 0.05:
        draw.arguments["add_cross_attention"] = True
        draw.unusual.add("add_cross_attention")


def bert_arguments(draw: Draw, rng: random.Random, shape: dict[str, int], rates: list[float]) -> None:
    names = {"vocab": "vocab_size", "width": "hidden_size", "heads": "num_attention_heads", "layers": "num_hidden_layers"}
    names |= {"ffn": "intermediate_size", "positions": "max_position_embeddings"}
    draw.arguments |= {theirs: shape[ours] for ours, theirs in names.items()}
    draw.arguments |= {"hidden_dropout_prob": rates[0], "attention_probs_dropout_prob": rates[1]}
    draw.arguments |= {"layer_norm_eps": rng.choice([1e-12, 1e-5, 1e-3]), "type_vocab_size": rng.choice([1, 2, 2, 3])}
    activation(draw, rng, "hidden_act", KNOWN)
    if draw.family in ("albert", "electra"):
        sizes = [size for size in (4, 6, 16, 40) if size != shape["width"]]
        draw.arguments["embedding_size"] = rng.choice(sizes) if rng.random() < 0.9 else shape["width"]
    if draw.family == "albert":
        if draw.arguments["embedding_size"] == shape["width"]:
            draw.unusual.add("embedding_size")
        groups = 2 if rng.random() < 0.1 else rng.choice([1, shape["layers"]])
        if groups not in (1, shape["layers"]):
            draw.unusual.add("num_hidden_groups")
            draw.arguments["num_hidden_layers"] = 4
        draw.arguments |= {"num_hidden_groups": groups, "classifier_dropout_prob": rates[2]}
        if rng.random() < 0.08:
            draw.arguments["inner_group_num"] = 2
            draw.unusual.add("inner_group_num")
        return
    draw.arguments["classifier_dropout"] = rng.choice([None, rates[2]])
    if rng.random() < 0.06:
        draw.arguments["is_decoder"] = True
        draw.unusual.add("is_decoder")
        if rng.random() < 0.5:
            draw.arguments["add_cross_attention"] = True
            draw.unusual.add("add_cross_attention")


def classes(draw: Draw, rng: random.Random) -> None:
    if not draw.architecture.endswith("Classification"):
        return
    count = rng.randrange(1, 6)
    if rng.random() < 0.7:
        names = rng.sample(["refund", "praise", "question", "spam", "other", "order"], count)
        draw.arguments |= {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    else:
        draw.arguments["num_labels"] = count
    kinds = [None, "single_label_classification", "multi_label_classification", "regression"]
    draw.arguments["problem_type"] = rng.choice(kinds if count > 1 else [None, "multi_label_classification", "regression"])
    if rng.random() < 0.05:
        draw.extra["problem_type"] = "ranking"
        draw.unusual.add("problem_type")


def padding(draw: Draw, rng: random.Random, tokens: int, pad: int | None) -> None:
    draw.arguments["pad_token_id"] = pad
    if pad is None:  # a GPT's: its end of text, or nothing
        end = 1 if draw.family == "gpt1" else 0
        draw.arguments |= {"bos_token_id": end, "eos_token_id": end, "pad_token_id": rng.choice([None, end])}
        if draw.architecture.endswith("Classification") and rng.random() < 0.1:
            draw.arguments["pad_token_id"] = tokens - 1  # a letter
            draw.unusual.add("pad_token_id")
    elif rng.random() < 0.06:
        draw.arguments["pad_token_id"] = 4
        draw.unusual.add("pad_token_id")


def strange(draw: Draw, rng: random.Random) -> None:
    """Now and then a field that the class keeps without reading it, or that no version knows."""
    found = {
        "position_embedding_type": "relative_key",
        "pruned_heads": {"0": [1]},
        "is_encoder_decoder": True,
        "attention_bias": False,
        "quantization_config": {"bits": 4},
        "rotary_pct": 0.25,
        "auto_map": {"AutoModel": "modeling.Model"},
        "tie_encoder_decoder": True,
    }
    if rng.random() < 0.08:
        name = rng.choice(sorted(found))
        draw.extra[name] = found[name]
        draw.unusual.add(name)


# ---- one draw ------------------------------------------------------------------------------------------------------------


def save(draw: Draw, folder: Path, seed: int) -> torch.nn.Module:
    """A random model with deviation 0.2, in a folder as transformers writes it; float32, as it will be read."""
    torch.manual_seed(seed)
    kind = getattr(transformers, draw.architecture)
    model = kind(CONFIGS[draw.family](**draw.arguments)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    if draw.half:
        model = model.half()
    model.save_pretrained(folder)
    settings = json.loads((folder / "config.json").read_text()) | draw.extra
    (folder / "config.json").write_text(json.dumps(settings))
    return model.float()


def batch_of(draw: Draw, config: Any, tokens: int, seed: int) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
    """Tokens, segments and kept places of three rows, two of them padded."""
    longest = getattr(config, "n_positions", None) or config.max_position_embeddings
    longest -= draw.arguments["pad_token_id"] + 1 if draw.family == "roberta" else 0
    length, rng = min(18, longest), torch.Generator().manual_seed(seed)
    pad = draw.arguments.get("pad_token_id")
    ids = torch.randint(2 if draw.family == "gpt1" else 5, tokens - 1, (3, length), generator=rng)
    keep = torch.arange(length)[None] < torch.tensor([length, length // 2, 3])[:, None]
    if pad is None:
        ids, keep = ids[:1], keep[:1]
    else:
        ids = ids.masked_fill(~keep, pad)
    types = getattr(config, "type_vocab_size", 0)
    segments = None
    if types > 1 and draw.family != "roberta":
        segments = torch.randint(0, types, ids.shape, generator=rng) * keep[: len(ids)]
    return ids, segments, keep[: len(ids)]


@torch.no_grad()
def theirs(model: torch.nn.Module, ids: torch.Tensor, segments: torch.Tensor | None, keep: torch.Tensor) -> list[torch.Tensor]:
    """Every logit of the library's model."""
    more = {} if segments is None else {"token_type_ids": segments}
    out = model(ids, attention_mask=keep.long(), **more)
    return [out[name] for name in ("logits", "prediction_logits", "seq_relationship_logits", "sop_logits") if name in out]


@torch.no_grad()
def ours(folder: Path, ids: torch.Tensor, segments: torch.Tensor | None, keep: torch.Tensor) -> list[torch.Tensor]:
    tower = catalog.load(folder).eval()
    hidden = tower.hidden(Batch(ids, segments, keep, {}))
    return [head.logits(hidden) for head in tower.heads]


def apart(a: list[torch.Tensor], b: list[torch.Tensor], keep: torch.Tensor, tokens: int) -> float:
    """The largest difference of logits at real tokens; of a vocabulary only those of the tokenizer's tokens."""
    assert len(a) == len(b) > 0
    found = 0.0
    for one, other in zip(a, b, strict=True):
        at_tokens = one.shape[:2] == keep.shape and one.dim() >= 2
        assert one.dim() < 3 or min(one.shape[-1], other.shape[-1]) >= tokens, "a token has no logit"
        x, y = (side[keep][..., :tokens] if at_tokens else side for side in (one, other))
        assert x.shape == y.shape and bool(x.isfinite().all())
        found = max(found, float((x - y).abs().max()))
    return found


def outcome(draw: Draw, seed: int, root: Path, vocab: Path, tokens: int) -> str:
    """'imported' or 'refused'. Raises AssertionError with the draw when it is neither rightly."""
    given, made = root / "given", root / "made"
    for folder in (given, made):
        shutil.rmtree(folder, ignore_errors=True)
    model = save(draw, given, seed)
    for path in vocab.iterdir():
        shutil.copyfile(path, given / path.name)
    told = f"{draw}"
    try:
        adopt(given, made)
    except (ConfigError, ArtifactError) as error:
        assert any(name in str(error) for name in draw.unusual), f"refused without naming what is unusual: {error}\n{told}"
        return "refused"
    model.config._attn_implementation = "eager"
    ids, segments, keep = batch_of(draw, model.config, tokens, seed)
    wanted = theirs(model, ids, segments, keep)
    distance = apart(wanted, ours(made, ids, segments, keep), keep, tokens)
    assert distance <= CLOSE, f"textmill's logits are {distance} away\n{told}"
    again = type(model).from_pretrained(made, attn_implementation="eager").eval()
    distance = apart(wanted, theirs(again, ids, segments, keep), keep, tokens)
    assert distance <= CLOSE, f"the export's logits are {distance} away\n{told}"
    for name in ("problem_type", "id2label", "pad_token_id"):
        if name != "pad_token_id" or draw.arguments.get(name) is not None:
            assert getattr(again.config, name) == getattr(model.config, name), f"{name} is lost\n{told}"
    return "imported"


def prove(family: str, count: int, seed: int = 0) -> Counter[str]:
    """So many draws of a family. Raises AssertionError at the first that fails."""
    warnings.filterwarnings("ignore")
    transformers.utils.logging.disable_progress_bar()
    torch.set_num_threads(1)  # small products: more threads wait longer than they work
    results: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as top:
        vocab = Path(top) / "vocabulary"
        vocab.mkdir()
        tokens, pad = vocabulary(family, vocab)
        for number in range(count):
            key = f"{family} {seed} {number}"
            results[outcome(drawn(family, random.Random(key), tokens, pad), number, Path(top), vocab, tokens)] += 1
    return results


@pytest.mark.timeout(7200)
@pytest.mark.parametrize("family", CONFIGS)
def test_500_configurations_of_a_family_give_the_same_logits_or_are_refused_by_name(family: str) -> None:
    results = prove(family, 500)  # raises AssertionError at the first that fails
    assert results.total() == 500
    assert results["imported"] > 250 and results["refused"] > 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=500, help="configurations of each family")
    parser.add_argument("--family", choices=sorted(CONFIGS), help="one family; all when left out")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    for family in [given.family] if given.family else CONFIGS:
        start = time.process_time()
        results = prove(family, given.count, given.seed)
        print(f"{family}: {results['imported']} imported within {CLOSE}, {results['refused']} refused by name, "
              f"{time.process_time() - start:.0f} CPU seconds", flush=True)  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
