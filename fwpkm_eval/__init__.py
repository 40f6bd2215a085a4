"""Evaluates language models with fast-weight product-key memory (FwPKM) beside their baselines.

What stands in `fwpkm_eval.api` is loaded on first use, so that importing this package stays cheap.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fwpkm_eval.api import evaluate, load_model, load_state, save_state

__version__ = "0.9.7"
__all__ = ["__version__", "evaluate", "load_model", "load_state", "save_state"]

_FROM_API = ("evaluate", "load_model", "load_state", "save_state")


def __getattr__(name: str) -> Any:
    if name in _FROM_API:
        from fwpkm_eval import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_FROM_API})
