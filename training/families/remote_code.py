"""Python code that an export carries for `trust_remote_code=True`, where transformers has no class for its model.

The code is copied, never imported here: textmill itself opens such an export by its family.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

BANDED = "modeling_textmill_banded"
MODEL_TYPE = "textmill-banded"  # unknown to transformers: without trust_remote_code the export fails to open and never answers wrongly
AUTO_MAP = {
    "AutoConfig": f"{BANDED}.BandedGPTConfig",
    "AutoModel": f"{BANDED}.BandedGPTModel",
    "AutoModelForCausalLM": f"{BANDED}.BandedGPTLMHeadModel",
    "AutoModelForSequenceClassification": f"{BANDED}.BandedGPTForSequenceClassification",
}


def banded_settings(band: int) -> dict[str, Any]:
    """Keys of config.json that make transformers load the code beside it."""
    return {"model_type": MODEL_TYPE, "auto_map": dict(AUTO_MAP), "band": band}


def copy_code(settings: Mapping[str, Any], directory: Path) -> None:
    """The code that `settings` names, next to config.json; nothing for models that transformers has a class for."""
    if settings.get("model_type") == MODEL_TYPE:
        shutil.copyfile(Path(__file__).with_name(f"{BANDED}.py"), directory / f"{BANDED}.py")
