"""Import is exact or refused: every field of the configuration classes has its line in a table, and every refusal names its field."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from data_prep.tokenizer import catalog as tokenizers
from infra.errors import ArtifactError, ConfigError
from tests import prove_import, transformers4
from training.backbone import hub_fields
from training.backbone.hub_fields import FIELDS
from training.evaluation.generate import fill_masked
from training.families import catalog
from training.feed.batch import IGNORE, Batch
from training.imported import adopt
from training.predict import open_classifier

CLASSES = {
    "gpt2": "GPT2Config",
    "openai-gpt": "OpenAIGPTConfig",
    "bert": "BertConfig",
    "roberta": "RobertaConfig",
    "albert": "AlbertConfig",
    "electra": "ElectraConfig",
    "distilbert": "DistilBertConfig",
}
LISTED = "import json, transformers as T; print(json.dumps({{k: getattr(T, n)().to_dict() for k, n in {}.items()}}))"


@pytest.fixture(scope="module", params=["4.57", "5.x"])
def classes(request: pytest.FixtureRequest) -> dict[str, dict[str, Any]]:
    """Every field of every class with its default, in one version of transformers."""
    path = str(transformers4.install()) if request.param == "4.57" else ""
    env = {**os.environ, "PYTHONPATH": path, "TRANSFORMERS_VERBOSITY": "error"}
    done = subprocess.run([sys.executable, "-c", LISTED.format(CLASSES)], env=env, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", CLASSES)
def test_every_field_of_the_class_is_in_exactly_one_table(name: str, classes: dict[str, dict[str, Any]]) -> None:
    tables = FIELDS[name]
    known = [set(tables.mapped), set(tables.all_required()), set(tables.all_irrelevant())]
    assert set(classes[name]) <= set.union(*known)
    assert sum(map(len, known)) == len(set.union(*known))
    assert all(tables.all_irrelevant().values())
    defaults = {field: classes[name][field] for field in tables.mapped if field in classes[name]}
    assert defaults == {field: tables.mapped[field] for field in defaults}
    assert set(tables.mapped) <= set(classes[name])
    assert all(classes[name][field] in values for field, values in tables.all_required().items() if field in classes[name])


@pytest.mark.parametrize("family", prove_import.CONFIGS)
def test_random_configurations_are_exact_or_refused_by_name(family: str) -> None:
    """A sample; `python -m tests.prove_import` draws 500 of each."""
    assert sum(prove_import.prove(family, 6, seed=1).values()) == 6


# ---- one model, changed --------------------------------------------------------------------------------------------------

SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48, "max_position_embeddings": 40}
WORDS = prove_import.WORDS


def saved(folder: Path, kind: str = "BertForMaskedLM", vocab: int = len(WORDS), **more: Any) -> Any:
    torch.manual_seed(1)
    model = getattr(transformers, kind)(transformers.BertConfig(vocab_size=vocab, **SMALL, **more)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    model.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    return model


def rewritten(folder: Path, **changes: Any) -> None:
    settings = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"is_decoder": True}, "is_decoder: True"),
        ({"add_cross_attention": True}, "add_cross_attention: True"),
        ({"position_embedding_type": "relative_key_query"}, "position_embedding_type: 'relative_key_query'"),
        ({"hidden_act": "mish"}, "hidden_act: 'mish'"),
        ({"hidden_act": None}, "hidden_act: None"),
        ({"num_hidden_layers": "2"}, "num_hidden_layers: '2'"),
        ({"num_hidden_layers": 2.0}, "num_hidden_layers: 2.0"),
        ({"num_hidden_layers": True}, "num_hidden_layers: True"),
        ({"num_attention_heads": 3}, "num_attention_heads|hidden_size"),
        ({"hidden_dropout_prob": 1.5}, "hidden_dropout_prob: 1.5"),
        ({"layer_norm_eps": 0.0}, "layer_norm_eps: 0.0"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings: 'yes'"),
        ({"problem_type": "ranking"}, "problem_type: 'ranking'"),
        ({"id2label": {"0": "a", "2": "b"}}, "id2label"),
        ({"num_labels": 7}, "num_labels: 7"),
        ({"pad_token_id": 3}, r"pad_token_id: 3, the tokenizer pads with 0 \('\[PAD\]'\)"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"auto_map": {"AutoModel": "m.M"}}, "auto_map"),
        ({"rope_theta": 1e4}, "rope_theta: 10000.0"),
        ({"vocab_size": 60}, "vocab_size|word_embeddings"),
    ],
)
def test_a_field_that_would_change_the_model_is_named(changes: dict[str, Any], named: str, tmp_path: Path) -> None:
    saved(tmp_path / "given")
    rewritten(tmp_path / "given", **changes)
    with pytest.raises((ConfigError, ArtifactError), match=named):
        adopt(tmp_path / "given", tmp_path / "made")
    assert not (tmp_path / "made").exists()


def test_a_field_and_its_other_name_must_agree(tmp_path: Path) -> None:
    base = {"model_type": "gpt2", "n_embd": 32, "n_layer": 2}
    assert hub_fields.checked({**base, "hidden_size": 32, "num_hidden_layers": 2}, "gpt2")["n_embd"] == 32
    assert hub_fields.checked({"num_hidden_layers": 3}, "gpt2")["n_layer"] == 3
    with pytest.raises(ConfigError, match="n_embd: 32 and hidden_size: 48, which are one field"):
        hub_fields.checked({**base, "hidden_size": 48}, "gpt2")


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda w: w["cls.predictions.bias"].__setitem__(3, float("nan")), "cls.predictions.bias holds NaN or infinity"),
        (
            lambda w: w["bert.encoder.layer.1.output.dense.weight"].__setitem__((0, 0), float("inf")),
            r"layer.1.output.dense.weight holds NaN",
        ),
        (lambda w: w.__setitem__("bert.encoder.layer.2.output.dense.weight", torch.ones(2)), "layer.2.output.dense.weight has no place"),
        (lambda w: w.__setitem__("adapter.weight", torch.ones(2)), "adapter.weight has no place"),
        (lambda w: w.pop("bert.encoder.layer.0.output.LayerNorm.bias"), "layer.0.output.LayerNorm.bias is missing"),
        (lambda w: w.__setitem__("cls.predictions.bias", torch.ones(64, dtype=torch.int8)), "cls.predictions.bias holds int8"),
        (lambda w: w.__setitem__("cls.predictions.decoder.weight", torch.ones(64, 32)), "tie_word_embeddings: true"),
        (lambda w: w.__setitem__("cls.predictions.decoder.bias", torch.ones(64)), "cls.predictions.decoder.bias is another tensor"),
        (lambda w: w.__setitem__("bert.embeddings.LayerNorm.gamma", torch.ones(32)), r"bert.embeddings.LayerNorm.weight twice"),
    ],
)
def test_weights_that_do_not_fit_are_named(change: Any, named: str, tmp_path: Path) -> None:
    saved(tmp_path / "given")
    weights = load_file(tmp_path / "given" / "model.safetensors")
    change(weights)
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, tmp_path / "given" / "model.safetensors")
    with pytest.raises(ArtifactError, match=named):
        adopt(tmp_path / "given", tmp_path / "made")


def test_tensors_of_other_heads_and_buffers_of_older_files_are_no_obstacle(tmp_path: Path) -> None:
    model = saved(tmp_path / "given")
    weights = load_file(tmp_path / "given" / "model.safetensors")
    table = weights["bert.embeddings.word_embeddings.weight"]
    weights |= {"bert.embeddings.position_ids": torch.arange(40)[None], "cls.predictions.decoder.weight": table.clone()}
    weights |= {"cls.seq_relationship.weight": torch.ones(2, 32), "bert.pooler.dense.weight": torch.ones(32, 32)}
    save_file(weights, tmp_path / "given" / "model.safetensors")
    adopt(tmp_path / "given", tmp_path / "made")
    again = transformers.BertForMaskedLM.from_pretrained(tmp_path / "made")
    assert torch.equal(again.cls.predictions.bias, model.cls.predictions.bias)


def test_a_padded_table_is_retained_and_its_rows_are_never_predicted(tmp_path: Path) -> None:
    model = saved(tmp_path / "given", vocab=72)
    with torch.no_grad():
        model.cls.predictions.bias[len(WORDS) :] = 100.0  # rows that nothing trained may say anything
    model.save_pretrained(tmp_path / "given")
    found = adopt(tmp_path / "given", tmp_path / "made")
    assert (found["vocab"], found["padded_vocab"]) == (64, 72)
    tower = catalog.load(tmp_path / "made").eval()
    assert (tower.config.vocab, tower.config.vocab_rows) == (64, 72)
    tokens, labels = torch.randint(5, 64, (2, 12)), torch.full((2, 12), IGNORE)
    labels[:, 3] = 7
    with torch.no_grad():
        theirs = model(tokens, token_type_ids=torch.zeros_like(tokens)).logits
        assert theirs.argmax(-1).min() >= 64
        ours = tower.language_logits(Batch(tokens, torch.zeros_like(tokens), None, {}))
        assert ours.shape == (2, 12, 64)
        torch.testing.assert_close(ours, theirs[..., :64], atol=1e-5, rtol=0)
        loss = tower(Batch(tokens, torch.zeros_like(tokens), None, {"mlm": labels})).total
        wanted = torch.nn.functional.cross_entropy(theirs[:, 3, :64], labels[:, 3])
        torch.testing.assert_close(loss, wanted, atol=1e-5, rtol=0)
        again = transformers.BertForMaskedLM.from_pretrained(tmp_path / "made").eval()
        assert torch.equal(again(tokens).logits, model(tokens).logits)
    assert {guess.token for guess in fill_masked(tmp_path / "made", ["w1 [MASK] w2"], best=64)[0][0]} <= {*WORDS, ""}
    assert json.loads((tmp_path / "made" / "config.json").read_text())["vocab_size"] == 72
    adopt(tmp_path / "made", tmp_path / "twice")  # its own export
    assert catalog.load(tmp_path / "twice").config == tower.config


def test_a_gradient_reaches_a_padded_tables_tokens_alone(tmp_path: Path) -> None:
    saved(tmp_path / "given", vocab=72, tie_word_embeddings=False)
    adopt(tmp_path / "given", tmp_path / "made")
    tower = catalog.load(tmp_path / "made").train()
    labels = torch.full((1, 9), IGNORE)
    labels[0, 2] = 5
    tower(Batch(torch.randint(5, 64, (1, 9)), torch.zeros(1, 9, dtype=torch.long), None, {"mlm": labels})).total.backward()
    gradient = tower.language_head().scores.weight.grad
    assert gradient.shape == (72, 32) and gradient[:64].abs().min() > 0 and not gradient[64:].any()
    assert not tower.config.tied and tower.backbone.embedding.token.weight.grad[64:].abs().max() == 0


@pytest.mark.parametrize("problem", [None, "single_label_classification", "multi_label_classification", "regression"])
def test_names_of_classes_and_the_kind_of_problem_stay_and_predict_follows_them(problem: str | None, tmp_path: Path) -> None:
    names = {0: "refund", 1: "praise", 2: "question"}
    saved(
        tmp_path / "given", "BertForSequenceClassification", id2label=names, label2id={n: i for i, n in names.items()}, problem_type=problem
    )
    rewritten(tmp_path / "given", classifier_dropout=0.3)
    adopt(tmp_path / "given", tmp_path / "made")
    config = transformers.AutoConfig.from_pretrained(tmp_path / "made")
    assert (config.id2label, config.label2id, config.problem_type) == (names, {n: i for i, n in names.items()}, problem)
    assert (config.pad_token_id, config.classifier_dropout) == (0, 0.3)
    pipe = transformers.pipeline("text-classification", model=str(tmp_path / "made"), top_k=None)
    texts = ["w1 w2 w3", "w9", "w4 w4 w8 w20 w31"]
    found = [one.scores for one in open_classifier(tmp_path / "made").predict([(text, None) for text in texts])]
    for ours, theirs in zip(found, pipe(texts), strict=True):
        assert ours == pytest.approx({one["label"]: one["score"] for one in theirs}, abs=1e-5)


# ---- tokenizers ----------------------------------------------------------------------------------------------------------


def text_vocabulary(folder: Path) -> list[str]:
    words = [
        *WORDS[:5],
        *"abcdefghijklmnopqrstuvwxyz",
        *(f"##{c}" for c in "abcdefghijklmnopqrstuvwxyz"),
        "é",
        "##é",
        "É",
        "##É",
        "中",
        "文",
        "##文",
    ]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    return words


OPTIONS: list[dict[str, Any]] = [
    {"do_lower_case": True},
    {"do_lower_case": False},
    {"do_lower_case": True, "strip_accents": False},
    {"do_lower_case": False, "strip_accents": True},
    {"do_lower_case": True, "tokenize_chinese_chars": False},
]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("files", ["vocab.txt", "tokenizer.json"])
def test_tokenizer_options_are_followed(options: dict[str, Any], files: str, tmp_path: Path) -> None:
    given = tmp_path / "given"
    saved(given, vocab=len(text_vocabulary(tmp_path)))
    words = text_vocabulary(given)
    theirs = transformers.BertTokenizer(vocab={word: number for number, word in enumerate(words)}, model_max_length=33, **options)
    if files == "tokenizer.json":
        theirs.save_pretrained(given)
    else:
        (given / "tokenizer_config.json").write_text(
            json.dumps({"tokenizer_class": "BertTokenizer", "model_max_length": 33, "truncation_side": "left", **options})
        )
    adopt(given, tmp_path / "made")
    exported, own = transformers.AutoTokenizer.from_pretrained(tmp_path / "made"), tokenizers.load(tmp_path / "made")
    for text in ("Abc éÉ xyz", "abÉd 中文文 z", "CAFÉ café e\u0301"):
        assert exported(text, text)["input_ids"] == theirs(text, text)["input_ids"]
        assert exported(text, text)["token_type_ids"] == theirs(text, text, return_token_type_ids=True)["token_type_ids"]
        assert own.encode_batch([text])[0] == theirs(text, add_special_tokens=False)["input_ids"]
    assert exported.model_max_length == 33
    assert exported.truncation_side == ("left" if files == "vocab.txt" else "right")


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"do_basic_tokenize": False}, "do_basic_tokenize: False"),
        ({"never_split": ["abc"]}, "never_split"),
        ({"cls_token": "<s>"}, r"cls_token: '<s>', but the vocabulary's is '\[CLS\]'"),
        ({"sep_token": {"content": "</s>"}}, "sep_token: '</s>'"),
        ({"word_tokenizer_type": "mecab"}, "word_tokenizer_type: 'mecab'"),
    ],
)
def test_a_tokenizer_option_that_means_other_ids_is_named(options: dict[str, Any], named: str, tmp_path: Path) -> None:
    saved(tmp_path / "given")
    (tmp_path / "given" / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer", **options}))
    with pytest.raises(ConfigError, match=named):
        adopt(tmp_path / "given", tmp_path / "made")


def test_a_frame_of_another_kind_is_refused(tmp_path: Path) -> None:
    saved(tmp_path / "given")
    adopt(tmp_path / "given", tmp_path / "made")
    shutil.copy(tmp_path / "made" / "tokenizer.json", tmp_path / "given")
    record = json.loads((tmp_path / "given" / "tokenizer.json").read_text())
    record["post_processor"] = {"type": "RobertaProcessing", "sep": ["[SEP]", 3], "cls": ["[CLS]", 2], "trim_offsets": True,
                                "add_prefix_space": False}  # fmt: skip
    (tmp_path / "given" / "tokenizer.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match="post_processor"):
        adopt(tmp_path / "given", tmp_path / "again")


# ---- a GPT's classifier --------------------------------------------------------------------------------------------------


def gpt_classifier(folder: Path, **more: Any) -> Any:
    prove_import.vocabulary("gpt2", folder)
    config = transformers.GPT2Config(vocab_size=257, n_embd=32, n_layer=2, n_head=2, n_positions=40, bos_token_id=0, eos_token_id=0, **more)
    torch.manual_seed(2)
    model = transformers.GPT2ForSequenceClassification(config).eval()
    model.save_pretrained(folder)
    return model


def test_a_gpts_padding_stays_and_its_pairs_are_joined_as_before(tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    model = gpt_classifier(tmp_path / "given", pad_token_id=0, num_labels=3)
    adopt(tmp_path / "given", tmp_path / "made")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "made")
    assert tokenizer.pad_token == "<|endoftext|>" and tokenizer.model_max_length == 40
    rows = [("a long first text", "second"), ("x", "y z")]
    given = tokenizer(*(list(side) for side in zip(*rows, strict=True)), padding=True, return_tensors="pt")
    assert tokenizer.decode(given["input_ids"][0]) == "a long first textsecond"
    again = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "made").eval()
    with torch.no_grad():
        wanted = model(**given).logits.softmax(-1)
        torch.testing.assert_close(again(**given).logits.softmax(-1), wanted)
    found = [list(one.scores.values()) for one in open_classifier(tmp_path / "made").predict(rows)]
    torch.testing.assert_close(torch.tensor(found), wanted, atol=1e-5, rtol=0)


def test_a_gpts_padding_that_a_text_may_contain_is_refused(tmp_path: Path) -> None:
    (tmp_path / "given").mkdir()
    gpt_classifier(tmp_path / "given", pad_token_id=5)
    with pytest.raises(ConfigError, match="pad_token_id: 5, which is '%', not a special token"):
        adopt(tmp_path / "given", tmp_path / "made")
