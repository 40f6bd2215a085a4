"""Models built from the notation of the paper; imported as ``fwpkm_eval.reference_models``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fwpkm_eval.reference_models.parameters import count_parameters

__all__ = ["count_parameters"]


def __getattr__(name: str) -> Any:
    if name == "count_parameters":
        from fwpkm_eval.reference_models.parameters import count_parameters

        return count_parameters
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
