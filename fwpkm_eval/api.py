"""The Python interface: load a trained model, and evaluate it on a task (and `generation_text`: text in, text out).

from fwpkm_eval import evaluate, load_model, load_state, save_state

model = load_model("gdn+swa:fwpkm")                     # or the folder of a checkpoint
rows = evaluate(model, "niah", lengths=(4096,), passes=(1, 2, 4))
rows = evaluate(model, "ppl", data="embedded", tokens=65536, frozen=True)

logits, state = model(tokens)                           # tokens [1, T]
save_state("memory.state", model, model.flush(state))
state = load_state("memory.state", model).fresh_sequence()
"""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fwpkm_eval.errors import UserError, unknown

if TYPE_CHECKING:
    import pandas
    import torch

    from fwpkm_eval.data import TextSet
    from fwpkm_eval.data.tokenizers import Tokenizer
    from fwpkm_eval.reference_models.config import ModelConfig
    from fwpkm_eval.runs.rows import Row

SHIPPED = Path(__file__).parent / "checkpoints"
TASKS = ("niah", "ppl", "gates", "addressing", "cost")


def load_model(
    name_or_path: str | Path,
    scale: str = "micro",
    device: str | torch.device = "cpu",
    seed: int = 0,
    dtype: str | torch.dtype = "float32",
) -> Any:
    """A trained model, ready to be evaluated: a `reference_models.language_model.LanguageModel`.

    Args: name_or_path: a model's name (``gdn+swa:fwpkm@1,3``), whose shipped checkpoint is taken, or a
        checkpoint's folder. scale, seed: which of the shipped checkpoints of that name; a folder says it
        itself. dtype: of weights and activations (``float32``, ``float64``, ``bfloat16``, or torch's); fast weights
        are never below float32.

    Raises:
        UserError: no such model, checkpoint or device, or files that are damaged or do not belong together.
    """
    from fwpkm_eval.devices import resolve_device, resolve_dtype
    from fwpkm_eval.reference_models.checkpoint import load_checkpoint

    where = resolve_device(str(device))
    return load_checkpoint(find_checkpoint(name_or_path, scale, seed), where, resolve_dtype(dtype))


def save_state(path: str | Path, model: Any, state: Any) -> None:
    """Writes a state of ``model`` (what it returned, or its ``initial_state()``) to a file, whole or not at all.

    Raises:
        UserError: the state is of another model, or the file cannot be written.
    """
    from fwpkm_eval.reference_models.state_files import save_state as save

    save(Path(path), model, state)


def load_state(path: str | Path, model: Any) -> Any:
    """The state in a file: ``model`` goes on from it as from the one that was saved.

    Raises:
        UserError: no such file, damaged, or the state of another model.
    """
    from fwpkm_eval.reference_models.state_files import load_state as load

    return load(Path(path), model)


def find_checkpoint(name_or_path: str | Path, scale: str = "micro", seed: int = 0) -> Path:
    """The folder of a checkpoint: the one given, or the shipped one of a model's name.

    Raises:
        UserError: there is none; says how to make it.
    """
    from fwpkm_eval.reference_models.checkpoint import DESCRIPTION
    from fwpkm_eval.reference_models.config import model_config

    text = str(name_or_path)
    if not text:
        raise UserError("the name of the model is empty: give one such as gdn+swa:fwpkm, or a checkpoint's folder")
    if isinstance(name_or_path, Path) or Path(text).is_dir() or "/" in text:
        folder = Path(name_or_path)
        if not (folder / DESCRIPTION).is_file():
            raise UserError(f"no checkpoint in {folder}: {_what_else(folder, DESCRIPTION)}")
        return folder
    name = model_config(text, scale).name
    shipped = shipped_checkpoint(name, scale, seed)
    if shipped is None:
        which = f" with seed {seed}" if seed else ""
        raise UserError(
            f"no trained {name} at scale {scale}{which} is shipped: train it with "
            f"'fwpkm-eval train --model {name} --scale {scale} --out DIR' and name DIR instead"
        )
    return shipped


def _what_else(folder: Path, description: str) -> str:
    """What is to be done about a folder that holds no checkpoint."""
    from fwpkm_eval.training.savepoints import save_points

    if not folder.is_dir():
        return "there is no such folder"
    if save_points(folder):
        return "its training is not finished: 'fwpkm-eval train' with its settings and --resume goes on with it"
    return f"it holds no {description}"


def shipped_checkpoint(name: str, scale: str = "micro", seed: int = 0) -> Path | None:
    """The folder of the trained weights that come with this package for a model's full name; None if there are none."""
    from fwpkm_eval.reference_models.checkpoint import DESCRIPTION

    folder = SHIPPED / scale / checkpoint_name(name, seed)
    return folder if (folder / DESCRIPTION).is_file() else None


def shipped_weights(name: str, scale: str) -> str | None:
    """The hash of the trained weights that come with this package for a model's full name; None if there are none."""
    # Not by the module of checkpoints: it imports torch, and a report does without.
    description = SHIPPED / scale / checkpoint_name(name) / "model.json"
    return str(json.loads(description.read_bytes())["weights_hash"]) if description.is_file() else None


