"""Needles and perplexity as tasks of the lm-evaluation-harness, for any of its models.

`FOLDER` is what ``TaskManager(include_path=…)`` or ``lm_eval --include_path`` takes. Arguments of the tasks are its
``metadata`` (``lm_eval --metadata '{"length": 8192}'``); `niah` and `perplexity` list them.
"""

from __future__ import annotations

from pathlib import Path

FOLDER = Path(__file__).resolve().parent
