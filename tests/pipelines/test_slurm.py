"""A training as a batch job: what Slurm says becomes what torch expects, and a bare machine can carry it out.

The ranks below run where only torch, DeepSpeed, pyarrow, numpy and what DeepSpeed brings can be imported, with no way out of the machine.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import packages_distributions, requires
from pathlib import Path

import pytest

from infra.errors import ConfigError
from infra.launched import Launched, environment, hosts
from pipelines.slurm import Job, script, seconds
from tests.infra.slurm import Slurm, why_no_slurm
from tests.pipelines.conftest import Textmill

ROOT = Path(__file__).parents[2]
WORKSPACE = "a workspace"  # with a space
ALLOWED = {"torch", "deepspeed", "pyarrow", "numpy", "psutil", "pydantic"}
BARE = """
import sys, socket
from importlib.abc import MetaPathFinder

class Bare(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"{{name}} is not on this machine", name=name)

sys.meta_path.insert(0, Bare())
connect = socket.socket.connect
def near(self, address):
    if self.family in (socket.AF_INET, socket.AF_INET6) and address[0] not in ("127.0.0.1", "::1", "localhost"):
        raise OSError(f"no network on this machine: {{address}}")
    return connect(self, address)
socket.socket.connect = near
"""
SRUN = """#!{python}
# srun of two tasks on this machine, as `man srun` tells: variables for each, the highest code returned
import os, signal, subprocess, sys
words = [w for w in sys.argv[1:] if not w.startswith("--")]
tasks = [
    subprocess.Popen(words, env={{**os.environ, "SLURM_PROCID": str(n), "SLURM_LOCALID": str(n), "SLURM_NTASKS": "2", "SLURM_NODEID": "0",
        "SLURM_STEP_NODELIST": "thishost"}})
    for n in range(2)
]
def every(number, _):
    for task in tasks:
        task.send_signal(number)
signal.signal(signal.SIGUSR2, lambda *_: every(signal.SIGTERM, _))  # the stub of scancel asks so
open(__file__ + ".pid", "w").write(str(os.getpid()))
codes = []
while len(codes) < 2:
    pid, status = os.wait()
    codes.append(os.waitstatus_to_exitcode(status))
    if codes[-1] and "--kill-on-bad-exit=1" in sys.argv and len(codes) < 2:
        try:
            os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
        except ChildProcessError:
            pass
sys.exit(max(c if c >= 0 else 128 - c for c in codes))
"""


def blocked() -> set[str]:
    """Every module of everything that textmill depends on and a bare machine lacks."""
    ours = {re.split(r"[][<>=;! ]", line)[0].lower().replace("_", "-") for line in requires("textmill") or [] if "extra ==" not in line}
    homes = packages_distributions()
    found = {top for top, names in homes.items() if {n.lower().replace("_", "-") for n in names} & (ours - ALLOWED)}
    assert found >= {"ray", "prefect", "typer", "rich", "tokenizers", "sentencepiece", "trafilatura", "xxhash"}
    return found | {"transformers", "datasets", "safetensors"}


@pytest.fixture
def bare(tmp_path: Path) -> dict[str, str]:
    """The environment of a machine that has only what training needs."""
    folder = tmp_path / "bare"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(BARE.format(blocked=blocked()))
    own = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "RANK", "WORLD", "MASTER_"))}
    return own | {"PYTHONPATH": f"{folder}{os.pathsep}{ROOT}", "OMP_NUM_THREADS": "1"}


@pytest.fixture
def job(recipe: Path, textmill: Textmill, tmp_path: Path) -> Path:
    """The folder of a job for the recipe's model, whose data is made. Its training takes a while: 60 steps."""
    recipe.write_text(recipe.read_text().replace("tokens: 2e3", "tokens: 30720, save_every: 5, log_every: 1"))
    assert textmill("run", "small.yaml", "--plain", "--until", "blocks", "-w", WORKSPACE).returncode == 0
    told = textmill("slurm", "small.yaml", "-w", WORKSPACE, "--per-node", "2", "--time", "00:30:00", "--account", "physics", "--warn", "90")
    assert told.returncode == 0, told.stderr
    path = Path(shlex.split(told.stdout)[1])
    assert path.parent.parent == tmp_path / WORKSPACE / "slurm" and "#SBATCH --signal=B:USR1@90" in path.read_text()
    return path.parent


