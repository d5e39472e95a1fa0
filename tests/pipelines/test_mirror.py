"""A recipe's mirror, from the command: passwords, outages, and what later runs push."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.errors import PipelineError
from infra.log import attach
from pipelines.runner import Order, Outcome, carry_out, plainly, prepare

SECRET = "tom:5even/teen"


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    told: list[str] = []
    detach = attach(lambda e: told.append(e["message"]) if e["kind"] == "warning" else None)
    yield told
    detach()


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port at which nobody listens."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        yield s.getsockname()[1]


def run(recipe: Path, workspace: str, *settings: str) -> Outcome:
    return carry_out(prepare(Order(str(recipe), recipe.parent / workspace, settings, until="filter", plain=True)), plainly)


def states(outcome: Outcome) -> list[str]:
    return [row.state for row in outcome.run.rows]


@pytest.mark.parametrize("words", [("plan",), ("run", "--plain"), ("run",), ("deploy", "--cron", "0 3 * * *")])
@pytest.mark.parametrize("place", ["file", "set"])
def test_a_password_in_the_url_is_refused_before_anything_is_written_and_is_not_repeated(
    place: str, words: tuple[str, ...], recipe: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from pipelines import cli

    url = f"s3://{SECRET}@bucket/mill"
    command = ["textmill", words[0], str(recipe), *words[1:], "--workspace", str(recipe.parent / "w")]
    if place == "file":
        recipe.write_text(recipe.read_text() + f"resources: {{mirror: '{url}'}}\n")
    else:
        command += ["--set", f"resources.mirror={url}"]
    monkeypatch.setattr("sys.argv", command)
    with pytest.raises(SystemExit) as ended:
        cli.main()
    told = capfd.readouterr()
    assert ended.value.code == 2 and "credentials must not be part of the URL" in told.err
    assert "small.yaml:" in told.err if place == "file" else "--set resources.mirror=s3://***@bucket/mill" in told.err
    assert "5even" not in told.err + told.out and not (recipe.parent / "w").exists()


def test_a_dead_endpoint_stops_nothing_and_a_later_run_pushes_what_is_cached(
    recipe: Path, warnings: list[str], closed_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("s3fs")
    for name, value in (("ACCESS_KEY_ID", "a"), ("SECRET_ACCESS_KEY", "b"), ("ENDPOINT_URL", f"http://127.0.0.1:{closed_port}")):
        monkeypatch.setenv(f"AWS_{name}", value)
    first = run(recipe, "one", "resources.mirror=s3://bucket/mill")
    assert states(first) == ["done", "done"]
    assert len(warnings) == 2 and "cannot be used" in warnings[0] and "2 artifacts are not on the mirror" in warnings[1]
    shared = f"resources.mirror=file://{recipe.parent}/shared"
    assert states(run(recipe, "one", shared)) == ["cached", "cached"]  # pushes, though it builds nothing
    assert states(run(recipe, "two", shared)) == ["cached", "cached"]
    with pytest.raises(PipelineError, match="requires it"):
        run(recipe, "three", "resources.mirror=s3://bucket/mill", "resources.mirror_required=true")
    assert not (recipe.parent / "three").exists()


def test_the_mirror_is_not_part_of_what_a_run_is(recipe: Path) -> None:
    def prints(outcome: Outcome) -> list[Any]:
        return [row.fingerprint for row in outcome.run.rows]

    assert prints(run(recipe, "one")) == prints(run(recipe, "two", f"resources.mirror={recipe.parent}/shared"))
