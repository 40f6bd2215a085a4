"""``python -m fwpkm_eval`` is the same as ``fwpkm-eval``."""

from __future__ import annotations

import sys

from fwpkm_eval.cli import main

if __name__ == "__main__":
    sys.exit(main())
