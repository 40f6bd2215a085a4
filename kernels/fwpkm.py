"""`fwpkm_scan`: the fast-weight product-key memory over the chunks of a sequence."""

from __future__ import annotations

from torch import Tensor

from fwpkm_eval.errors import UserError
from fwpkm_eval.kernels.arguments import check_activations, check_fast_weights, check_tensors, check_whole
from fwpkm_eval.kernels.backends import chunk_ops, resolve_backend
from fwpkm_eval.kernels.grad_mode import takes_gradient
from fwpkm_eval.kernels.precision import full_precision
from fwpkm_eval.kernels.reference import scan_reference
from fwpkm_eval.kernels.sparse_scan import scan_sparse
from fwpkm_eval.kernels.types import Addressing, MemoryRule, ScanResult, Score


def fwpkm_scan(
    query: Tensor,
    target: Tensor,
    gate: Tensor | None,
    keys: Tensor,
    values: Tensor,
    *,
    topk: int = 8,
    score: Score = "idw",
    lookahead: int = 1,
    addressing: Addressing = "entropy",
    chunk_size: int = 512,
    learning_rate: float = 1.0,
    addressing_weight: float = 1.0,
    backend: str = "auto",
    inplace: bool = False,
) -> ScanResult:
    """Reads and rewrites a product-key memory, chunk by chunk (Zhao & Jones, arXiv 2601.00671).

    A token's query has two halves a head. Each half scores its S sub-keys, s_j = −log(1e-3 + ‖q − K_j‖²) (score "idw")
    or q·K_j ("dot"); of the pairs of the k best of either half the k with the greatest sums s_i + s_j are the slots
    read, i·S + j. The read v̂ is the sum of their values, weighted by w, one softmax over the H·k sums of a token.

    All reads of a chunk see the fast weights as they stood before it; the write comes after it:

        V_i ← V_i − η·(H·k·C/(C−L))/N_i · Σ_{t<C−L} w_{t,i}·g_t·(v̂_t − v_{t+L})
        K   ← K − η·∂/∂K [ λ·Σ_m Σ_i p̄_i·log(p̄_i + 1e-8) ]         (m the two halves, p̄ the mean over the chunk)

    Args:
        query: [B,T,H·dk]. target: [B,T,dv], before the lookahead shift. gate: [B,T] or None (g = 1). All in floating
            point, such as bfloat16, and computed with in the type of the values.
        keys: [H,2,S,dk/2]. values: [S²,dv]. One memory serves all B rows. float32 (float64 for tests).
        topk: k slots read per head and token. score: "idw" or "dot". lookahead: L tokens; a chunk of no more than L
            writes no values. addressing: "entropy" or "none" (the memorisation loss moves the keys). chunk_size: C
            tokens. learning_rate: η. addressing_weight: λ.
        backend: "auto", "reference" (dense autograd, the equations as written), "torch" (sparse closed form) or
            "triton" (the same in fused kernels).
        inplace: lets a sparse backend write into keys and values instead of copies of them. With a gradient the
            tensors given become part of the graph, as they are what is returned.

    Returns:
        `ScanResult`. keys and values given are not changed unless inplace; output, keys and values are differentiable
        in query, target, gate, keys and values, through every read and write; the losses are detached.

    Raises:
        UserError: shapes or settings that do not fit, or a backend that cannot run here.
    """
    rule = MemoryRule(topk, score, lookahead, addressing, learning_rate, addressing_weight)
    check_memory_shapes(query, target, gate, keys, values, rule)
    check_whole("chunk_size", chunk_size, 1, "token")
    chosen = resolve_backend(backend, query.device)
    if inplace and (keys.requires_grad or values.requires_grad):
        raise UserError(
            "inplace=True overwrites keys and values: neither may require a gradient "
            "(after a call that took one they are part of its graph: detach_() them first)"
        )
    if inplace and (keys._is_view() or values._is_view()) and takes_gradient(query, target, gate):
        raise UserError("inplace=True cannot take a gradient where keys or values are views: give tensors of their own")
    dtype = values.dtype
    query, target = query.to(dtype), target.to(dtype)
    gate = None if gate is None else gate.to(dtype)
    if chosen == "reference" and inplace:
        raise UserError("backend 'reference' has no inplace form; use backend='torch' or inplace=False")
    with full_precision(query.device):
        if chosen == "reference":
            return scan_reference(query, target, gate, keys, values, rule, chunk_size)
        return scan_sparse(query, target, gate, keys, values, rule, chunk_size, inplace, chunk_ops(chosen))


def check_memory_shapes(
    query: Tensor, target: Tensor, gate: Tensor | None, keys: Tensor, values: Tensor, rule: MemoryRule
) -> None:
    """Refuses what is no tensor, and sizes that do not fit, in one line that says what would."""
    check_tensors(query=query, target=target, keys=keys, values=values, **({} if gate is None else {"gate": gate}))
    if query.dim() != 3 or target.dim() != 3 or query.shape[:2] != target.shape[:2]:
        raise UserError(
            f"query {list(query.shape)} and target {list(target.shape)} must be [B,T,H·dk] and [B,T,dv], same B and T"
        )
    if 0 in query.shape[:2]:
        raise UserError(f"query {list(query.shape)} holds no tokens; B and T must be at least 1")
    if gate is not None and gate.shape != query.shape[:2]:
        raise UserError(f"gate {list(gate.shape)} must be [B,T] = {list(query.shape[:2])}")
    if keys.dim() != 4 or keys.shape[1] != 2:
        raise UserError(f"keys {list(keys.shape)} must be [H,2,S,dk/2]")
    if 0 in keys.shape:
        raise UserError(f"keys {list(keys.shape)} hold none; H, S and dk/2 must be at least 1")
    heads, _, subkeys, half = keys.shape
    if query.shape[2] != heads * 2 * half:
        raise UserError(
            f"query width {query.shape[2]} does not fit keys {list(keys.shape)}: "
            f"H·dk is {heads}·{2 * half} = {heads * 2 * half}"
        )
    if values.dim() != 2 or values.shape[0] != subkeys**2:
        raise UserError(f"values {list(values.shape)} must be [S²,dv] with S² = {subkeys}² = {subkeys**2}")
    if values.shape[1] == 0:
        raise UserError(f"values {list(values.shape)} have no features; dv must be at least 1")
    if values.shape[1] != target.shape[2]:
        raise UserError(f"target width {target.shape[2]} does not fit values {list(values.shape)}: both must be dv")
    if rule.topk > subkeys:
        raise UserError(
            f"topk {rule.topk} is larger than the {subkeys} sub-keys of a half; it must be at most {subkeys}"
        )
    check_fast_weights({"keys": keys, "values": values})
    check_activations(query=query, target=target, **({} if gate is None else {"gate": gate}))