def steps(tmp_path: Path) -> list[int]:
    """Those that the training has told of, in its finished folder or in the one it is made in."""
    made = tmp_path / WORKSPACE / "artifacts" / "pretrain"
    found = [*made.glob("*/metrics.jsonl"), *made.glob(".*/metrics.jsonl")]
    lines = found[0].read_text().splitlines() if found else []
    return [json.loads(line)["step"] for line in lines if line.endswith("}")]


@pytest.mark.timeout(300)
def test_torchrun_carries_out_the_job_on_a_bare_machine_and_the_run_goes_on_from_it(
    job: Path, bare: dict[str, str], textmill: Textmill, tmp_path: Path
) -> None:
    broken = subprocess.run([sys.executable, "-c", "import ray"], env=bare, capture_output=True, text=True, check=False)
    assert "not on this machine" in broken.stderr
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "pipelines.rank", str(job)]
    done = subprocess.run(command, env=bare, cwd="/", capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "made pretrain/" in done.stderr and steps(tmp_path) == list(range(60))
    told = textmill("plan", "small.yaml", "--until", "pretrain", "--json", "-w", WORKSPACE)
    assert {step["action"] for step in json.loads(told.stdout)} == {"reuse"}
    again = subprocess.run(command, env=bare, cwd="/", capture_output=True, text=True, check=False)
    assert again.returncode == 0 and "step" not in again.stderr
    assert "every training of this recipe is made already" in textmill("slurm", "small.yaml", "-w", WORKSPACE).stderr


@pytest.mark.prove
@pytest.mark.timeout(400)
def test_a_student_needs_no_more_and_a_task_its_tokenizers_library(
    recipe: Path, bare: dict[str, str], textmill: Textmill, tmp_path: Path
) -> None:
    for name in ("train", "dev"):
        rows = [f"{text}\t{label}" for label, text in enumerate(("the page of a text", "data from that link")) for _ in range(4)]
        (tmp_path / f"{name}.tsv").write_text("\n".join(["text\tlabel", *rows]) + "\n")
    student = "students:\n  half: {teacher: gpt, method: distilgpt2, control: false, tokens: 2e3, batch_tokens: 512, length: 32}\n"
    task = "tasks:\n  which: {kind: classify, train: train.tsv, dev: dev.tsv, text: text, label: label, models: [gpt], length: 32}\n"
    recipe.write_text(recipe.read_text() + student + task)
    assert textmill("run", "small.yaml", "--plain", "--until", "pretrain").returncode == 0
    told = textmill("slurm", "small.yaml")
    folders = {line.split("# ")[1]: Path(line.split()[1]).parent for line in told.stdout.splitlines()}
    assert len(folders) == 2, told.stdout + told.stderr

    def work(label: str, there: dict[str, str]) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "pipelines.rank", str(folders[label])]
        return subprocess.run(command, env=there, cwd="/", capture_output=True, text=True, check=False)

    done = work("half", bare)
    assert done.returncode == 0 and "made distill/" in done.stderr, done.stderr[-3000:]
    (classify,) = folders.keys() - {"half"}
    done = work(classify, bare)
    assert done.returncode == 2, done.stderr[-3000:]
    assert "a byte_bpe tokenizer needs the library t" in done.stderr and "install it on this machine" in done.stderr
    (Path(bare["PYTHONPATH"].split(os.pathsep)[0]) / "sitecustomize.py").write_text(
        BARE.format(blocked=blocked() - {"tokenizers", "tiktoken", "tiktoken_ext", "regex"})
    )
    done = work(classify, bare)
    assert done.returncode == 0 and "made finetune/" in done.stderr, done.stderr[-3000:]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_warned_job_saves_is_queued_again_and_ends_where_it_would_have(job: Path, bare: dict[str, str], tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "srun").write_text(SRUN.format(python=sys.executable))
    (tools / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/scontrol\n')
    (tools / "scancel").write_text(f'#!/bin/sh\n[ "$*" = "--signal=TERM 4711" ] && kill -USR2 "$(cat {tools}/srun.pid)"\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    there = bare | {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "SLURM_JOB_ID": "4711", "SLURM_JOB_NODELIST": "thishost"}
    there |= {"PYTHONPATH": bare["PYTHONPATH"]}
    command = ["bash", str(job / "train.sbatch")]
    with (tmp_path / "said").open("w") as said:
        first = subprocess.Popen(command, env=there, stderr=said, stdout=said)
        ends = time.monotonic() + 120
        while not steps(tmp_path):
            assert first.poll() is None and time.monotonic() < ends, (tmp_path / "said").read_text()
            time.sleep(0.02)
        first.send_signal(signal.SIGUSR1)
        assert first.wait(60) == 4, (tmp_path / "said").read_text()
    assert (tmp_path / "scontrol").read_text() == "requeue 4711\n"
    reached = len(steps(tmp_path))
    assert 0 < reached < 60
    second = subprocess.run(command, env=there, capture_output=True, text=True, check=False)
    assert second.returncode == 0, second.stderr[-3000:]
    assert f"goes on from step {reached}" in second.stderr and steps(tmp_path) == list(range(60))


@pytest.mark.cluster
@pytest.mark.timeout(400)
def test_a_real_slurm_takes_the_job_queues_it_again_and_ends_it(job: Path, bare: dict[str, str], tmp_path: Path) -> None:
    if why := why_no_slurm():
        pytest.skip(why)
    text = (job / "train.sbatch").read_text()
    assert "#SBATCH --account=physics\n" in text  # which this Slurm does not know
    (job / "train.sbatch").write_text(text.replace("#SBATCH --account=physics\n", ""))
    with Slurm() as slurm:
        number = slurm.submit(job / "train.sbatch", PYTHONPATH=bare["PYTHONPATH"])
        log = job / f"log-{number}.txt"
        _until(lambda: len(steps(tmp_path)) > 3, lambda: (slurm.state(number), log.read_text() if log.exists() else ""))
        slurm.call("scancel", "--signal=USR1", "--batch", number)  # what Slurm itself sends two minutes before the time is up
        _until(lambda: slurm.state(number) == "PENDING", lambda: (slurm.state(number), log.read_text()))
        reached = len(steps(tmp_path))
        slurm.start_again(number)
        _until(lambda: slurm.state(number) == "COMPLETED", lambda: f"{slurm.state(number)}\n{log.read_text()}\n{slurm.told()}")
    said = log.read_text()
    assert 3 < reached < 60 and f"goes on from step {reached}" in said and "made pretrain/" in said, said
    assert steps(tmp_path) == list(range(60))


def _until(true: Callable[[], bool], why: Callable[[], object], seconds: float = 120) -> None:
    ends = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < ends, why()
        time.sleep(0.05)


def test_slurms_variables_become_torchs() -> None:
    """Task 5 of 8 on the second of two nodes, as srun -N2 -n8 sets them."""
    given = {
        "SLURM_PROCID": "5",
        "SLURM_NTASKS": "8",
        "SLURM_LOCALID": "1",
        "SLURM_NODEID": "1",
        "SLURM_JOB_ID": "123",
        "SLURM_STEP_NODELIST": "localhost,elsewhere.invalid",
        "SLURM_CPUS_PER_TASK": "6",
    }
    told = environment(given)
    assert {name: told[name] for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "OMP_NUM_THREADS")} == {
        "RANK": "5",
        "WORLD_SIZE": "8",
        "LOCAL_RANK": "1",
        "MASTER_ADDR": "localhost",
        "OMP_NUM_THREADS": "6",
    }
    assert told["GLOO_SOCKET_IFNAME"] == "lo"  # what leads to the first node
    assert told["MASTER_PORT"] == environment(given | {"SLURM_PROCID": "0"})["MASTER_PORT"]
    assert told["MASTER_PORT"] != environment(given | {"TEXTMILL_TRY": "1"})["MASTER_PORT"]
    assert environment(given | {"CUDA_VISIBLE_DEVICES": "3"})["LOCAL_RANK"] == "0"
    assert environment(given | {"CUDA_VISIBLE_DEVICES": "0,1,2,3"})["LOCAL_RANK"] == "1"
    assert environment(given | {"SLURM_STEP_NODELIST": "one"})["MASTER_ADDR"] == "127.0.0.1"


def test_torchruns_environment_stays_as_it_is_and_half_of_it_is_refused() -> None:
    whole = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1", "MASTER_ADDR": "a", "MASTER_PORT": "1"}
    assert environment(whole | {"SLURM_PROCID": "0", "SLURM_NTASKS": "4"}) == {}
    assert environment({})["WORLD_SIZE"] == "1"
    with pytest.raises(ConfigError, match="MASTER_PORT not: start the ranks with torchrun or srun"):
        environment({name: value for name, value in whole.items() if name != "MASTER_PORT"})
    with pytest.raises(ConfigError, match="srun"):
        environment({"SLURM_PROCID": "0", "SLURM_NTASKS": "2"})


@pytest.mark.parametrize(
    ("short", "names"),
    [
        ("node", ["node"]),
        ("a,b-1", ["a", "b-1"]),
        ("gpu[01-03,07],login", ["gpu01", "gpu02", "gpu03", "gpu07", "login"]),
        ("r[1-2]n[09-10].site", ["r1n09.site", "r1n10.site", "r2n09.site", "r2n10.site"]),
        ("", []),
    ],
)
def test_lists_of_nodes_are_spelt_out(short: str, names: list[str]) -> None:
    assert hosts(short) == names


def test_the_script_is_sound_and_says_what_was_asked(tmp_path: Path) -> None:
    text = script("my gpt", tmp_path / "a folder", Job(nodes=2, per_node=8, gpus=True, cpus=4, partition="long", more=("--account=x",)))
    asked = [line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")]
    assert {"--nodes=2", "--ntasks-per-node=8", "--gpus-per-node=8", "--cpus-per-task=4", "--partition=long", "--account=x"} <= set(asked)
    assert {"--requeue", "--open-mode=append", "--signal=B:USR1@120", "--job-name=textmill-my-gpt"} <= set(asked)
    assert subprocess.run(["bash", "-n"], input=text, text=True, check=False).returncode == 0
    for wrong in (
        {"nodes": 0},
        {"time": "soon"},
        {"more": ("rm -rf",)},
        {"more": ("--a=b\nrm",)},
        {"warn_s": 0},
        {"warn_s": 120, "time": "2"},
        {"warn_s": 70000},
        {"requeues": -1},
        {"account": "a b"},
        {"qos": "high\n#SBATCH --x"},
        {"mem": "lots"},
        {"runtime": "docker"},
    ):
        with pytest.raises(ConfigError):
            Job(**wrong)


@pytest.mark.parametrize(
    ("text", "expected"),
    [("90", 5400), ("90:30", 5430), ("24:00:00", 86400), ("2-0", 172800), ("1-2:30", 95400), ("1-02:30:05", 95405), ("0", 0)],
)
def test_time_limits_are_read_as_slurm_reads_them(text: str, expected: int) -> None:
    assert seconds(text) == expected


JOBS = {
    "plain": Job(),
    "all": Job(2, 8, True, 4, "2-00:00:00", "long", 300, 5, 9, "physics", "high", "64G", ("module load cuda/12", "ulimit -n 4096")),
    "apptainer": Job(gpus=True, container="/images of us/mill.sif", mem="4G"),
    "pyxis": Job(container="registry#mill:1", runtime="pyxis"),
}


@pytest.mark.parametrize("job", JOBS.values(), ids=JOBS)
@pytest.mark.parametrize("folder", ["/w/slurm/x", '/a space/50% "of" it\'s $HOME/slurm/x'])
def test_shellcheck_has_nothing_to_say(job: Job, folder: str, tmp_path: Path) -> None:
    (tmp_path / "train.sbatch").write_text(script("gpt", Path(folder), job))
    tool = Path(sys.executable).parent / "shellcheck"
    done = subprocess.run([str(tool), "--severity=style", str(tmp_path / "train.sbatch")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_setup_and_container_come_before_the_ranks_and_around_them() -> None:
    text = script("gpt", Path("/a b/slurm/x"), JOBS["all"])
    asked = {line.removeprefix("#SBATCH ") for line in text.splitlines() if line.startswith("#SBATCH")}
    assert {"--account=physics", "--qos=high", "--mem=64G", "--signal=B:USR1@300", '--output="/a b/slurm/x/log-%j.txt"'} <= asked
    assert text.index("module load cuda/12\nulimit -n 4096\n") < text.index("srun")
    apptainer = script("gpt", Path("/a b/slurm/x"), JOBS["apptainer"])
    assert f'apptainer exec --nv --bind "/a b" --bind {ROOT} "/images of us/mill.sif" "$python" -m pipelines.rank' in apptainer
    assert "python=${TEXTMILL_PYTHON:-python3}" in apptainer
    assert f'srun --kill-on-bad-exit=1 --container-image="registry#mill:1" --container-mounts="/a b":"/a b",{ROOT}:{ROOT}' in script(
        "gpt", Path("/a b/slurm/x"), JOBS["pyxis"]
    )


@pytest.mark.parametrize(("before", "queued"), [("", True), ("2", True), ("3", False), ("7", False)])
def test_requeues_are_bounded(tmp_path: Path, before: str, queued: bool) -> None:
    """SLURM_RESTART_COUNT is what Slurm sets in a job that was queued again."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "srun").write_text("#!/bin/sh\nexit 4\n")
    (tools / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/scontrol\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    there = {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "SLURM_JOB_ID": "9"} | ({"SLURM_RESTART_COUNT": before} if before else {})
    text = script("gpt", tmp_path, Job(requeues=3))
    done = subprocess.run(["bash", "-c", text], env=there, capture_output=True, text=True, check=False)
    assert done.returncode == 4 and (tmp_path / "scontrol").exists() == queued
    assert ("not queued again" in done.stderr) != queued


@pytest.mark.cluster
def test_a_real_slurm_reads_a_path_with_a_space_and_warns_in_time(tmp_path: Path) -> None:
    """The log is where the script says; USR1 comes --warn seconds before the limit; the set-up ran; the job is queued again once."""
    if why := why_no_slurm():
        pytest.skip(why)
    folder = tmp_path / "a space" / '50% "of" it' / "slurm" / "gpt"
    folder.mkdir(parents=True)
    (tmp_path / "python").write_text('#!/bin/sh\ntrap "exit 4" TERM\necho "rank of $SETTING in $3"\nsleep 600 & wait\n')
    (tmp_path / "python").chmod(0o755)
    setup = ("export SETTING=this-setup", f"export TEXTMILL_PYTHON={tmp_path}/python", f'python="{tmp_path}/python"')
    (folder / "train.sbatch").write_text(script("gpt", folder, Job(time="00:01:00", warn_s=45, requeues=0, mem="1M", setup=setup)))
    with Slurm() as slurm:
        number = slurm.submit(folder / "train.sbatch")
        log = folder / f"log-{number}.txt"
        _until(lambda: log.exists() and "told to stop" in log.read_text(), lambda: (slurm.state(number), slurm.told()), 150)
        _until(lambda: slurm.state(number) == "FAILED", lambda: slurm.state(number))  # code 4, no requeue left
    assert "not queued again" in log.read_text() and f"rank of this-setup in {folder}" in log.read_text()


@pytest.mark.parametrize(
    ("codes", "ends", "tries", "queued"),
    [
        ("0", 0, 1, False),
        ("137 1 0", 0, 3, False),
        ("137 137 137 0", 137, 3, False),
        ("2 0", 2, 1, False),
        ("3 0", 3, 1, False),
        ("4 0", 4, 1, True),
    ],
)
def test_the_script_starts_dead_ranks_again_and_nothing_else(tmp_path: Path, codes: str, ends: int, tries: int, queued: bool) -> None:
    """srun is a stub that ends with one code after another."""
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "srun").write_text(f'#!/bin/bash\ncodes=({codes})\necho try >> {tmp_path}/tries\nexit "${{codes[TEXTMILL_TRY]}}"\n')
    (tools / "scontrol").write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/scontrol\n')
    for tool in tools.iterdir():
        tool.chmod(0o755)
    there = {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}", "SLURM_JOB_ID": "9"}
    text = script("gpt", tmp_path, Job(restarts=2))
    done = subprocess.run(["bash", "-c", text], env=there, capture_output=True, text=True, check=False)
    assert done.returncode == ends, done.stderr
    assert (tmp_path / "tries").read_text() == "try\n" * tries
    assert (tmp_path / "scontrol").exists() == queued


def test_a_launched_gang_is_a_call(local: object) -> None:
    assert Launched(4).gang("g", lambda: 7) == [7]
    with pytest.raises(ConfigError, match="evaluate wants 1 ranks, 4 were launched"):
        Launched(4).gang("evaluate", lambda: 7, ranks=1)


def test_a_damaged_plan_is_told_of(job: Path, bare: dict[str, str]) -> None:
    plan = json.loads((job / "plan.json").read_text())
    plan["config"]["length"] = 64
    command = [sys.executable, "-m", "pipelines.rank", str(job)]
    for text, said in ((json.dumps(plan), "another version"), ("{", "no plan of a training")):
        (job / "plan.json").write_text(text)
        done = subprocess.run(command, env=bare, cwd="/", capture_output=True, text=True, check=False)
        assert done.returncode == 2 and said in done.stderr
