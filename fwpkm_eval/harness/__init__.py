"""The lm-evaluation-harness, both ways: our models as its models, our tasks (`fwpkm_eval.tasks.lm_eval`) as its tasks.

Importing this registers the model ``fwpkm`` with lm-eval, and needs the extra ``harness``.
"""

from __future__ import annotations

from fwpkm_eval.harness.model import FwPKMLM
from fwpkm_eval.harness.settings import ReadingSettings

__all__ = ["FwPKMLM", "ReadingSettings"]
