"""systemd units for the Prefect server and the worker."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

from infra.errors import ConfigError
from infra.store import write_whole
from pipelines.prefect_server import START_S

SERVER, WORKER = "textmill-server.service", "textmill-worker.service"
STOP_S = 120  # a run that is asked to stop saves a checkpoint
PASSED_ON = ("TEXTMILL_HOME", "XDG_STATE_HOME")
ACCOUNT = re.compile(r"[a-z_][a-z0-9_-]*\$?")
UNIT = """\
# Written by `textmill worker units`.
[Unit]
Description={description}
Documentation=https://docs.prefect.io
{after}
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart={command}
{stop}{environment}# secrets, such as AWS_SECRET_ACCESS_KEY=...: readable by its owner only
EnvironmentFile=-%E/textmill/environment
{account}Restart=on-failure
RestartSec=10
TimeoutStopSec={stop_s}
NoNewPrivileges=true
UMask=0077

[Install]
WantedBy={target}
"""


def write(directory: Path, user: str, port: int) -> list[Path]:
    """Both unit files; user: an account for system units, empty for user units. Raises ConfigError when the directory is not writable."""
    if user and not ACCOUNT.fullmatch(user):
        raise ConfigError(f"--user {user!r} is no name of an account")
    written = []
    try:
        directory.mkdir(parents=True, exist_ok=True)
        for name, text in texts(user, port).items():
            write_whole(directory / name, text)
            written.append(directory / name)
    except OSError as error:
        raise ConfigError(f"{directory} cannot be written ({error.strerror}); specify another directory") from error
    return written


def texts(user: str, port: int) -> dict[str, str]:
    """File name -> unit."""
    base = [sys.executable, "-m", "pipelines.cli"]
    environment = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    if user and not environment:  # root's home is not the account's
        environment["TEXTMILL_HOME"] = "/var/lib/textmill"
    common = {
        "environment": "".join(f"Environment={_quoted(f'{name}={value}')}\n" for name, value in environment.items()),
        "account": f"User={user}\nStateDirectory=textmill\n" if user else "",
        "target": "multi-user.target" if user else "default.target",
        "stop_s": STOP_S,
    }
    serve, work = _command([*base, "ui", "--foreground", "--port", str(port)]), _command([*base, "worker", "start", "--foreground"])
    waits = f"(waits up to {START_S:.0f} s for its server)"
    server = UNIT.format(description="Prefect server of textmill", after="After=network.target", command=serve, stop="", **common)
    after = f"After={SERVER}\nWants={SERVER}"
    stop = f"ExecStop={_command([*base, 'worker', 'stop'])}\n"  # runs save their state before the worker ends
    worker = UNIT.format(
        description=f"textmill worker, which runs scheduled recipes {waits}", after=after, command=work, stop=stop, **common
    )
    return {SERVER: server, WORKER: worker}


def next_steps(user: str) -> list[str]:
    """What remains to be typed."""
    scope = "" if user else "--user "
    lines = [f"systemctl {scope}daemon-reload", f"systemctl {scope}enable --now {SERVER} {WORKER}"]
    if not user:
        lines.append("loginctl enable-linger   # so that they start without a login")
    return ["next:", *(f"  {line}" for line in lines)]


def _command(words: list[str]) -> str:
    return " ".join(map(_quoted, words))


def _quoted(word: str) -> str:
    """As systemd reads a word: quotes and backslashes escaped, % and $ doubled."""
    escaped = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if re.search(r"[^\w@%+=:,./$-]", word) else escaped
