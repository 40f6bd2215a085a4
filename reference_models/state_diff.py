"""What two states of one model differ in: which slots, by how much."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fwpkm_eval.errors import UserError
from fwpkm_eval.kernels.stream import DenseMemory, ProductKeyMemory
from fwpkm_eval.reference_models.state_files import StoredState


@dataclass(frozen=True)
class SlotChange:
    """A slot whose value differs: the Euclidean norms of the difference, and of the value before and after."""

    slot: int
    change: float
    before: float
    after: float


@dataclass(frozen=True)
class LayerDiff:
    """One layer's differences; norms are Frobenius norms of what differs.

    slots_changed of `slots`, and subkeys_changed of `subkeys` (over heads and halves): those that differ in any bit.
    top: the slots that differ most, largest first. weights: for FwMLP and LaCT, the change of each of its weights.
    """

    layer: int
    memory: str
    slots: int = 0
    slots_changed: int = 0
    values_change: float = 0.0
    subkeys: int = 0
    subkeys_changed: int = 0
    keys_change: float = 0.0
    top: tuple[SlotChange, ...] = ()
    weights: dict[str, float] | None = None

    @property
    def empty(self) -> bool:
        return not (self.slots_changed or self.subkeys_changed or any((self.weights or {}).values()))


def diff_states(a: StoredState, b: StoredState, top: int = 10) -> list[LayerDiff]:
    """From a to b, layer by layer; the `top` slots that changed most of each. UserError for states of two models."""
    for what, ours, theirs in (
        ("models", f"{a.config.name} ({a.config.scale})", f"{b.config.name} ({b.config.scale})"),
        ("weights", a.weights_hash, b.weights_hash),
    ):
        if ours != theirs:
            raise UserError(f"these are states of different {what}, {ours} and {theirs}: they cannot be compared")
    if a.config != b.config:
        raise UserError(f"these are states of two {a.config.name} of different configurations: they cannot be compared")
    found = []
    for number, held in a.state.memories.items():
        before, after = held.memory, b.state.memories[number].memory
        if isinstance(before, ProductKeyMemory) and isinstance(after, ProductKeyMemory):
            found.append(_diff_product_keys(number, before, after, top))
        elif isinstance(before, DenseMemory) and isinstance(after, DenseMemory):
            changes = {name: float((after.weights[name] - w).norm()) for name, w in before.weights.items()}
            found.append(LayerDiff(number, before.rule.name, weights=changes))
    return found


def _diff_product_keys(number: int, a: ProductKeyMemory, b: ProductKeyMemory, top: int) -> LayerDiff:
    changed = (a.values != b.values).any(1).nonzero().squeeze(-1)
    change = (b.values[changed].double() - a.values[changed].double()).norm(dim=1)
    most = change.argsort(descending=True, stable=True)[:top]
    slots = tuple(
        SlotChange(slot, size, before, after)
        for slot, size, before, after in zip(
            changed[most].tolist(),
            change[most].tolist(),
            a.values[changed[most]].double().norm(dim=1).tolist(),
            b.values[changed[most]].double().norm(dim=1).tolist(),
            strict=True,
        )
    )
    keys = (b.keys.double() - a.keys.double()).norm(dim=-1)
    return LayerDiff(
        layer=number,
        memory="fwpkm",
        slots=len(a.values),
        slots_changed=len(changed),
        values_change=float(change.norm()),
        subkeys=keys.numel(),
        subkeys_changed=int((a.keys != b.keys).any(-1).sum()),
        keys_change=float(torch.linalg.vector_norm(keys)),
        top=slots,
    )
