"""Compiles every kernel of a chunk, its gradient and a PKM read for an H100, at the paper's widths, without a GPU.

Launches are caught where Triton would run them; their arguments say what to compile. Prints each kernel's name and the
bytes of shared memory it takes. Few tokens and small memories: kernels depend on widths, heads and k alone.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from fwpkm_eval.kernels import triton_chunk
from fwpkm_eval.kernels.chunk import ChunkGradient, ChunkInputs, TouchedRows
from fwpkm_eval.kernels.triton_read import pkm_read_triton
from fwpkm_eval.kernels.types import Addressing, MemoryRule, Score

HOPPER = GPUTarget("cuda", 90, 32)
POINTERS = {torch.float32: "*fp32", torch.bfloat16: "*bf16", torch.int32: "*i32", torch.int64: "*i64"}
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
            signature[parameter.name] = "i32"
            if value % 16 == 0:
                attributes[(at,)] = [["tt.divisibility", 16]]
    key = (kernel.fn.__name__, *signature.items(), *constexprs.items(), str(attributes))
    if key in compiled:
        return
    compiled.add(key)
    source = ASTSource(fn=kernel, signature=signature, constexprs=constexprs, attrs=attributes)
    result: Any = triton.compile(source, target=HOPPER, options={"num_warps": num_warps})
    print(kernel.fn.__name__, result.metadata.shared, flush=True)


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


if __name__ == "__main__":
    triton.JITFunction.run = compile_instead
    compile_chunk(1, 256, 512, 8, "idw", "entropy")
    compile_chunk(1, 256, 512, 8, "dot", "none")
    compile_pkm(4, 256, 512, 32)
