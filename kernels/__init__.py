"""Memory operations: `fwpkm_scan`, `fwmlp_scan`, `lact_scan`, their streaming forms, and FwPKM's reference.

Nothing is imported until it is asked for. `__version__` is here because some libraries probe for a package called
`kernels` when this repository's root is on the import path.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fwpkm_eval.kernels.fwmlp import fwmlp_scan
    from fwpkm_eval.kernels.fwpkm import fwpkm_scan
    from fwpkm_eval.kernels.lact import lact_scan

__version__ = "0.0.0"
__all__ = ["fwmlp_scan", "fwpkm_scan", "lact_scan"]


def __getattr__(name: str) -> Any:
    if name == "fwpkm_scan":
        from fwpkm_eval.kernels.fwpkm import fwpkm_scan

        return fwpkm_scan
    if name == "fwmlp_scan":
        from fwpkm_eval.kernels.fwmlp import fwmlp_scan

        return fwmlp_scan
    if name == "lact_scan":
        from fwpkm_eval.kernels.lact import lact_scan

        return lact_scan
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
