"""Training: the loss, the optimizer, what is stored, and memories that diverge."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from model_cases import SIZES, fast_weights, tokens
from tolerances import assert_close
from training_cases import ALWAYS, NEVER, TINY, contents, run, write_words
from training_cases import tiny_training_config as config

from fwpkm_eval.errors import UserError
from fwpkm_eval.reference_models.checkpoint import load_checkpoint
from fwpkm_eval.reference_models.config import model_config
from fwpkm_eval.reference_models.language_model import LanguageModel
from fwpkm_eval.reference_models.state import ModelState
from fwpkm_eval.training.loggers import as_row
from fwpkm_eval.training.optimizer import learning_rate, make_optimizer
from fwpkm_eval.training.recipe import Recipe
from fwpkm_eval.training.savepoints import save_points
from fwpkm_eval.training.trainer import Diverged, Settings, StepReport, Trainer

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_words(tmp_path_factory.mktemp("data"))


def test_learning_rate() -> None:
    """Up in a straight line from peak/warmup, down in a cosine to the final rate, never outside."""
    recipe = replace(TINY, steps=1000, warmup=100, learning_rate=0.5, final_rate=0.1)
    rates = [learning_rate(recipe, step) for step in range(1000)]
    assert rates[0] == pytest.approx(0.005)
    assert rates[49] == pytest.approx(0.25)
    assert max(rates) == rates[100] == pytest.approx(0.5)
    assert np.all(np.diff(rates[:101]) >= 0)
    assert np.all(np.diff(rates[100:]) < 0)
    assert rates[550] == pytest.approx((0.5 + 0.05) / 2)
    assert rates[-1] == pytest.approx(0.05, rel=1e-3)
    assert min(rates[100:]) >= 0.05
    assert learning_rate(replace(recipe, warmup=0), 0) == pytest.approx(0.5)
    assert 0 < learning_rate(replace(recipe, steps=50), 49) <= 0.5


def test_weight_decay_is_for_matrices_alone() -> None:
    model = LanguageModel(model_config("gdn+swa:pkm@2+fwpkm@0", "micro", **SIZES))
    decayed, kept = make_optimizer(model, replace(TINY, weight_decay=0.3)).param_groups
    assert decayed["betas"] == kept["betas"] == (0.9, 0.95)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.3, 0)
    assert len(decayed["params"]) + len(kept["params"]) == len(names)
    for parameter in kept["params"]:
        assert re.search(r"norm|bias|conv|a_log", names.pop(id(parameter)))
    for parameter in decayed["params"]:
        assert not re.search(r"norm|bias|conv|a_log", names.pop(id(parameter)))
    assert not names


def test_the_loss_is_what_the_recipe_says(data: str, tmp_path: Path) -> None:
    recipe = replace(TINY, needle_share=1.0, answer_weight=3.0, steps=1)
    trainer = Trainer(config("gdn"), recipe, tmp_path, data)
    batch = trainer.batches.batch(0)
    ids = torch.from_numpy(batch.tokens)
    with torch.no_grad():
        logits, _ = trainer.model(ids[:, :-1], None)
    nats = F.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    answers = torch.from_numpy(batch.is_answer)
    assert answers.sum() == 6
    (report,) = run(trainer)
    found = [report.loss, report.document_loss, report.answer_loss, report.answer_accuracy]
    expected = [nats.mean() + 3 * nats[answers].mean(), nats[0].mean(), nats[answers].mean()]
    expected.append((logits.argmax(-1) == ids[:, 1:])[answers].float().mean())
    assert_close("training.loss", torch.tensor(found), torch.stack(expected))
    assert (report.step, report.tokens) == (1, 192)


def test_steps_without_answers_have_a_loss(data: str, tmp_path: Path) -> None:
    reports = run(Trainer(config("gdn"), replace(TINY, needle_share=0.0), tmp_path, data))
    assert len(reports) == 6
    assert all(math.isfinite(report.loss) and math.isfinite(report.document_loss) for report in reports)


def test_the_loss_falls(data: str, tmp_path: Path) -> None:
    recipe = replace(TINY, steps=30, learning_rate=1e-2, final_rate=0.5, warmup=5)
    reports = run(Trainer(config("gdn:fwpkm@1"), recipe, tmp_path, data))
    assert [report.step for report in reports] == list(range(1, 31))
    first, last = (sum(r.document_loss for r in part) / 5 for part in (reports[:5], reports[-5:]))
    assert last < 0.8 * first
    assert last < math.log(257), "worse than knowing nothing"


def test_what_was_trained_is_what_is_stored(data: str, tmp_path: Path) -> None:
    """The checkpoint gives the trainer's own model, with the keys it learned as its first keys."""
    trainer = Trainer(config("gdn:fwpkm@1"), TINY, tmp_path, data)
    started_with = trainer.model.state_dict()["layers.1.memory.first_keys"].clone()
    run(trainer)
    loaded, ids = load_checkpoint(tmp_path), tokens(vocab=257)
    assert not torch.equal(loaded.state_dict()["layers.1.memory.first_keys"], started_with)
    with torch.no_grad():
        for updates in ("stream", "scan"):
            options: Any = {"updates": updates}
            assert torch.equal(loaded(ids, None, **options)[0], trainer.model(ids, None, **options)[0]), updates
    about = json.loads((tmp_path / "model.json").read_text())["training"]
    assert about["data_hash"] == trainer.batches.data_hash
    assert Recipe.from_dict(about["recipe"]) == TINY
    assert str(data) not in json.dumps(about), "a path of this machine"


