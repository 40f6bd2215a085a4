"""Evaluates language models with fast-weight product-key memory (FwPKM) beside their baselines.

The Python interface is loaded on first use, so that importing this package stays cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fwpkm_eval.api import evaluate, load_model, load_state, save_state
    from fwpkm_eval.generation_text import generate, memorise
    from fwpkm_eval.training.train import train

__version__ = "0.9.11"
__all__ = ["__version__", "evaluate", "generate", "load_model", "load_state", "memorise", "save_state", "train"]

_MODULES = {
    **dict.fromkeys(("evaluate", "load_model", "load_state", "save_state"), "fwpkm_eval.api"),
    **dict.fromkeys(("generate", "memorise"), "fwpkm_eval.generation_text"),
    "train": "fwpkm_eval.training.train",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
