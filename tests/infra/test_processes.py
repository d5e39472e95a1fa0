"""Processes whose parent was killed stay among the children of the one that adopts them."""

from __future__ import annotations

import subprocess
import sys
import textwrap

import pytest

PROGRAM = """
    import subprocess, sys, time
    import psutil
    from infra.processes import adopt_orphans
    if sys.argv[1] == "yes":
        adopt_orphans()
    middle = subprocess.Popen(
        [sys.executable, "-c", "import subprocess, time; print(subprocess.Popen(['sleep', '60']).pid, flush=True); time.sleep(60)"],
        stdout=subprocess.PIPE, text=True,
    )
    orphan = psutil.Process(int(middle.stdout.readline()))
    middle.kill()
    middle.wait()
    print(orphan in psutil.Process().children(recursive=True))
    orphan.kill()
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux lets a process adopt orphans")
@pytest.mark.parametrize(("adopts", "found"), [("yes", "True"), ("no", "False")])
def test_a_grandchild_stays_a_child_when_its_parent_is_killed(adopts: str, found: str) -> None:
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(PROGRAM), adopts], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.split() == [found]