@pytest.mark.parametrize("saved", [True, False])
def test_weights_that_are_not_finite_end_the_run(saved: bool, data: str, tmp_path: Path) -> None:
    """With one line, no checkpoint, and the last good step kept, if there is one."""
    trainer = Trainer(config("gdn:fwpkm@1"), TINY, tmp_path, data)
    run(trainer, 2, ALWAYS if saved else NEVER)
    before = contents(tmp_path)
    with torch.no_grad():
        trainer.model.embedding.weight.fill_(math.nan)
    with pytest.raises(UserError) as raised:
        run(trainer, None, ALWAYS)
    message = str(raised.value)
    assert "\n" not in message
    assert "not finite" in message
    assert "step 3" in message
    assert ("step-00000002" in message) == saved
    assert "no memory diverged" in message or "memory of layer 1 diverged" in message
    assert contents(tmp_path) == before


@pytest.mark.parametrize(("dropped", "ends"), [((1, 3, 5), False), ((3, 4), True)])
def test_only_steps_dropped_in_a_row_end_a_run(
    dropped: tuple[int, ...], ends: bool, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fwpkm_eval.training.trainer.DIVERGED_IN_A_ROW", 2)
    trainer = Trainer(config("gdn"), TINY, tmp_path, data)
    make_step = trainer._train_step

    def step(*batch_and_start: Any) -> StepReport:
        report = make_step(*batch_and_start)
        return replace(report, loss=math.nan) if report.step in dropped else report

    monkeypatch.setattr(trainer, "_train_step", step)
    if ends:
        with pytest.raises(Diverged, match="not finite since step 3"):
            run(trainer, None, NEVER)
    else:
        assert len(run(trainer, None, NEVER)) == TINY.steps


def test_each_step_has_the_learning_rate_of_its_place(data: str, tmp_path: Path) -> None:
    """The first that of step 0; a run that was killed goes on where it was on the curve."""
    taken: list[float] = []

    def noting(trainer: Trainer) -> Trainer:
        trainer.optimizer.register_step_pre_hook(lambda optimizer, *_: taken.append(optimizer.param_groups[0]["lr"]))
        return trainer

    run(noting(Trainer(config("gdn"), TINY, tmp_path, data)), 3, ALWAYS)
    resumed = noting(Trainer(config("gdn"), TINY, tmp_path, data))
    assert resumed.resume()
    run(resumed)
    assert taken == [learning_rate(TINY, step) for step in range(TINY.steps)]


def test_dropped_steps_are_counted_on_over_a_kill(data: str, tmp_path: Path) -> None:
    trainer = Trainer(config("gdn:fwpkm@1"), TINY, tmp_path, data)
    running = trainer.run(ALWAYS)
    next(running)
    trainer.state.fast_weights[1]["values"].fill_(math.nan)
    assert [math.isnan(next(running).loss) for _ in range(2)] == [True, False]
    resumed = Trainer(config("gdn:fwpkm@1"), TINY, tmp_path, data)
    assert resumed.resume()
    run(resumed)
    assert json.loads((tmp_path / "model.json").read_text())["training"]["diverged_steps"] == 1


def test_a_dropped_step_is_not_saved(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the newest save point is of a step that went well, and one to go back to."""
    trainer = Trainer(config("gdn"), TINY, tmp_path, data, Settings(keep=10))
    make_step = trainer._train_step

    def step(*batch_and_start: Any) -> StepReport:
        report = make_step(*batch_and_start)
        return replace(report, loss=math.nan) if report.step in (2, 3) else report

    monkeypatch.setattr(trainer, "_train_step", step)
    run(trainer, 5, ALWAYS)
    assert [path.name for path in save_points(tmp_path)] == [f"step-{step:08d}" for step in (1, 4, 5)]


@pytest.mark.parametrize("spec", ["gdn:fwpkm@1", "fa:fwmlp@1", "fa:lact@1"])
def test_a_memory_that_diverged_costs_its_step_and_no_more(spec: str, data: str, tmp_path: Path) -> None:
    """The step is dropped and counted, no weight is touched by it, and the next one starts from a fresh memory."""
    trainer = Trainer(config(spec), TINY, tmp_path, data)
    running = trainer.run(NEVER)
    next(running)
    assert not trainer.batches.batch(1).new_document
    for weight in fast_weights(trainer.state).values():
        weight.fill_(math.nan)
    before = {name: x.clone() for name, x in trainer.model.state_dict().items()}
    dropped = next(running)
    assert math.isnan(dropped.loss)
    assert dropped.diverged_memories == as_row(dropped)["diverged_memories"] == (1,)
    assert all(torch.equal(x, before[name]) for name, x in trainer.model.state_dict().items())
    assert all(math.isfinite(report.loss) for report in running)
    assert json.loads((tmp_path / "model.json").read_text())["training"]["diverged_steps"] == 1
    load_checkpoint(tmp_path)


def keys_of(trainer: Trainer) -> dict[int, torch.Tensor]:
    return {number: weights["keys"].clone() for number, weights in trainer.state.fast_weights.items()}


def test_full_attention_sees_a_window_in_the_batches_that_have_one(data: str, tmp_path: Path) -> None:
    trainer = Trainer(config("fa"), replace(TINY, pswa=0.5), tmp_path, data)
    given: list[int | None] = []
    trainer.wrapped.register_forward_pre_hook(lambda module, inputs: given.append(inputs[0].training_window))
    run(trainer)
    windowed = [trainer.batches.batch(step).windowed for step in range(TINY.steps)]
    assert set(windowed) == {True, False}
    assert given == [trainer.config.backbone.window if one else None for one in windowed]


def test_a_new_document_clears_the_values_and_keeps_the_learned_keys(data: str, tmp_path: Path) -> None:
    trainer = Trainer(config("gdn:fwpkm@0,1"), replace(TINY, document_pieces=1), tmp_path, data)
    first = trainer.model.initial_state().fast_weights
    running = trainer.run(NEVER)
    next(running)
    learned = keys_of(trainer)
    assert trainer.batches.batch(1).new_document
    given: list[ModelState] = []
    trainer.wrapped.register_forward_pre_hook(lambda module, inputs: given.append(inputs[1].copy()))
    next(running)
    for number, weights in given[0].fast_weights.items():
        assert torch.equal(weights["keys"], learned[number])
        assert not torch.equal(weights["keys"], first[number]["keys"])
        assert torch.equal(weights["values"], first[number]["values"])


@pytest.mark.parametrize("spoilt", ["gradient", "values", "keys"])
def test_a_dropped_step_leaves_the_learned_keys_as_they_were(spoilt: str, data: str, tmp_path: Path) -> None:
    """Values start anew in every layer; the first keys come back only where a layer's own are not finite.

    Values that diverge in layer 0 spoil the keys of layer 1 within the step.
    """
    recipe = replace(TINY, steps=3)
    trainer = Trainer(config("gdn:fwpkm@0,1"), recipe, tmp_path, data)
    first = trainer.model.initial_state().fast_weights
    running = trainer.run(NEVER)
    next(running)
    learned = keys_of(trainer)
    assert not any(torch.equal(keys, first[number]["keys"]) for number, keys in learned.items())
    hooked = trainer.model.final_norm.weight.register_hook(
        lambda slope: slope * math.inf if spoilt == "gradient" else slope
    )
    if spoilt != "gradient":
        trainer.state.fast_weights[0][spoilt].fill_(math.nan)
    dropped = next(running)
    hooked.remove()
    assert math.isnan(dropped.loss)
    assert dropped.diverged_memories == (() if spoilt == "gradient" else (0, 1))
    expected = {**learned, **({0: first[0]["keys"]} if spoilt == "keys" else {})}
    for number, weights in trainer.state.fast_weights.items():
        assert torch.equal(weights["keys"], expected[number])
        assert torch.equal(weights["values"], first[number]["values"])
    assert math.isfinite(next(running).loss)
    last = keys_of(trainer)
    assert not list(running)
    stored = load_checkpoint(tmp_path).initial_state().fast_weights
    for number, weights in stored.items():
        assert torch.equal(weights["keys"], last[number].half().float())
        assert not torch.equal(weights["keys"], first[number]["keys"].half().float())
        # Training cleared the values at each document, so that a checkpoint begins with cleared ones, too.
        assert torch.equal(weights["values"], first[number]["values"])
