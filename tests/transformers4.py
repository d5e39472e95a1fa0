"""The oldest supported transformers in a directory of its own, for programs that tests start; torch and all else are shared."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

WANTED = ("transformers>=4.57,<5", "huggingface-hub>=0.34,<1", "tokenizers>=0.22,<0.23")
FOLDER = Path(os.environ.get("TEXTMILL_TRANSFORMERS4") or Path(__file__).resolve().parents[1] / ".venv-transformers4")


def install(folder: Path = FOLDER) -> Path:
    """The directory for PYTHONPATH; installed there once. `make test` does the same beforehand."""
    done = folder / ".installed"
    if done.is_file() and done.read_text() == "\n".join(WANTED):
        return folder
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--upgrade", "--target", str(folder), *WANTED]
    subprocess.run(pip, check=True)
    done.write_text("\n".join(WANTED))
    return folder


if __name__ == "__main__":
    print(install())
