"""Training: batches that depend on the step alone, needle rows that can be answered, runs that can stop anywhere."""

from __future__ import annotations

import json
import math
import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from model_cases import SIZES, fast_weights, tokens
from tolerances import assert_close
from training_cases import TINY, write_words
from training_cases import tiny_training_config as config

from fwpkm_eval.api import SHIPPED
from fwpkm_eval.data.tokenizers import ByteTokenizer
from fwpkm_eval.errors import UserError
from fwpkm_eval.reference_models import checkpoint
from fwpkm_eval.reference_models.checkpoint import load_checkpoint
from fwpkm_eval.reference_models.config import ModelConfig, model_config
from fwpkm_eval.reference_models.language_model import LanguageModel
from fwpkm_eval.training.batches import Batch, BatchMaker
from fwpkm_eval.training.loggers import as_row
from fwpkm_eval.training.optimizer import learning_rate, make_optimizer
from fwpkm_eval.training.recipe import RECIPES, Recipe, recipe_for
from fwpkm_eval.training.savepoints import RESUME, save_points
from fwpkm_eval.training.trainer import Settings, StepReport, Trainer

pytestmark = pytest.mark.usefixtures("one_thread")

NEEDLES = replace(TINY, steps=40, tokens=640, needle_share=0.6, dense_share=0.5)
NEVER, ALWAYS = 1e9, -1.0
FIRST_KEYS = "layers.1.memory.first_keys"
CHECKPOINT = ("model.json", "model.safetensors")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_words(tmp_path_factory.mktemp("data"))


