"""Compiles every kernel of a chunk, its gradient and a PKM read for an H100, at the paper's widths, without a GPU.

Launches are caught where Triton would run them; their arguments say what to compile. Prints each kernel's name, the
bytes of shared memory it takes, and the bytes of registers that it spills. Few tokens and small memories: kernels
depend on widths, heads and k alone.

Then runs a scan over two chunks, forward and backward, and prints the operations in it that wait for the device; once
more in float64, in which the tests run. Its rows are ODD numbers wide: of its kernels those are printed, as "narrow",
that multiply a row's number by that width in 32 bits.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import triton
from torch.utils._python_dispatch import TorchDispatchMode
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fwpkm_eval.kernels import triton_chunk, triton_windows
from fwpkm_eval.kernels.chunk import ChunkGradient, ChunkInputs, TouchedRows
from fwpkm_eval.kernels.sparse_scan import scan_sparse
from fwpkm_eval.kernels.triton_read import pkm_read_triton
from fwpkm_eval.kernels.types import Addressing, MemoryRule, Score

HOPPER = GPUTarget("cuda", 90, 32)
POINTERS = {
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.bfloat16: "*bf16",
    torch.int32: "*i32",
    torch.int64: "*i64",
}
ODD = 19
"""A width that no block and no other number has."""
compiled: set[tuple[Any, ...]] = set()


def compile_instead(kernel: Any, *args: Any, grid: Any, warmup: bool, num_warps: int, **constants: Any) -> None:
    """What Triton would compile for this launch: integers of 1 are constants, multiples of 16 are known to be."""
    given = dict(zip([p.name for p in kernel.params], args, strict=False)) | constants
    signature, constexprs, attributes = {}, {}, {}
    for at, parameter in enumerate(kernel.params):
        value = given[parameter.name]
        if isinstance(value, torch.Tensor):
            signature[parameter.name] = POINTERS[value.dtype]
            attributes[(at,)] = [["tt.divisibility", 16]]
        elif parameter.is_constexpr or value == 1:
            signature[parameter.name], constexprs[parameter.name] = "constexpr", value
        else:
            assert isinstance(value, int), f"{parameter.name} of {kernel.fn.__name__}: floats would be float32"
            signature[parameter.name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % 16 == 0:
                attributes[(at,)] = [["tt.divisibility", 16]]
    key = (kernel.fn.__name__, *signature.items(), *constexprs.items(), str(attributes))
    if key in compiled:
        return
    compiled.add(key)
    source = ASTSource(fn=kernel, signature=signature, constexprs=constexprs, attrs=attributes)
    result: Any = triton.compile(source, target=HOPPER, options={"num_warps": num_warps})
    if ODD not in constants.values():
        print(kernel.fn.__name__, result.metadata.shared, spilled(result.asm["ptx"]), flush=True)
    elif multiplies_in_32_bits(result.asm["ttir"], ODD):
        print("narrow", kernel.fn.__name__, flush=True)


def multiplies_in_32_bits(ttir: str, factor: int) -> bool:
    """Whether numbers of 32 bits are multiplied by `factor`: as offsets of many rows they would not be enough."""
    constants = set(
        re.findall(rf"(%\w+) = arith\.constant (?:dense<{factor}> : tensor<[\dx]+xi32>|{factor} : i32)", ttir)
    )
    products = re.findall(r"arith\.muli (%\w+), (%\w+)[^:]*: (?:tensor<[\dx]+xi32>|i32)", ttir)
    return any(constants & set(factors) for factors in products)


def spilled(ptx: str) -> int:
    """Bytes of registers that a thread keeps in memory instead: the assembler's own count."""
    with tempfile.NamedTemporaryFile("w", suffix=".ptx") as file:
        file.write(ptx)
        file.flush()
        command = [knobs.nvidia.ptxas.path, "-v", "--gpu-name=sm_90a", file.name, "-o", "/dev/null"]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    return sum(map(int, re.findall(r"(\d+) bytes spill stores", done.stderr)))


def compile_chunk(heads: int, half: int, width: int, topk: int, score: Score, addressing: Addressing) -> None:
    tokens, subkeys = 32, 64
    query, target = torch.zeros(2, tokens, heads * 2 * half), torch.zeros(2, tokens, width)
    gate, keys = torch.zeros(2, tokens), torch.zeros(heads, 2, subkeys, half)
    values = torch.zeros(subkeys**2, width)
    inputs = ChunkInputs(query, target, gate, MemoryRule(topk, score, 1, addressing))
    output = torch.zeros_like(target)
    step = triton_chunk.step_chunk(inputs, keys, values, output, log=True)
    # No kernel ran: slots are whatever the memory held.
    rows = TouchedRows(torch.zeros(1, dtype=torch.int64), torch.zeros(1, width))
    into = ChunkGradient(query.clone(), target.clone(), gate.clone())
    triton_chunk.step_chunk_backward(inputs, step, keys, output, output, keys.clone(), rows, into)


def compile_pkm(heads: int, half: int, width: int, topk: int) -> None:
    query = torch.zeros(2, 32, heads * 2 * half, requires_grad=True)
    keys = torch.zeros(heads, 2, 64, half, requires_grad=True)
    values = torch.zeros(64**2, width, dtype=torch.bfloat16, requires_grad=True)
    pkm_read_triton(query, keys, values, topk)[0].sum().backward()


WAITING = {"_local_scalar_dense", "nonzero", "masked_select", "unique_dim", "_unique2", "unique_consecutive"}
"""Operations of torch whose result's size or value has to come back from the device before the next launch."""


class Waits(TorchDispatchMode):
    """Collects the operations that wait for the device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.overloadpacket.__name__ in WAITING:
            self.found.append(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


@contextmanager
def waits_of(what: str) -> Iterator[None]:
    with Waits() as waits:
        yield
    print("waits", what, *waits.found, flush=True)


def scan(addressing: Addressing, dtype: torch.dtype = torch.float32) -> None:
    """Kernels do not run, so slots are whatever the memory held; which operations are called does not depend on it."""
    query = torch.zeros(2, 48, 32, dtype=dtype, requires_grad=True)
    target, values = torch.zeros(2, 48, ODD, dtype=dtype), torch.zeros(32**2, ODD, dtype=dtype)
    keys = torch.zeros(1, 2, 32, 16, dtype=dtype)
    rule = MemoryRule(8, "idw", 1, addressing)
    with waits_of(f"forward-{addressing}"):
        result = scan_sparse(query, target, None, keys, values, rule, 24, True, triton_chunk)
    with waits_of(f"backward-{addressing}"):
        result.output.sum().backward()


if __name__ == "__main__":
    triton.JITFunction.run = compile_instead
    for from_tokens in (triton_windows.LONG_CHUNK, 1):  # without windows, and with them
        triton_windows.LONG_CHUNK = from_tokens
        compile_chunk(1, 256, 512, 8, "idw", "entropy")
        compile_chunk(1, 256, 512, 8, "dot", "none")
        compile_chunk(4, 256, 512, 32, "idw", "entropy")
        compile_pkm(4, 256, 512, 32)
    scan("entropy")
    scan("none")
    scan("entropy", torch.float64)
