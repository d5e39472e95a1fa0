"""The worker as a process: Prefect's process worker, which starts scheduled runs, and a thread that closes zombie runs.

`textmill worker start` starts it in the background, a systemd unit in the foreground.
"""

from __future__ import annotations

import os
import runpy
import sys
import threading
import time

from pipelines import late, zombies
from pipelines.prefect_api import Api, ServerError
from pipelines.prefect_server import POOL, START_S, healthy, worker_name

WAIT_S = 1.0


def main() -> None:
    """Run until a signal; exit code 1 when no server answers in time."""
    url = os.environ["PREFECT_API_URL"]
    ends = time.monotonic() + START_S
    while not healthy(url):
        if time.monotonic() > ends:
            sys.exit(f"textmill worker: no Prefect server answers at {url} (PREFECT_API_URL)")
        time.sleep(WAIT_S)
    api = Api(url)
    skipped = late.skip_missed(api)
    _log(f"{skipped} missed runs are skipped, a later one of their schedule is due" if skipped else "no missed runs")
    threading.Thread(target=_sweep, args=(api,), daemon=True, name="zombies").start()
    sys.argv = ["prefect", "worker", "start", "--pool", POOL, "--type", "process", "--name", worker_name()]
    runpy.run_module("prefect", run_name="__main__")


def _sweep(api: Api) -> None:
    while True:
        try:
            if (swept := zombies.sweep(api)).runs:
                _log(f"closed {swept}: their process is gone")
        except ServerError as error:
            _log(str(error))
        time.sleep(zombies.SWEEP_S)


def _log(text: str) -> None:
    sys.stderr.write(f"textmill worker: {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