def contents(folder: Path) -> dict[str, bytes]:
    """The files below a folder, by their paths in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def maker(recipe: Recipe, data: str) -> BatchMaker:
    return BatchMaker(recipe, ByteTokenizer(), data)


def same_batch(ours: Batch, expected: Batch) -> bool:
    return (
        np.array_equal(ours.tokens, expected.tokens)
        and np.array_equal(ours.is_answer, expected.is_answer)
        and (ours.new_document, ours.chunk_size) == (expected.new_document, expected.chunk_size)
    )


def test_a_batch_depends_on_recipe_and_step_alone(data: str) -> None:
    """In any order, from another maker, in a longer run: the same; at another step or seed: another."""
    forward = [maker(NEEDLES, data).batch(step) for step in range(40)]
    again, longer = maker(NEEDLES, data), maker(replace(NEEDLES, steps=400), data)
    np.random.seed(7)  # noqa: NPY002 (the global generator is what must not matter)
    for step in reversed(range(40)):
        assert same_batch(again.batch(step), forward[step])
        assert same_batch(again.batch(step), forward[step])
        assert same_batch(longer.batch(step), forward[step])
    other = maker(replace(NEEDLES, seed=1), data)
    assert not any(same_batch(other.batch(step), forward[step]) for step in range(40))
    assert len({batch.tokens[1].tobytes() for batch in forward}) == 40
    assert {batch.chunk_size for batch in forward} == {16, 32}


def test_shapes(data: str) -> None:
    for recipe in (TINY, NEEDLES):
        for step in range(recipe.steps):
            batch = maker(recipe, data).batch(step)
            assert batch.tokens.shape == (2, recipe.tokens + 1)
            assert batch.tokens.dtype == np.int64
            assert batch.is_answer.shape == (2, recipe.tokens)
            assert batch.is_answer.dtype == bool
            assert batch.tokens.min() >= 0
            assert batch.tokens.max() <= 256


def test_the_first_row_goes_on_through_a_document(data: str) -> None:
    """Each row starts with the last token of the row before, in one document, until a new one starts."""
    made = maker(NEEDLES, data)
    texts = [document.tobytes() for document in made.documents]
    before = None
    run, runs = 0, []
    for step in range(40):
        batch = made.batch(step)
        row = batch.tokens[0]
        assert any(row.tobytes() in text for text in texts)
        assert not batch.is_answer[0].any()
        if batch.new_document:
            runs.append(run)
            run = 0
        else:
            assert before is not None
            assert row[0] == before[-1]
            assert any(np.concatenate([before, row[1:]]).tobytes() in text for text in texts)
        run += 1
        before = row
    assert runs[0] == 0, "the first batch starts a document"
    assert len(runs) > 40 / 3 - 1
    assert max(runs) == 3  # document_pieces


def test_each_question_was_answered_before_and_only_its_digits_count(data: str) -> None:
    made, tokenizer = maker(NEEDLES, data), ByteTokenizer()
    sentence = re.compile(rb"The secret number for ID-([a-z0-9]{4}) is ([0-9]{6})\.")
    rows = dense = 0
    for step in range(40):
        batch = made.batch(step)
        row = batch.tokens[1]
        text = bytes(row.tolist())
        found = list(sentence.finditer(text))
        marked = np.flatnonzero(batch.is_answer[1]) + 1  # targets are one token later than inputs
        if not found:
            assert not len(marked)
            continue
        rows += 1
        stated: dict[bytes, bytes] = {}
        digits: list[int] = []
        for match in found:
            key, value = match.groups()
            if key in stated:
                assert stated.pop(key) == value
                digits += range(match.start(2), match.end(2))
            else:
                stated[key] = value
        assert not stated, "a needle was stated and not asked for"
        assert marked.tolist() == digits
        assert tokenizer.decode(row[marked]).isdigit()
        count = len(found) // 2
        assert len({match[1] for match in found}) == count
        assert count in (4, 5, 6, 7)  # 640 tokens hold 7 dense ones
        dense += count == 7
        halves = [match.group(1) for match in found]
        assert set(halves[:count]) == set(halves[count:]), "statements come first"
    assert 15 <= rows <= 33  # needle_share 0.6 of 40
    assert 3 <= dense < rows


def test_questions_are_asked_in_another_order_than_stated(data: str) -> None:
    made = maker(replace(NEEDLES, needle_share=1.0), data)
    same_order = 0
    for step in range(20):
        keys = re.findall(rb"ID-([a-z0-9]{4})", bytes(made.batch(step).tokens[1].tolist()))
        same_order += keys[: len(keys) // 2] == keys[len(keys) // 2 :]
    assert same_order <= 2


@pytest.mark.parametrize("length", [8, 40, 96, 160, 400])
def test_rows_too_short_for_their_needles_are_refused_at_the_start(data: str, length: int) -> None:
    """Not by an accident in the middle of a run; or the rows are right for any length."""
    try:
        made = maker(Recipe(steps=30, tokens=length, sets=("words",), needle_share=1.0), data)
    except UserError:
        return
    for step in range(30):
        batch = made.batch(step)
        assert batch.tokens.shape == (2, length + 1)
        assert batch.is_answer.any()


def test_documents_too_short_for_a_row_are_refused(data: str) -> None:
    with pytest.raises(UserError, match="100000"):
        maker(replace(TINY, tokens=100_000), data)


@pytest.mark.parametrize(
    "changes",
    [
        {"steps": 0},
        {"tokens": 0},
        {"chunks": (0,)},
        {"chunks": ()},
        {"document_pieces": 0},
        {"sets": ()},
        {"learning_rate": math.nan},
    ],
    ids=str,
)
def test_recipes_that_cannot_work(changes: dict[str, Any]) -> None:
    with pytest.raises(UserError) as raised:
        replace(TINY, **changes)
    assert next(iter(changes)).rstrip("s") in str(raised.value)


WITHOUT_EXERCISES = recipe_for(model_config("gdn+swa"), exercises=False)


def test_one_recipe_for_all_models_of_a_scale() -> None:
    recipe = recipe_for(model_config("gdn+swa:fwpkm"))
    assert recipe == RECIPES["micro"]
    assert recipe.exercise_steps
    assert all(recipe_for(model_config(name)) == recipe for name in ("gdn+swa", "gdn+fa", "gdn+fa:fwpkm", "fa:pkm@1"))
    assert recipe_for(model_config("gdn+fa", "paper")) == replace(RECIPES["paper"], sets=("docs", "source"))
    with pytest.raises(UserError, match="micro"):
        recipe_for(replace(model_config("gdn"), scale="mirco"))


@pytest.mark.parametrize("folder", sorted(SHIPPED.glob("*/*")), ids=lambda f: f.name)
def test_what_is_shipped_was_trained_by_this_recipe(folder: Path) -> None:
    stored = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    assert Recipe.from_dict(stored["training"]["recipe"]) == recipe_for(ModelConfig.from_dict(stored["config"]))
    assert stored["training"]["diverged_steps"] == 0


def test_without_exercises_as_many_tokens_are_read() -> None:
    recipe = RECIPES["micro"]
    assert replace(recipe, exercise_tokens=(), exercise_steps=()) == WITHOUT_EXERCISES
    config = model_config("gdn", "paper")
    assert recipe_for(config, exercises=False) == recipe_for(config)


@pytest.mark.parametrize("recipe", [RECIPES["micro"], WITHOUT_EXERCISES], ids=["exercises", "without"])
def test_recipes_outlive_json_and_name_exercises_only_where_there_are_some(recipe: Recipe) -> None:
    stored = json.loads(json.dumps(recipe.to_dict()))
    assert Recipe.from_dict(stored) == recipe
    assert ("exercise_steps" in stored) == bool(recipe.exercise_steps)


EXERCISES = replace(NEEDLES, exercise_tokens=(128, 320), exercise_steps=(10, 20), pswa=0.8)


def test_exercises_are_short_rows_that_ask_for_what_they_stated(data: str) -> None:
    """As many tokens as any other step; half the rows are text, each of the others asks for all that it states."""
    made = maker(EXERCISES, data)
    corpus = made.text.tobytes()
    needles = set()
    for step in range(20):
        batch, size = made.batch(step), 128 if step < 10 else 320
        assert batch.tokens.shape == (EXERCISES.rows * EXERCISES.tokens // size, size + 1)
        assert batch.tokens.dtype == np.int64
        assert batch.new_document
        assert not batch.windowed
        for row, is_answer, is_document in zip(batch.tokens, batch.is_answer, batch.is_document, strict=True):
            if is_document:
                assert row.astype(made.text.dtype).tobytes() in corpus
                assert not is_answer.any()
                continue
            found = re.findall(rb"ID-([a-z0-9]{4}) is ([0-9]{6})", bytes(row.tolist()))
            assert sorted(found[: len(found) // 2]) == sorted(found[len(found) // 2 :])
            assert is_answer.sum() == 6 * len(found) // 2
            asked = b"".join(value for _, value in found[len(found) // 2 :])
            assert bytes(row[1:][is_answer].tolist()) == asked
            needles.add((size, len(found) // 2))
        assert batch.is_document.sum() * 2 == len(batch.tokens)
    assert needles == {(128, 1), (320, 3)}


def test_a_shorter_training_has_shorter_exercises() -> None:
    short = RECIPES["micro"].shortened(33)
    assert (short.steps, short.exercise_steps) == (33, (5, 13, 17))
    assert short.shortened(1).exercise_steps == (0, 0, 0)


def test_after_the_exercises_training_is_as_without_them(data: str) -> None:
    with_them, without = maker(EXERCISES, data), maker(replace(NEEDLES, pswa=0.8), data)
    for step in range(20, 40):
        assert same_batch(with_them.batch(step), without.batch(step))
        assert with_them.batch(step).windowed == without.batch(step).windowed
    assert {with_them.batch(step).windowed for step in range(20, 40)} == {True, False}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"exercise_tokens": (128,)}, "differ in number"),
        ({"exercise_tokens": (0,), "exercise_steps": (5,)}, "must divide a row of 640"),
        ({"exercise_tokens": (100,), "exercise_steps": (5,)}, "must divide a row of 640"),
        ({"exercise_tokens": (128, 320), "exercise_steps": (9, 5)}, "must not fall"),
        ({"exercise_tokens": (128,), "exercise_steps": (20,), "steps": 20}, "must leave some of the 20 steps"),
        ({"exercise_tokens": (128,), "exercise_steps": (5,), "layout": "packed"}, "layout packed has no exercises"),
        ({"exercise_tokens": (64,), "exercise_steps": (5,)}, "a needle and its question need"),
    ],
)
def test_exercises_that_cannot_be(data: str, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        maker(replace(NEEDLES, **changes), data)


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
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    assert (decayed["weight_decay"], kept["weight_decay"]) == (0.3, 0)
    assert len(decayed["params"]) + len(kept["params"]) == len(names)
    for parameter in kept["params"]:
        assert re.search(r"norm|bias|conv|a_log", names.pop(id(parameter)))
    for parameter in decayed["params"]:
        assert not re.search(r"norm|bias|conv|a_log", names.pop(id(parameter)))
    assert not names


def run(trainer: Trainer, steps: int | None = None, save_every_seconds: float = NEVER) -> list[StepReport]:
    """Trains, to the end or until it is killed after some steps."""
    reports: list[StepReport] = []
    running = trainer.run(save_every_seconds)
    for report in running:
        reports.append(report)
        if len(reports) == steps:
            break
    return reports


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


SPECS = ["gdn:pkm@0+fwpkm@1", "fa:fwmlp@0+lact@1"]


@pytest.mark.parametrize("spec", SPECS)
def test_a_killed_run_resumed_ends_as_one_never_killed(spec: str, data: str, tmp_path: Path) -> None:
    """Bit for bit, wherever it was killed, after its last step too; and it takes up where it stopped."""
    whole = run(Trainer(config(spec), TINY, tmp_path / "whole", data))
    expected = {name: (tmp_path / "whole" / name).read_bytes() for name in CHECKPOINT}
    for killed_after in (1, 4, 6):
        folder = tmp_path / f"killed{killed_after}"
        first = run(Trainer(config(spec), TINY, folder, data), killed_after, ALWAYS)
        assert not (folder / "model.json").exists()
        torch.manual_seed(killed_after)  # another process: another state of everything global
        resumed = Trainer(config(spec), TINY, folder, data)
        assert resumed.resume()
        second = run(resumed)
        assert [r.step for r in first + second] == [1, 2, 3, 4, 5, 6]
        assert [r.loss for r in first + second] == [r.loss for r in whole]
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == expected


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


def test_nothing_to_resume(data: str, tmp_path: Path) -> None:
    trainer = Trainer(config("gdn"), TINY, tmp_path / "new", data)
    assert not trainer.resume()
    assert trainer.step == 0
    assert not (tmp_path / "new").exists()


def test_another_run_is_not_resumed(data: str, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    run(Trainer(config("gdn:fwpkm@1"), TINY, folder, data), 2, ALWAYS)
    before = contents(folder / RESUME)
    for spec, changes, recipe, where, difference in (
        ("gdn:fwpkm@0", {}, TINY, data, 'config.name is "gdn:fwpkm@1" there and "gdn:fwpkm@0" here'),
        ("gdn:fwpkm@1", {"fwpkm.score": "dot"}, TINY, data, 'fwpkm.score is "idw" there and "dot" here'),
        ("gdn:fwpkm@1", {"scale": "small"}, TINY, data, 'config.scale is "micro" there and "small" here'),
        ("gdn:fwpkm@1", {}, replace(TINY, seed=1), data, "recipe.seed is 0 there and 1 here"),
        ("gdn:fwpkm@1", {}, replace(TINY, steps=7), data, "recipe.steps is 6 there and 7 here"),
        ("gdn:fwpkm@1", {}, TINY, write_words(tmp_path / "other", seed=1), "data is"),
    ):
        scale = str(changes.pop("scale", "micro"))
        other = Trainer(replace(config(spec, **changes), scale=scale), recipe, folder, where)
        weights = other.model.weights_hash
        with pytest.raises(UserError) as raised:
            other.resume()
        assert str(folder) in str(raised.value)
        assert difference in str(raised.value)
        assert "\n" not in str(raised.value)
        assert contents(folder / RESUME) == before
        assert (other.step, other.model.weights_hash) == (0, weights)


@pytest.mark.parametrize("kept", [0, 5, 1000])
@pytest.mark.parametrize("name", ["shared.safetensors", "rank-0.safetensors", "about.json"])
def test_a_damaged_save_point_is_refused(name: str, kept: int, data: str, tmp_path: Path) -> None:
    """With one line that names it, and the one to go on from without it, if there is one."""
    run(Trainer(config("gdn:fwpkm@1"), TINY, tmp_path, data), 2, ALWAYS)
    first, second = save_points(tmp_path)
    file = second / name
    file.write_bytes(file.read_bytes()[: min(kept, file.stat().st_size // 2)])
    with pytest.raises(UserError, match=f"{second.name} is damaged.*delete it to go on from {first.name}"):
        Trainer(config("gdn:fwpkm@1"), TINY, tmp_path, data).resume()
    shutil.rmtree(second)
    trainer = Trainer(config("gdn:fwpkm@1"), TINY, tmp_path, data)
    assert trainer.resume()
    assert trainer.step == 1


def test_the_last_few_save_points_are_kept(data: str, tmp_path: Path) -> None:
    for keep, left in ((1, [5]), (3, [3, 4, 5])):
        folder = tmp_path / str(keep)
        run(Trainer(config("gdn"), TINY, folder, data, Settings(keep=keep)), 5, ALWAYS)
        assert [path.name for path in save_points(folder)] == [f"step-{step:08d}" for step in left]


@pytest.mark.parametrize("fails_at", ["shared.safetensors", "rank-0.safetensors"])
def test_a_full_disk_keeps_the_last_save_point(
    fails_at: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run stops with one line; what was saved before is as it was and can be gone on from."""
    trainer = Trainer(config("gdn:fwpkm@1"), TINY, tmp_path, data)
    run(trainer, 2, ALWAYS)
    before = contents(tmp_path)
    write = checkpoint.save_file

    def full_disk(tensors: Any, path: Path, **options: Any) -> None:
        if fails_at not in Path(path).name:
            write(tensors, path, **options)
            return
        Path(path).write_bytes(b"half of")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save_file", full_disk)
        with pytest.raises(UserError, match=r"step 3 cannot be saved.*No space left.*step-00000002, saved before"):
            run(trainer, None, ALWAYS)
    assert contents(tmp_path) == before
    again = Trainer(config("gdn:fwpkm@1"), TINY, tmp_path, data)
    assert again.resume()
    run(again)
    run(Trainer(config("gdn:fwpkm@1"), TINY, tmp_path / "whole", data))
    assert (tmp_path / "model.safetensors").read_bytes() == (tmp_path / "whole" / "model.safetensors").read_bytes()


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
