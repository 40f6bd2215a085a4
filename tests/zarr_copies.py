"""Copies of LongCrawl64's arrays in small: zarr's format 2, written chunk by chunk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

ROWS_IN_BLOCK, COLUMNS = 4, 64


def zarr_files(tokens: npt.NDArray[Any], compressed: bool = True, **changes: Any) -> dict[str, bytes]:
    """Files of an array of [rows, tokens] by name; the last block is filled up with zeros, as zarr does it.

    changes: what .zarray says otherwise.
    """
    from numcodecs import Blosc

    codec = Blosc(cname="lz4", clevel=5, shuffle=1) if compressed else None
    rows, width = tokens.shape
    layout = {
        "chunks": [ROWS_IN_BLOCK, COLUMNS],
        "compressor": None if codec is None else codec.get_config(),
        "dtype": "<u2",
        "fill_value": 0,
        "filters": None,
        "order": "C",
        "shape": [rows, width],
        "zarr_format": 2,
    }
    files = {".zarray": json.dumps(layout | changes).encode()}
    padded = np.zeros((-(-rows // ROWS_IN_BLOCK) * ROWS_IN_BLOCK, -(-width // COLUMNS) * COLUMNS), dtype="<u2")
    padded[:rows, :width] = tokens
    for block in range(padded.shape[0] // ROWS_IN_BLOCK):
        for column in range(padded.shape[1] // COLUMNS):
            down, right = block * ROWS_IN_BLOCK, column * COLUMNS
            chunk = np.ascontiguousarray(padded[down : down + ROWS_IN_BLOCK, right : right + COLUMNS])
            files[f"{block}.{column}"] = chunk.tobytes() if codec is None else bytes(codec.encode(chunk))
    return files


def write_copy(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder
