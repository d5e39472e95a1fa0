"""A Slurm cluster of one machine for tests: the real daemons, with keys, ports and folders of their own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Self

from tests.infra.nodes import free_port

TOOLS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
CONF = """\
ClusterName=textmill
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={node_port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
ReturnToService=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
JobRequeue=1
KillWait=10
NodeName={host} NodeAddr=127.0.0.1 NodeHostname={host} CPUs={cpus} State=UNKNOWN
PartitionName=test Nodes={host} Default=YES MaxTime=01:00:00 State=UP
"""
START_S = 60.0
REVOKED_S = 2.0  # slurmd refuses ("already killed") what is started again within the second of its end: it compares whole seconds


def why_no_slurm() -> str:
    """Why there can be no Slurm here; empty when there can."""
    path = f"{os.environ['PATH']}:/usr/sbin"
    missing = [tool for tool in TOOLS if shutil.which(tool, path=path) is None]
    if missing:
        return f"Slurm is not installed: {', '.join(missing)}"
    return "" if os.geteuid() == 0 else "Slurm's daemons want root"


class Slurm:
    """Running daemons; ended by pid as a context manager."""

    def __init__(self, cpus: int = 2) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="tms"))
        self.folder.chmod(0o755)
        for name in ("state", "spool", "munge"):
            (self.folder / name).mkdir(mode=0o755)
        said = {"host": socket.gethostname().partition(".")[0], "port": free_port(), "node_port": free_port()}
        (self.folder / "slurm.conf").write_text(CONF.format(folder=self.folder, cpus=cpus, **said))
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")
        self.environment = {
            **os.environ,
            "SLURM_CONF": str(self.folder / "slurm.conf"),
            "PATH": f"{os.environ['PATH']}:/usr/sbin",
        }
        self.daemons: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        munge = self.folder / "munge"
        key = munge / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        own = [f"--{name}={munge / name}" for name in ("socket", "pid-file", "log-file", "seed-file")]
        try:
            self._start("munged", "--foreground", "--force", f"--key-file={key}", *own)
            self._until((munge / "socket").exists)
            self._start("slurmctld", "-D")
            self._start("slurmd", "-D")
            self._until(lambda: "idle" in self.call("sinfo", "-h", "-o", "%T"))
        except BaseException:
            self.__exit__()
            raise
        return self

    def _start(self, *words: str) -> None:
        log = (self.folder / f"{words[0]}.out").open("w")
        self.daemons.append(subprocess.Popen(words, env=self.environment, stdout=log, stderr=log))

    def _until(self, true: object) -> None:
        ends = time.monotonic() + START_S
        while not true():  # type: ignore[operator]
            assert time.monotonic() < ends, self.told()
            time.sleep(0.2)

    def call(self, *words: str) -> str:
        return subprocess.run(words, env=self.environment, capture_output=True, text=True, check=False).stdout

    def submit(self, script: Path, **more: str) -> str:
        """The job's number."""
        done = subprocess.run(
            ["sbatch", "--parsable", str(script)], env=self.environment | more, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def state(self, job: str) -> str:
        """Such as RUNNING, PENDING, COMPLETED."""
        said = dict(word.split("=", 1) for word in self.call("scontrol", "show", "job", job).split() if "=" in word)
        return said.get("JobState", "")

    def start_again(self, job: str) -> None:
        """A job that is queued again, at once and not in two minutes."""
        time.sleep(REVOKED_S)
        self.call("scontrol", "update", f"JobId={job}", "StartTime=now")

    def told(self) -> str:
        """The last words of all daemons."""
        logs = sorted([*self.folder.glob("*.log"), *self.folder.glob("*.out")])
        return "\n".join(f"{log.name}:\n{log.read_text()[-2500:]}" for log in logs)

    def __exit__(self, *_: object) -> None:
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in reversed(self.daemons):
            try:
                daemon.wait(15)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        shutil.rmtree(self.folder, ignore_errors=True)
