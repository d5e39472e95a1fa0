"""The recipes that come with textmill: listed, planned with a user's texts, at their papers' budgets, and run in miniature."""

from __future__ import annotations

import json
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import pytest
import torch

from infra.errors import ConfigError
from pipelines import plan_checks, plan_recipe
from pipelines.cli_recipes import about, listed
from pipelines.recipe import Recipe, builtin_recipes, load, without_files
from pipelines.runner import Order, carry_out, check, plainly, prepare
from tests.training.small import Here
from training.card import read_card
from training.families import catalog

Textmill = Callable[..., subprocess.CompletedProcess[str]]
WANTED = (
    "albert-base", "bert-base", "bert-large", "distilbert", "distilgpt2", "electra-small",
    "gpt1", "gpt2-1.5b-zero3", "gpt2-124m", "gpt3-1.3b", "korean-bert", "roberta-base",
)  # fmt: skip
# parameters of transformers' classes at the released configurations, tied matrices counted once; KR-BERT: its README
PARAMETERS = {
    "albert-base": 11_813_810,
    "bert-base": 110_106_428,
    "bert-large": 336_226_108,
    "distilbert": 66_985_530,
    "distilgpt2": 81_912_576,
    "electra-small": 13_549_057,
    "gpt1": 116_534_784,
    "gpt2-1.5b-zero3": 1_557_611_200,
    "gpt2-124m": 124_439_808,
    "korean-bert": 99_265_066,
    "roberta-base": 124_697_433,
}
# steps and sequences a step, from the papers and, where these name none, from the released code that the recipe's comment names
BUDGETS = {
    "albert-base": (125_000, 4096 * 512),
    "bert-base": (1_000_000, 256 * 512),
    "bert-large": (1_000_000, 256 * 512),
    "distilbert": (100_000, 4000 * 512),
    "distilgpt2": (100_000, 4000 * 1024),
    "electra-small": (1_000_000, 128 * 128),
    "gpt1": (3_000_000, 64 * 512),
    "gpt2-1.5b-zero3": (600_000, 512 * 1024),
    "gpt2-124m": (600_000, 512 * 1024),
    "roberta-base": (500_000, 8192 * 512),
}
ENGLISH = """the of and to in is that with for as it on was are by this be at from have not river town house road winter summer letter music
bread garden window mountain teacher student market harbor engine paper children morning evening forest bridge story""".split()  # noqa: SIM905
KOREAN = """나는 우리는 그는 오늘 어제 내일 학교에서 도서관에서 친구와 함께 책을 음악을 편지를 읽었다 들었다 썼다 아침에 저녁에 바다를 산을
보았다 걸었다 아이들이 선생님이 시장에서 빵을 샀다 먹었다 새로운 오래된 이야기를 천천히 조용히 말했다""".split()  # noqa: SIM905


def texts(path: Path, words: list[str], documents: int = 400) -> Path:
    """Documents of ten sentences, no two alike."""
    rng = Random(5)
    with path.open("w", encoding="utf-8") as file:
        for _ in range(documents):
            sentences = (" ".join(rng.choice(words) for _ in range(rng.randint(7, 14))).capitalize() + "." for _ in range(10))
            file.write(json.dumps({"text": " ".join(sentences)}, ensure_ascii=False) + "\n")
    return path


