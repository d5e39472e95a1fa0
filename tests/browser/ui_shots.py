"""Screenshots of a finished run's report, and of the Prefect UI that watched it, to be looked at by people.

    python tests/browser/ui_shots.py OUT --report WORKSPACE/runs/ID/report.html [--ui http://127.0.0.1:4200]

For each page a PNG in OUT; the exit status is 1 when a page raised an error of its own or asked another host for something.
"""

from __future__ import annotations

import argparse
import json
import shutil
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

WAIT_MS = 4000  # the Prefect UI draws its graph and artifacts after the page has loaded
SIZE = {"width": 1400, "height": 950}


def chromium() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome"):
        if path := shutil.which(name):
            return path
    raise SystemExit("no Chromium found; install the system's chromium package")


def ask(ui: str, path: str) -> list[dict]:
    """The server's newest rows of a kind."""
    body = json.dumps({"limit": 20, "sort": "START_TIME_DESC"} if path == "flow_runs" else {"limit": 50, "sort": "CREATED_DESC"}).encode()
    request = urllib.request.Request(f"{ui}/api/{path}/filter", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as answer:
        return json.load(answer)


def prefect_pages(ui: str) -> Iterator[tuple[str, str]]:
    """Name and address of what is worth seeing: the runs, the newest run, the one before (fresh beside cached), its artifacts."""
    yield "runs", f"{ui}/runs"
    runs = ask(ui, "flow_runs")
    for number, run in enumerate(runs[:2]):
        yield f"run-{number}", f"{ui}/runs/flow-run/{run['id']}"
    kept = [each for each in ask(ui, "artifacts") if runs and each.get("flow_run_id") == runs[0]["id"] and each.get("key")]
    newest = {each["key"]: each for each in reversed(kept)}
    for key, each in sorted(newest.items()):
        yield f"artifact-{key}", f"{ui}/artifacts/artifact/{each['id']}"
    yield "deployments", f"{ui}/deployments"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--report", type=Path)
    parser.add_argument("--ui", default="")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    pages = [("report", given.report.resolve().as_uri())] if given.report else []
    pages += list(prefect_pages(given.ui.rstrip("/"))) if given.ui else []
    troubles = shoot(pages, given.out)
    for trouble in troubles:
        print(trouble)
    return 1 if troubles else 0


def shoot(pages: list[tuple[str, str]], out: Path) -> list[str]:
    """One PNG a page; what went wrong on any of them."""
    from playwright.sync_api import sync_playwright

    troubles: list[str] = []
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium(), args=["--no-sandbox"])
        for name, address in pages:
            page = browser.new_page(viewport=SIZE)
            home = urlsplit(address).netloc
            page.on("pageerror", lambda error, name=name: troubles.append(f"{name}: {error}"))
            page.on("request", lambda request, name=name, home=home: troubles.extend(strange(request.url, home, name)))
            page.goto(address, wait_until="domcontentloaded")
            page.wait_for_timeout(0 if address.startswith("file:") else WAIT_MS)
            page.screenshot(path=out / f"{name}.png", full_page=True)
            page.close()
            print(out / f"{name}.png")
        browser.close()
    return troubles


def strange(url: str, home: str, name: str) -> list[str]:
    """A request to another host than the page's own."""
    parts = urlsplit(url)
    return [f"{name}: asked {parts.netloc}"] if parts.scheme in ("http", "https", "ws", "wss") and parts.netloc != home else []


if __name__ == "__main__":
    raise SystemExit(main())
