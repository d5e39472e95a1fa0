"""systemd takes the units as they are written, for any path."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from infra.errors import ConfigError
from pipelines import units


@pytest.fixture(params=["home", "a home 50% $x"])
def home(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TEXTMILL_HOME", str(tmp_path / request.param))
    return tmp_path / request.param


@pytest.mark.parametrize("user", ["", "daemon"])
def test_systemd_verifies_the_units(user: str, home: Path, tmp_path: Path) -> None:
    written = units.write(tmp_path / "units", user, 4200)
    assert [path.name for path in written] == ["textmill-server.service", "textmill-worker.service"]
    worker = written[1].read_text()
    assert "ExecStop=" in worker and "After=textmill-server.service" in worker and ("User=daemon" in worker) == bool(user)
    assert f"WantedBy={'multi-user' if user else 'default'}.target" in worker
    if shutil.which("systemd-analyze") is None:
        pytest.skip("no systemd-analyze on this machine")
    done = subprocess.run(["systemd-analyze", "verify", *map(str, written)], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr.strip(), done.stderr


def test_the_commands_in_the_units_are_commands_of_textmill() -> None:
    for text in units.texts("", 4321).values():
        (line,) = [line for line in text.splitlines() if line.startswith("ExecStart=")]
        words = shlex.split(line.removeprefix("ExecStart="))
        assert words[:3] == [sys.executable, "-m", "pipelines.cli"]
        done = subprocess.run([*words, "--help"], capture_output=True, text=True)
        assert done.returncode == 0 and "--foreground" in done.stdout
    assert units._quoted('a "b" 5% $c\\') == r'"a \"b\" 5%% $$c\\"'


def test_bad_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no name of an account"):
        units.write(tmp_path, "root\nExecStart=/bin/sh", 4200)
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written"):
        units.write(tmp_path / "file", "", 4200)
