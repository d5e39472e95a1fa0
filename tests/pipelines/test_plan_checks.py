"""Every check of `textmill plan`: a planted fault is found before any work, with its line; the list in CONTRIBUTING.md is complete."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.errors import ConfigError
from pipelines import plan_checks
from pipelines.runner import Order, check

CONTRIBUTING = Path(__file__).parents[2] / "CONTRIBUTING.md"
SHAPE = {"layers": 1, "width": 32, "heads": 2, "positions": 64}
TRAIN = {"tokens": 2048, "batch_tokens": 512, "length": 32, "lr": 1e-3, "overrides": SHAPE}
Said = dict[str, Any]
Change = Callable[[Said, Path], object]


def write(folder: Path) -> Said:
    """A recipe without a fault, beside its files."""
    (folder / "docs.jsonl").write_text("".join(json.dumps({"text": f"Document {n}. " + "Some words. " * 40}) + "\n" for n in range(100)))
    for side in ("train", "dev"):
        (folder / f"{side}.tsv").write_text("text\tlabel\n" + "".join(f"row {n}\t{('no', 'yes')[n % 2]}\n" for n in range(40)))
    return {
        "name": "checked",
        "corpus": {"sources": [{"kind": "documents", "path": "docs.jsonl"}]},
        "tokenizers": {"bytes": {"kind": "byte_bpe", "vocab": 300}, "pieces": {"kind": "wordpiece", "vocab": 300}},
        "models": {
            "gpt": {"family": "gpt2", "size": "tiny", "tokenizer": "bytes", "pretrain": dict(TRAIN)},
            "bert": {"family": "bert", "size": "tiny", "tokenizer": "pieces", "pretrain": {**TRAIN, "overrides": {**SHAPE, "layers": 2}}},
        },
        "students": {"half": {"teacher": "bert", "tokens": 2048, "batch_tokens": 512}},
        "tasks": {
            "t": {
                "kind": "classify",
                "train": "train.tsv",
                "dev": "dev.tsv",
                "models": ["bert", "half", "half-control"],
                "batch": 8,
                "length": 16,
            }
        },
    }


def at(said: Said, path: str, value: object) -> None:
    *above, last = path.split(".")
    for step in above:
        said = said.setdefault(step, {})
    said[last] = value


def put(**values: object) -> Change:
    """`models__gpt__size` for models.gpt.size."""

    def change(said: Said, _folder: Path) -> None:
        for path, value in values.items():
            at(said, path.replace("__", "."), value)

    return change


def file(name: str, content: str | bytes, **values: object) -> Change:
    def change(said: Said, folder: Path) -> None:
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
        put(**values)(said, folder)

    return change


def imported(said: Said, folder: Path, settings: Said | None = None, vocab: int = 40, **model: object) -> None:
    """A BERT that transformers could have saved, and a recipe that begins with it."""
    import torch

    from training.backbone.tensor_file import write_tensors

    usual = {"model_type": "bert", "architectures": ["BertForMaskedLM"], "hidden_size": 32, "num_hidden_layers": 1, "intermediate_size": 64}
    usual |= {"num_attention_heads": 2, "vocab_size": vocab, "max_position_embeddings": 64, "type_vocab_size": 2, "hidden_act": "gelu"}
    (folder / "saved").mkdir()
    (folder / "saved" / "config.json").write_text(json.dumps(usual | (settings or {})))
    write_tensors(folder / "saved" / "model.safetensors", {"bert.embeddings.word_embeddings.weight": torch.zeros(400, 64)})
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *(chr(97 + n) for n in range(26)), *(f"##{chr(97 + n)}" for n in range(9))]
    (folder / "saved" / "vocab.txt").write_text("\n".join(pieces) + "\n")
    said["tokenizers"]["theirs"] = {"kind": "import", "files": [str(folder / "saved" / "vocab.txt")]}
    said["models"]["more"] = {"family": "bert", "tokenizer": "theirs", "init": "saved", **model}


def importing(settings: Said | None = None, **more: Any) -> Change:
    return lambda said, folder: imported(said, folder, settings, **more)


def of_an_imported_teacher(settings: Said | None = None, **student: Any) -> Change:
    def change(said: Said, folder: Path) -> None:
        imported(said, folder, settings)
        said["students"]["half"] = {"teacher": "more", "layers": 1, "tokens": 2048, "batch_tokens": 512, **student}

    return change


def extending(was: Said | None = None, now: Said | None = None, **model: Any) -> Change:
    """`long` goes on with `gpt`, whose training would let it."""

    def change(said: Said, _folder: Path) -> None:
        said["models"]["gpt"]["pretrain"] |= {"schedule": "wsd", "warmup": 1, "keep_state": True, "tokens": 10_240, **(was or {})}
        said["models"]["long"] = {"extend": "gpt", "pretrain": {"tokens": 20_480, **(now or {})}, **model}

    return change


def chained(said: Said, folder: Path) -> None:
    extending(extend="longer")(said, folder)
    said["models"]["longer"] = {"extend": "long", "pretrain": {"tokens": 40_960}}


def extending_an_import(said: Said, folder: Path) -> None:
    imported(said, folder)
    said["models"]["long"] = {"extend": "more", "pretrain": dict(TRAIN)}


ONE_LABEL = "text\tlabel\n" + "words\tyes\n" * 30
LONG = [{"share": 0.5, "length": 16}, {"share": 0.5, "length": 32}]
FAULTS: list[tuple[str, Change, str]] = [
    ("keys", put(models__gpt__pretrain__lenght=3), "no `lenght`; did you mean `length`"),
    ("names", put(students__half__teacher="bort"), "there is no model `bort`"),
    ("names", put(tasks__t__models=["half-kontrol"]), "no model of this recipe with `half-kontrol`; did you mean `half-control`"),
    ("names", put(students__half__control=False), "no model of this recipe with `half-control`"),
    ("files", put(tasks__t__train="gone.tsv"), "there is no file .*gone.tsv"),
    ("resources", put(resources__min_ranks=2), "min_ranks 2 is more than resources.ranks 1"),
    ("init-files", put(models__gpt__init="nowhere"), "holds no config.json"),
    ("task-files", file("train.tsv", "sentence\tlabel\na\tb\n"), r"tasks.t.train: .*no column text; its header has: sentence, label"),
    ("task-files", file("train.tsv", "text\tlabel\na\tb\n".encode("utf-16")), "is encoded in UTF-16"),
    ("task-files", file("dev.tsv", "text\tlabel\n\tyes\n"), r"tasks.t.dev: .*none of its 1 rows can be used: 1 text \(line 2\)"),
    ("task-files", file("t.xlsx", "x", tasks__t__train="t.xlsx"), "a task file must end in .tsv, .csv, .jsonl"),
    ("task-labels", file("train.tsv", ONE_LABEL), r"one label only \(yes\)"),
    ("task-labels", file("dev.tsv", "text\tlabel\na\tmaybe\n"), r"no row has a label that the model knows \(no, yes\); the file has maybe"),
    ("task-length", put(tasks__t__length=128), "length 128 is more than the 64 positions of half-control"),
    ("task-length", put(tasks__t__length=2), "length 2 is too short for a text"),
    ("task-batch", put(tasks__t__batch=1, resources__ranks=2), "batch 1 is too small for 2 ranks"),
    ("model-shape", put(models__gpt__size="tinny"), "gpt2 has no size `tinny`"),
    ("model-shape", put(models__bert__pretrain__length=128, models__bert__pretrain__batch_tokens=1024), "128 is more than .* 64 positions"),
    (
        "model-shape",
        put(models__gpt__pretrain__decay=0.2),
        "decay is for the schedules wsd, trapezoid, wsd_sqrt, and the schedule is cosine",
    ),
    ("model-shape", put(models__gpt__pretrain__decay=1.5, models__gpt__pretrain__schedule="wsd"), "decay 1.5 is a share of all steps"),
    ("model-shape", put(models__gpt__pretrain__curriculum="paper"), "models.gpt: gpt2 was trained on sequences of one length"),
    ("model-shape", put(models__gpt__pretrain__mask_rate=0.3), "predicts the next token and masks none"),
    ("model-shape", put(models__gpt__blocks__mode="stream", models__bert__blocks__mode="stream"), "models.bert: bert reads pairs"),
    ("model-tokenizer", put(models__bert__tokenizer="bytes"), "learns by masks, which the byte_bpe tokenizer `bytes` lacks"),
    ("model-tokenizer", put(tokenizers__pieces__kind="bpe_eow"), "learns by masks, which the bpe_eow tokenizer `pieces` lacks"),
    ("model-tokenizer", file("v.txt", "a\nb\n", tokenizers__own={"kind": "import", "files": ["@v.txt"]}), "tokenizers.own: "),
    ("model-export", put(models__bert__family="albert"), "set embedding_width below the width 32"),
    ("model-export", put(models__bert__pretrain__overrides={**SHAPE, "norm": "pre"}), "cannot be exported so"),
    ("model-import", importing({"model_type": "gpt2"}), "holds a gpt2 model, not bert"),
    ("model-import", importing({"hidden_act": "mish"}), "hidden_act: 'mish', an activation that textmill does not have"),
    ("model-import", importing(size="tiny"), "the imported model has width 32"),
    ("model-import", importing(tokenizer="pieces"), "give it kind: import and files: with the vocabulary files"),
    ("model-import", importing(vocab=30), "has 30 pieces, tokenizers.theirs 40"),
    ("model-import", importing({"num_hidden_layers": 99_999}), "do not belong together"),
    ("names", extending(extend="gtp"), "models.long.extend: there is no model `gtp`; did you mean `gpt`"),
    ("names", chained, r"models.longer.extend: it would go on from itself \(longer -> long -> longer\)"),
    ("keys", extending({"patience": 2, "valid_every": 2}), "keep_state and patience do not go together"),
    ("extension", extending({"keep_state": False}), "models.long: gpt keeps no state to go on from"),
    ("extension", extending(now={"tokens": 10_240}), "has done 20; set more than its 10,240 tokens"),
    ("extension", extending(now={"seed": 5, "batch_tokens": 1024}), "batch_tokens, seed must be as in gpt"),
    ("extension", extending(now={"length": 64}), "length must be as in gpt, whose steps are taken over: length is 64 and was 32"),
    ("extension", extending(family="gpt1"), "family must be as in gpt"),
    ("extension", extending(tokenizer="pieces"), "tokenizer must be as in gpt, .*: it is 'pieces' and was 'bytes'; leave it out"),
    ("extension", extending(blocks={"mode": "full_sentences"}), "blocks must be as in gpt"),
    ("extension", extending({"schedule": "cosine"}), "under cosine every rate depends on the number of all steps; .* train it with"),
    ("extension", extending({"warmup": 0.1}), "its warm-up had 2 steps, here it has 4: set pretrain.warmup to 2"),
    ("extension", extending({"curriculum": [{"share": 0.5, "length": 16}, {"share": 0.5, "length": 32}]}), "32 from step 10, here 16 from"),
    ("extension", extending_an_import, "more is imported and not trained, .* give models.long `init: .*saved` in place of extend"),
    ("extension", put(models__gpt__pretrain={**TRAIN, "tokens": 512, "schedule": "wsd", "keep_state": True}), "none before the rate falls"),
    ("sequence-budget", put(resources__ranks=32), "batch_tokens 512 makes 16 sequences a step, too few for 32 ranks; set at least 1024"),
    ("student", put(students__half__layers=5), "layers cannot be taken evenly"),
    ("student", put(students__half__length=128), "length 128 is more than the 64 positions of the teacher bert"),
    ("student", of_an_imported_teacher(length=128), "length 128 is more than the 64 positions of the teacher more"),
    ("student", of_an_imported_teacher({"max_position_embeddings": 40}, length=64), "length 64 is more than the 40 positions"),
    ("student", put(students__half__method="distilgpt2"), "is for gpt2 teachers"),
    ("corpus-size", file("docs.jsonl", '{"text": "a"}\n', encode__valid_share=0.0), "length 32 is more than the whole corpus holds"),
    ("validation-split", file("docs.jsonl", '{"text": "some words"}\n' * 30), "at most 30 documents leaves none .* at least 50 documents"),
]
QUESTIONABLE: list[tuple[str, Change, str]] = [
    (
        "learning-rate",
        put(models__bert__pretrain={key: value for key, value in TRAIN.items() if key != "lr"}),
        r"preset of bert/tiny has lr 0.001 for steps of 8,192 tokens \(64 x 128\); these have 512: .*square-root rule 2.5e-04, or batch",
    ),
    (
        "warm-up",
        put(models__gpt__pretrain__warmup=2000),
        "models.gpt.pretrain.warmup 2000 steps are not fewer than the 4 steps .* capped at 3.* at least 10,240,000",
    ),
    ("warm-up", put(students__half__warmup=4), "students.half.warmup 4 steps are not fewer than the 4 steps .* capped at 3"),
    ("task-warm-up", put(tasks__t__warmup=15), r"tasks.t.warmup 15 steps are not .* capped at 14.* \(3 epochs of 40 rows"),
    ("task-rows", file("train.tsv", "text\tlabel\n" + "a\tyes\nb\tno\n" * 20 + "torn\n"), r"1 rows are skipped: 1 columns \(line 42\)"),
    ("task-rows", file("dev.tsv", "text\tlabel\na\tyes\nb\tperhaps\n"), r"count as wrong: perhaps \(1\)"),
    (
        "task-rows",
        file("train.tsv", "text\tlabel\n" + "".join(f"{n}\tfree text {n}\nb\tno\n" for n in range(40))),
        "41 labels in 80 rows: is `label` the column of labels",
    ),
    ("task-rows", put(tasks__t__batch=64), "40 rows are fewer than a batch of 64"),
    ("epochs", put(models__gpt__pretrain__tokens=512 * 100_000), "repeat the corpus of at most .* at least 1,... times"),
]


def loaded(tmp_path: Path, change: Change | None = None) -> Any:
    said = write(tmp_path)
    if change:
        change(said, tmp_path)
    path = tmp_path / "checked.yaml"
    path.write_text(yaml.safe_dump(said, sort_keys=False).replace("@", f"{tmp_path}/"))
    return check(Order(str(path), tmp_path / "workspace"))


def test_a_recipe_without_a_fault_passes_without_a_warning(tmp_path: Path) -> None:
    assert plan_checks.warnings(loaded(tmp_path)) == []


def test_a_model_that_extends_another_takes_its_settings_and_costs_what_it_adds(tmp_path: Path) -> None:
    found = loaded(tmp_path, extending()).recipe
    gpt, long = (found.models[name].training(1) for name in ("gpt", "long"))
    assert found.models["long"].tokenizer == "bytes" and not long.keep_state
    assert long == replace(gpt, tokens=20_480, keep_state=False)
    from pipelines.plan_recipe import costs

    told = costs(found, on="T4")
    assert (told["long"]["tokens"], told["long"]["steps"]) == (20_480 - 18 * 512, 40 - 18), "from where the rate of 20 steps falls"
    assert told["long"]["training_flops"] == pytest.approx(told["gpt"]["training_flops"] * 22 / 20)
    assert told["long"]["seconds"] == pytest.approx(told["gpt"]["seconds"] * 22 / 20)


def test_an_imported_model_needs_no_size(tmp_path: Path) -> None:
    train = {key: value for key, value in TRAIN.items() if key != "overrides"}
    found = loaded(tmp_path, lambda said, folder: imported(said, folder, pretrain=train)).recipe
    config = found.models["more"].training(1)
    assert (config.size, config.overrides["width"], config.overrides["ffn"]) == ("tiny", 32, 64)
    from pipelines.plan_recipe import costs

    table = {name: one["parameters"] for name, one in costs(found, on="T4").items()}
    embeddings, layer = (40 + 64 + 2) * 32 + 64, 4 * (32 * 32 + 32) + 2 * 32 * 64 + 64 + 32 + 4 * 32
    heads = (32 * 32 + 32 + 64 + 40) + (32 * 32 + 32 + 2 * 32 + 2)
    assert table["more"] == embeddings + layer + heads


def test_an_imported_model_that_stays_reads_no_more_than_its_positions(tmp_path: Path) -> None:
    found = loaded(tmp_path, of_an_imported_teacher({"max_position_embeddings": 40})).recipe
    from pipelines.chain import student_config

    assert found.models["more"].training(1).length == student_config(found, found.students["half"]).length == 40
    assert found.models["bert"].training(1).length == 32


@pytest.mark.parametrize(("name", "change", "message"), FAULTS, ids=[f"{name}-{n}" for n, (name, _, _) in enumerate(FAULTS)])
def test_a_planted_fault_is_found(name: str, change: Change, message: str, tmp_path: Path) -> None:
    begun = time.process_time()
    with pytest.raises(ConfigError) as error:
        loaded(tmp_path, change)
    assert re.search(message, str(error.value)), str(error.value)
    assert re.search(r"checked\.yaml", str(error.value)), "the place in the recipe is named"
    assert time.process_time() - begun < 3
    assert not (tmp_path / "workspace").exists(), "nothing is started"


@pytest.mark.parametrize(("name", "change", "message"), QUESTIONABLE, ids=[f"{name}-{n}" for n, (name, _, _) in enumerate(QUESTIONABLE)])
def test_what_was_probably_not_meant_is_a_warning(name: str, change: Change, message: str, tmp_path: Path) -> None:
    told = plan_checks.warnings(loaded(tmp_path, change))
    assert any(re.search(message, text) for text in told), told


def test_the_list_of_contributing_is_that_of_the_checks_and_of_their_tests() -> None:
    listed = re.findall(r"^\| `([a-z-]+)` \|", CONTRIBUTING.read_text().split("## What `textmill plan` checks")[1], flags=re.M)
    assert listed == [*plan_checks.TEXT, *plan_checks.ERRORS, *plan_checks.WARNINGS]
    assert {name for name, _, _ in FAULTS} == {*plan_checks.TEXT, *plan_checks.ERRORS}
    assert {name for name, _, _ in QUESTIONABLE} == {*plan_checks.WARNINGS}


def test_the_command_says_all_of_it_at_once_with_exit_code_two_and_run_does_the_same(tmp_path: Path) -> None:
    said = write(tmp_path)
    (tmp_path / "train.tsv").write_text(ONE_LABEL)
    put(models__bert__family="albert", models__gpt__pretrain__length=128, models__gpt__pretrain__batch_tokens=1024)(said, tmp_path)
    (tmp_path / "checked.yaml").write_text(yaml.safe_dump(said))
    told = []
    for words in (("plan", "checked.yaml"), ("run", "checked.yaml", "--plain")):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([sys.executable, "-m", "pipelines.cli", *words], cwd=tmp_path, capture_output=True, text=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.returncode == 2 and "Traceback" not in done.stderr
        assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 20, "CPU seconds; two on an idle machine"
        told.append(done.stderr)
    assert told[0] == told[1] and all(text in told[0] for text in ("one label only", "embedding_width below", "128 is more than"))
    assert not (tmp_path / "workspace").exists()
