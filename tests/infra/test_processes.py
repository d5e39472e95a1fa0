"""The processes of a session are found, also one whose parent was killed."""

from __future__ import annotations

import subprocess
import sys

import psutil

from infra.processes import of_session

LEADER = """
import subprocess, sys, time
middle = subprocess.Popen([sys.executable, "-c", "import subprocess, time; subprocess.Popen(['sleep', '60']); time.sleep(60)"])
while not (found := subprocess.run(["pgrep", "-P", str(middle.pid)], capture_output=True, text=True).stdout.split()):
    time.sleep(0.05)
middle.kill()
middle.wait()
print(found[0], flush=True)
time.sleep(60)
"""


def test_an_orphan_is_found_in_its_session_also_after_the_leader_ended() -> None:
    leader = subprocess.Popen([sys.executable, "-c", LEADER], start_new_session=True, stdout=subprocess.PIPE, text=True)
    assert leader.stdout is not None
    orphan = psutil.Process(int(leader.stdout.readline()))
    try:
        assert orphan not in psutil.Process(leader.pid).children(recursive=True)
        assert of_session(leader.pid) == [orphan]
        leader.kill()
        leader.wait()
        assert of_session(leader.pid) == [orphan]
    finally:
        orphan.kill()
        leader.kill()
    psutil.wait_procs([orphan], 10)
    assert of_session(leader.pid) == []
