"""Published corpora: what there is, how it is fetched, and the folder where prepared sets are kept.

    catalog     which corpora, where they are, which documents are train, valid and test
    hub         documents of a Hugging Face hub data set, or of local files in the same formats
    longcrawl   documents of an array or a file of GPT-2 token ids (LongCrawl64)
    token_array blocks of rows of such an array (zarr), local, over http or on the hub
    token_file  ranges of such a file, local or over http
    parts       what a preparation has fetched so far, so that a killed one goes on
    prepare     from a corpus to files that `--data hub` and `--data PATH` read

Importing this package loads nothing heavy.
"""

from __future__ import annotations

import os
from pathlib import Path

from fwpkm_eval.errors import UserError

FOLDER_VARIABLE = "FWPKM_EVAL_DATA"
WITHOUT_NETWORK = "--data embedded or --data PATH needs no network"


def hub_folder() -> Path:
    """Where prepared sets are kept, and what `--data hub` reads: FWPKM_EVAL_DATA, else a folder of the user's cache."""
    named = os.environ.get(FOLDER_VARIABLE)
    try:
        return Path(named).expanduser() if named else Path.home() / ".cache" / "fwpkm_eval" / "data"
    except RuntimeError as error:  # no home folder
        raise UserError(f"no folder for prepared sets: {error}; set {FOLDER_VARIABLE}") from error


def how_to_prepare(name: str, split: str = "test") -> str:
    """The command that prepares a split of a set."""
    splits = "" if split == "test" else f" --splits {split}"
    return f"fwpkm-eval data prepare --data hub --set {name}{splits}"
