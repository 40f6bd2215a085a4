"""What tasks share: what a row says of its model, the state they start from, and the mode they measure in."""

from __future__ import annotations

import inspect
from contextlib import contextmanager
from itertools import chain
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch


NEEDED = ("config", "has_fast_weights", "weights_hash", "initial_state", "flush", "parameters", "eval")
"""What a model has that can be measured, beside being called: `config` a ModelConfig (tokenizer and chunk size count),
`weights_hash` what tells it from another, `initial_state(batch)` the state it starts from, `flush(state, inplace)` the
state with all that is queued written; the last two, and being called, are those of a torch module."""
NEEDED_OF_A_STATE = ("fresh_sequence", "assert_fresh")
"""What a state has: itself before a new reading with the same memory, and a check that nothing was read yet."""


def check_measurable(model: Any) -> None:
    """Refuses what lacks something that every task asks of a model, or of its states. Raises UserError."""
    from fwpkm_eval.errors import UserError
    from fwpkm_eval.reference_models.language_model import LanguageModel

    if isinstance(model, LanguageModel):  # whose first state may take seconds to make
        return
    lacking = [name for name in NEEDED if not hasattr(model, name)]
    what = f"a {type(model).__name__}"
    if not lacking:
        state = model.initial_state(1)
        lacking = [name for name in NEEDED_OF_A_STATE if not hasattr(state, name)]
        what = f"the initial_state of {what}, a {type(state).__name__},"
    if lacking:
        raise UserError(
            f"{what} cannot be measured without {', '.join(lacking)}: README, “Add a model”, has an example"
        )


def model_tensor(model: torch.nn.Module) -> torch.Tensor:
    """A slow tensor of the model: its device and dtype are those that the model runs on and in.

    A model without tensors runs on the CPU.
    """
    import torch

    found = next(chain(model.parameters(), model.buffers()), None)
    return torch.zeros(()) if found is None else found


def describe_model(model: Any) -> dict[str, Any]:
    """The row fields that are the model's: the same for every row that it makes.

    A model that none of our names fits is called by its own attribute ``name``.
    """
    from fwpkm_eval import __version__
    from fwpkm_eval.kernels.backends import resolve_backend

    tensor = model_tensor(model)
    spec = model.config.spec
    return {
        "model": getattr(model, "name", model.config.name),
        "scale": model.config.scale,
        "score": model.config.fwpkm.score if spec.layers("fwpkm") else "",
        "device": tensor.device.type,
        "dtype": str(tensor.dtype).removeprefix("torch."),
        "backend": resolve_backend(getattr(model, "backend", "auto"), tensor.device) if spec.memories else "",
        "weights_hash": model.weights_hash,
        "version": __version__,
    }


def fresh_state(model: Any, length: int | None = None) -> Any:
    """The state that a task starts from, checked to hold nothing that was read before.

    length: tokens of the sequences to come, about; where they are longer than those trained on, full attention takes
    YaRN. None: as trained.
    """
    longer = length is not None and _takes_yarn(model)
    state = model.initial_state(1, length=length) if longer else model.initial_state(1)
    state.assert_fresh()
    return state


def yarn_arm(model: Any, length: int, arm: str = "") -> str:
    """The `arm` of rows whose sequences are `length` tokens: `arm`, and "yarn" where full attention takes YaRN.

    The factor is the length in trained lengths, rounded up to a power of two. Of both there is "frozen+yarn".
    """
    from fwpkm_eval.reference_models.yarn import yarn_for
    from fwpkm_eval.runs.rows import YARN, joined_arm

    return joined_arm(arm, YARN if _takes_yarn(model) and yarn_for(model.config, length) is not None else "")


def _takes_yarn(model: Any) -> bool:
    """Whether YaRN can change what a model computes. One of a user's own need not know of lengths."""
    from fwpkm_eval.reference_models.yarn import uses_yarn

    return uses_yarn(model.config) and "length" in inspect.signature(model.initial_state).parameters


@contextmanager
def measuring(model: torch.nn.Module) -> Iterator[None]:
    """The model in evaluation mode and without gradients; its mode is put back afterwards, come what may.

    ``no_grad`` and not ``inference_mode``: tables that a model caches while being measured (rotary angles,
    say) would be inference tensors for ever, and training on would fail.
    """
    import torch

    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