def checkpoint_name(model: str, seed: int = 0) -> str:
    """A model's name as the name of a folder: ``gdn+swa:fwpkm@2,6`` is ``gdn-swa-fwpkm-2-6``."""
    name = re.sub(r"[^a-z0-9]+", "-", model)
    return f"{name}-seed{seed}" if seed else name


def tokenizer_of(config: ModelConfig) -> Tokenizer:
    """The tokenizer that a model of this configuration was trained with."""
    from fwpkm_eval.data.tokenizers import tokenizer_named

    return tokenizer_named(config.tokenizer)


def evaluate(
    model: Any,
    task: str = "ppl",
    data: str = "embedded",
    *,
    sets: str | Sequence[str] | None = None,
    progress: Callable[[int], None] | None = None,
    **settings: Any,
) -> pandas.DataFrame:
    """Measures a model and returns the rows (see `runs.rows.Row`) as a table.

    Args:
        model: what `load_model` returns, or what it takes: the name of a shipped model, or a checkpoint's folder.
        task: ``ppl`` (perplexity), ``niah`` (needles in a haystack), ``gates``, ``addressing`` or ``cost``.
        data: ``embedded``, or a folder of ``<set>/<split>.jsonl[.gz]``.
        sets: which sets' test splits, one or several; by default every one for perplexity, and for haystacks the
            usual one.
        progress: called with the number of tokens read since its last call.
        settings: fields of `tasks.perplexity.PerplexitySettings` (also for gates and addressing),
            `tasks.niah.NiahSettings` or `tasks.cost.CostSettings`. Sizes may be text, as on the command line (``"8K"``,
            and ``"4K,32K"`` for several).

    Raises:
        UserError: an unknown task, set or setting, or settings that do not fit.
    """
    from fwpkm_eval.data import default_haystack, default_sets, load_set, skipped_note
    from fwpkm_eval.runs.rows import rows_to_frame
    from fwpkm_eval.tasks.describe import check_measurable

    if task not in TASKS:
        raise unknown("task", task, TASKS)
    measures = {"ppl": _perplexity, "niah": _niah, "cost": _cost}
    measure = measures.get(task) or partial(_inside, task)
    if isinstance(model, str | Path):
        model = load_model(model)
    elif not callable(model):
        raise UserError(f"model is a {type(model).__name__}; it must be one model, a model's name or a folder")
    else:
        check_measurable(model)
    if sets is not None and not sets:
        raise UserError("sets names none: name at least one, or leave it out for the usual ones")
    if (note := skipped_note(data)) is not None:
        warnings.warn(note, stacklevel=2)
    names = [sets] if isinstance(sets, str) else list(dict.fromkeys(sets or ()))
    names = names or ([default_haystack(data)] if task == "niah" else default_sets(data))
    rows: list[Row] = []
    for name in names:
        rows += measure(model, load_set(data, name, "test"), settings, progress)
    return rows_to_frame(rows)


def _perplexity(
    model: Any, text_set: TextSet, settings: dict[str, Any], progress: Callable[[int], None] | None
) -> list[Row]:
    from fwpkm_eval.tasks.perplexity import PerplexitySettings, evaluate_perplexity, perplexity_rows

    checked = PerplexitySettings(**_known(settings, PerplexitySettings))
    result = evaluate_perplexity(model, text_set, checked, tokenizer_of(model.config), progress)
    return perplexity_rows(model, text_set, checked, result)


def _niah(model: Any, text_set: TextSet, settings: dict[str, Any], progress: Callable[[int], None] | None) -> list[Row]:
    from fwpkm_eval.tasks.niah import NiahSettings, evaluate_niah, repeats_note
    from fwpkm_eval.tasks.niah_rows import niah_rows

    checked = NiahSettings(**_known(settings, NiahSettings))
    tokenizer = tokenizer_of(model.config)
    if (note := repeats_note(text_set, checked, tokenizer)) is not None:
        warnings.warn(note, stacklevel=3)
    result = evaluate_niah(model, text_set, checked, tokenizer, progress)
    return niah_rows(model, text_set, checked, result)


def _inside(
    task: str, model: Any, text_set: TextSet, settings: dict[str, Any], progress: Callable[[int], None] | None
) -> list[Row]:
    from fwpkm_eval.runs.measures import MEASURES
    from fwpkm_eval.tasks.perplexity import PerplexitySettings

    return MEASURES[task](model, text_set, _known(settings, PerplexitySettings), progress or _ignore)


def _cost(model: Any, text_set: TextSet, settings: dict[str, Any], progress: Callable[[int], None] | None) -> list[Row]:
    from fwpkm_eval.runs.measures import MEASURES
    from fwpkm_eval.tasks.cost import CostSettings

    return MEASURES["cost"](model, text_set, _known(settings, CostSettings), progress or _ignore)


def _ignore(tokens: int) -> None:
    """The progress of who asks for none."""


def _known(settings: dict[str, Any], kind: type) -> dict[str, Any]:
    from fwpkm_eval.settings import read_settings

    return read_settings(settings, kind)