@pytest.fixture(scope="module")
def corpora(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("texts")
    return {"ko": texts(folder / "korean.jsonl", KOREAN), "en": texts(folder / "english.jsonl", ENGLISH)}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all miniature runs, so that corpora and tokenizers are made once."""
    return tmp_path_factory.mktemp("recipes") / "workspace"


def source(name: str, corpora: dict[str, Path]) -> str:
    return f"corpus.sources.0.path={corpora['ko' if name == 'korean-bert' else 'en']}"


def miniature(recipe: Recipe) -> list[str]:
    """Overrides that leave a recipe's own objective, schedule and structure, and make everything small."""
    said = ["resources.ranks=1", *(f"tokenizers.{name}.vocab=320" for name in recipe.tokenizers)]
    small = {"tokens": 1024, "batch_tokens": 512, "length": 64, "precision": "fp32"}
    shape = {"layers": 2, "width": 32, "heads": 2, "ffn": 128}
    for name, model in recipe.models.items():
        said += [f"models.{name}.size=tiny", *(f"models.{name}.pretrain.{key}={value}" for key, value in small.items())]
        config = model.training(recipe.seed)
        narrow = {"embedding_width": 16} if model.family == "albert" else {}  # which always projects its embedding
        said += [f"models.{name}.pretrain.overrides.{key}={value}" for key, value in {**shape, **narrow}.items()]
        said += [] if config.zero == 3 else [f"models.{name}.pretrain.zero=0"]
        said += [f"models.{name}.pretrain.batch_ramp={{start: 128, tokens: 512}}"] if config.batch_ramp else []
    for name in recipe.students:
        said += [f"students.{name}.{key}={value}" for key, value in {**small, "zero": 0}.items()]
    return said


def test_every_wanted_recipe_is_there() -> None:
    assert set(builtin_recipes()) == {"demo", *WANTED}


@pytest.mark.parametrize("name", WANTED)
def test_a_recipe_plans_with_the_texts_of_a_user(name: str, corpora: dict[str, Path], tmp_path: Path) -> None:
    from pipelines.plan import plan

    loaded = check(Order(name, tmp_path / "workspace", (source(name, corpora),)))
    steps = plan(loaded.recipe, tmp_path / "workspace", "")
    assert {step.action for step in steps} == {"run"}
    assert sum(step.stage in ("pretrain", "distill") for step in steps) == len(loaded.recipe.models) + len(loaded.recipe.students)
    assert all("epeat the corpus" in text for text in plan_checks.warnings(loaded))  # which so small a file must be


@pytest.mark.parametrize("name", WANTED)
def test_a_recipe_has_the_size_and_the_budget_of_its_paper(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    found = listed(name, builtin_recipes()[name], "H100")
    assert found["missing"] == ["corpus.sources.0.path"]
    assert found["models"][-1]["parameters"] == PARAMETERS.get(name, found["models"][-1]["parameters"])
    recipe, _ = without_files(builtin_recipes()[name])
    last = next(iter(recipe.students.values()), None)
    config = last.build(seed=1, control=False) if last else next(iter(recipe.models.values())).training(1)
    if name in BUDGETS:
        assert (config.steps, config.batch_tokens) == BUDGETS[name]
    for model in recipe.models.values():  # no rate, schedule or optimizer of its own: the family's preset holds the paper's
        assert not {"lr", "schedule", "warmup", "optimiser", "weight_decay", "clip"} & model.pretrain.model_fields_set
        config, preset = model.training(1), catalog.family(model.family).preset(model.size)
        assert (config.batch_tokens, config.length) == (preset.batch * preset.length, preset.length)
        if name != "korean-bert":  # whose budget is its own
            assert config.tokens == pytest.approx(preset.steps * preset.batch * preset.length, rel=1e-3)
        assert bool(config.curriculum) == (preset.opening is not None)


@pytest.mark.parametrize("name", WANTED)
def test_the_comment_of_a_recipe_says_what_it_is_and_needs(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    found = listed(name, builtin_recipes()[name], "H100")
    head = " ".join(about(builtin_recipes()[name]))
    assert found["about"] == about(builtin_recipes()[name])
    assert "corpus.sources.0.path" in head
    hours = re.search(r"about ([\d.,]+) GPU hours on H100", head)
    assert hours
    assert float(hours[1].replace(",", "")) == pytest.approx(found["gpu_hours"], rel=0.1)
    assert re.search(r"Needs: (\d+) GPU", head)[1] == str(found["gpus"])  # type: ignore[index]
    assert all(model.get("fits", True) for model in found["models"])


def test_what_a_student_costs_is_its_own_training_and_its_teachers_answers() -> None:
    recipe, _ = without_files(builtin_recipes()["distilbert"])
    cost = plan_recipe.student_costs(recipe, "H100", mfu=0.4)["distilbert"]
    teacher, student = (catalog.family(family) for family in ("bert", "distilbert"))
    a_token = 0.0
    for family, backward in ((student, 3), (teacher, 1)):
        from training import cost as costs

        a_token += backward * costs.forward_flops(family, costs.shape_of(family, family.backbone("base")), 512)
    expected = 204_800_000_000 * a_token / (0.4 * 8 * 989e12)
    assert cost["seconds"] == pytest.approx(expected, rel=0.03)  # whole micro-batches: 512 sequences of a rank for 500


def test_a_control_costs_what_its_student_does_without_the_teacher() -> None:
    recipe, _ = without_files(builtin_recipes()["demo"])
    costs = plan_recipe.student_costs(recipe, "H100", mfu=0.4)
    student, control = costs["bert-half"], costs["bert-half-control"]
    assert 0.2 * student["seconds"] < control["seconds"] < student["seconds"]
    assert student["memory"]["weights"] > control["memory"]["weights"] == 2 * control["parameters"], "the teacher's weights, in bf16"
    models = listed("demo", builtin_recipes()["demo"], "H100")["models"]
    seconds = {name: one["seconds"] for name, one in plan_recipe.student_costs(recipe, "H100").items()}
    hours = next(one["gpu_hours"] for one in models if one["name"] == "bert-half")
    assert hours == pytest.approx((seconds["bert-half"] + seconds["bert-half-control"]) * recipe.resources.ranks / 3600), (
        "counted with its student"
    )


def test_recipes_are_listed_without_their_files(textmill: Textmill) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = textmill("recipes", "--json", "--on", "A100")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert done.returncode == 0, done.stderr
    found = {one["name"]: one for one in json.loads(done.stdout)}
    assert set(found) == {"demo", *WANTED}
    assert found["demo"]["missing"] == []
    assert found["gpt2-124m"]["gpu_hours"] > 2 * listed("gpt2-124m", builtin_recipes()["gpt2-124m"], "H100")["gpu_hours"]
    assert sum(after[:2]) - sum(before[:2]) < 20  # CPU seconds; three on an idle machine: no model is built


def test_the_list_for_people_and_a_gpu_nobody_knows(textmill: Textmill) -> None:
    done = textmill("recipes")
    assert done.returncode == 0, done.stderr
    assert all(name in done.stdout for name in ("demo", *WANTED))
    assert "124,439,808" in done.stdout
    assert "--set corpus.sources.0.path=" in done.stdout
    with pytest.raises(ConfigError, match="no GPU `H1000`"):
        listed("demo", builtin_recipes()["demo"], "H1000")


def test_without_files_plan_names_the_key_to_set(textmill: Textmill) -> None:
    done = textmill("plan", "bert-base")
    assert done.returncode == 2
    assert "there is no file" in done.stderr
    assert "--set corpus.sources.0.path=FILE" in done.stderr
    assert str(Path(sys.prefix)) not in done.stderr  # looked for where the command was typed, not where textmill is installed


def test_a_built_in_recipe_finds_texts_where_the_command_is_typed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "texts").mkdir()
    texts(tmp_path / "texts" / "mine.jsonl", ENGLISH)
    monkeypatch.chdir(tmp_path)
    assert load("bert-base").recipe.corpus.sources[0].path == str(tmp_path / "texts" / "*")  # type: ignore[union-attr]
    monkeypatch.chdir("/")
    with pytest.raises(ConfigError, match=r"corpus\.sources\.0\.path: there is no file /texts/\*; set"):
        load("bert-base")


@pytest.fixture
def one_thread() -> Iterator[None]:
    """For models too small to share among threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("name", WANTED)
def test_a_recipe_runs_in_miniature(
    name: str, corpora: dict[str, Path], workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From texts to scores; a rank is this process, which saves its start, but under ZeRO 3, whose engine needs one of its own."""
    full, _ = without_files(builtin_recipes()[name])
    if not any(model.training(1).zero == 3 for model in full.models.values()):
        monkeypatch.setattr("pipelines.runner.LocalCompute", Here)
    settings = (source(name, corpora), *miniature(full), f"seed={1 + WANTED.index(name)}")  # so that each trains its own
    outcome = carry_out(prepare(Order(name, workspace, settings, plain=True)), plainly)
    for label in (*full.models, *full.students):
        card = read_card(outcome.artifacts[label])
        ramp = label in full.models and full.models[label].training(1).batch_ramp
        assert card["steps"] == (4 if ramp else 2)  # the first steps of a ramp are smaller
        assert 0 < card["loss"] < 60  # of weights that have hardly moved: ELECTRA's counts its discriminator 50 times
        assert set(card["heads"]) == set(catalog.family(card["family"]).heads)
        scores = json.loads((outcome.artifacts[f"evaluate {label}"].path / "scores.json").read_text())
        assert scores
    assert [read_card(outcome.artifacts[label])["family"] for label in full.models] == [model.family for model in full.models.values()]
    assert outcome.report and outcome.report.is_file()
