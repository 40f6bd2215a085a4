"""The training engine from outside and in its parts: kills, locks, loggers, blockwise loss, packed text, presets."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tolerances import assert_close
from training_cases import TINY, tiny_training_config, write_words

from fwpkm_eval import cli
from fwpkm_eval.data import load_set
from fwpkm_eval.data.tokenizers import ByteTokenizer, IntArray
from fwpkm_eval.errors import UserError
from fwpkm_eval.reference_models import count_parameters
from fwpkm_eval.reference_models.config import DEFAULT_LAYERS, PAPER, SCALES, SMALL, model_config
from fwpkm_eval.reference_models.memory_layers import FwPKMLayer
from fwpkm_eval.training import objective
from fwpkm_eval.training.batches import BatchMaker, PackedBatchMaker, is_windowed, training_text
from fwpkm_eval.training.loggers import METRICS
from fwpkm_eval.training.objective import Objective, Part, weighted_cross_entropy
from fwpkm_eval.training.parallel import Ranks
from fwpkm_eval.training.recipe import RECIPES, Recipe, recipe_for
from fwpkm_eval.training.run import Where, train_model, train_models
from fwpkm_eval.training.savepoints import save_points
from fwpkm_eval.training.speed import training_speed
from fwpkm_eval.training.trainer import Settings, StepReport, Trainer, _parts

pytestmark = pytest.mark.usefixtures("one_thread")

PACKED = replace(TINY, layout="packed", rows=3, needle_share=0.0, answer_weight=0.0)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_words(tmp_path_factory.mktemp("data"))


KILLED = """
import sys
from pathlib import Path
import torch
torch.set_num_threads(1)
from training_cases import TINY, tiny_training_config
from dataclasses import replace
from fwpkm_eval.training.run import Where, train_model
spec, folder, data = sys.argv[1:]
train_model(tiny_training_config(spec), replace(TINY, steps=60), Path(folder), data, resume=True, quiet=True,
            where=Where(save_every=0.02))
"""


def test_a_run_killed_at_any_moment_ends_as_one_never_killed(data: str, tmp_path: Path) -> None:
    """SIGKILL in the midst of steps and saves, twice; the checkpoint's bytes and every step's metrics agree."""
    spec = "gdn:pkm@0+fwpkm@1"
    paths = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    killed = tmp_path / "killed"
    metrics = killed / METRICS
    command = [sys.executable, "-c", KILLED, spec, str(killed), data]
    for steps in (5, 30):
        process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE)
        waited = time.monotonic()
        while not (save_points(killed) and metrics.exists() and metrics.read_bytes().count(b"\n") >= steps):
            assert process.poll() is None, process.stderr and process.stderr.read().decode()
            assert time.monotonic() - waited < 60
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (killed / "model.json").exists()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    whole = tmp_path / "whole"
    train_model(tiny_training_config(spec), replace(TINY, steps=60), whole, data, resume=False, quiet=True)
    for name in ("model.safetensors", "model.json"):
        assert (killed / name).read_bytes() == (whole / name).read_bytes()
    rows = [[json.loads(line) for line in (f / METRICS).read_text().splitlines()] for f in (killed, whole)]
    assert [row["step"] for row in rows[0]] == list(range(1, 61))
    assert [{**row, "seconds": 0} for row in rows[0]] == [{**row, "seconds": 0} for row in rows[1]]
    assert sorted(path.name for path in killed.iterdir()) == ["metrics.jsonl", "model.json", "model.safetensors"]


def test_random_generators_go_on_where_they_were(data: str, tmp_path: Path) -> None:
    trainer = Trainer(tiny_training_config("gdn"), TINY, tmp_path, data)
    torch.manual_seed(5)
    trainer.save()
    expected = torch.rand(3)
    torch.manual_seed(6)
    assert Trainer(tiny_training_config("gdn"), TINY, tmp_path, data).resume()
    assert torch.equal(torch.rand(3), expected)


def train(folder: Path, data: str, recipe: Any = TINY, **more: Any) -> dict[str, float | None] | None:
    return train_model(tiny_training_config("gdn"), recipe, folder, data, more.pop("resume", False), True, **more)


def test_the_results_of_a_measuring_run_are_no_place_to_train_into(data: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{}")
    with pytest.raises(UserError, match="holds the results of a measuring run; choose another --out folder"):
        train(tmp_path, data)
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


def test_a_training_that_cannot_begin_leaves_no_folder(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs" / "one"
    monkeypatch.setitem(sys.modules, "wandb", None)  # not installed
    for where in (Where(log=("tensorbord",)), Where(log=("wandb",))):
        with pytest.raises(UserError, match=r"tensorboard|pip install wandb"):
            train(folder, data, where=where)
        assert list(tmp_path.iterdir()) == []
    with pytest.raises(UserError, match="unknown set"):
        train(folder, data, replace(TINY, sets=("elsewhere",)))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="unknown set"):
        train(tmp_path / "there", data, replace(TINY, sets=("elsewhere",)))
    assert (tmp_path / "there").is_dir()  # it was there before


def test_a_folder_without_a_train_split_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "data" / "s").mkdir(parents=True)
    (tmp_path / "data" / "s" / "test.jsonl").write_text('{"text": "some words"}\n')
    given = ["--out", str(tmp_path / "new"), "--data", str(tmp_path / "data")]
    assert cli.main(["train", "--model", "gdn", *given]) == 2
    assert f"no set in '{tmp_path / 'data'}' has a train split" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("seconds", ["nan", "-1", "0", "inf", "often"])
def test_seconds_between_save_points_are_a_number_above_0(
    seconds: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["train", "--model", "gdn", "--out", str(tmp_path / "new"), "--save-every", seconds]) == 2
    assert f"'{seconds}' is not a number of seconds above 0" in capsys.readouterr().err


def test_a_folder_is_trained_into_by_one_run_at_a_time(data: str, tmp_path: Path) -> None:
    fcntl = pytest.importorskip("fcntl")
    with (tmp_path / ".training").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(UserError, match="another process is training into"):
            train(tmp_path, data)
    assert train(tmp_path, data)
    with pytest.raises(UserError, match="finished checkpoint already"):
        train(tmp_path, data)


def described(folder: Path, model: str, data: str, **changes: Any) -> Path:
    """A folder whose model.json is that of a model of scale micro, trained on `data`. changes: of its recipe."""
    config = model_config(model)
    recipe = replace(recipe_for(config, data), **changes)
    text = training_text(recipe, ByteTokenizer(), data)
    about = {"recipe": recipe.to_dict(), "data_hash": text.data_hash}
    stored = {"format": 1, "config": config.to_dict(), "seed": recipe.seed, "training": about}
    folder.mkdir(parents=True)
    (folder / "model.json").write_text(json.dumps(stored))
    return folder


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the models that `train_models` starts to train; each ends at once, as if it had been trained."""
    names: list[str] = []

    def start(name: str, *rest: Any) -> Any:
        names.append(name)
        return subprocess.Popen([sys.executable, "-c", ""])

    monkeypatch.setattr("fwpkm_eval.training.run._start", start)
    return names


@pytest.mark.parametrize("model", ["gdn:fwpkm", "gdn+fa"])
def test_what_is_trained_is_not_trained_again(model: str, data: str, tmp_path: Path, started: list[str]) -> None:
    folders = [described(tmp_path / "there", model, data, seed=3), tmp_path / "missing"]
    train_models([model, "gdn"], "micro", folders, data, 2, True, seed=3)
    assert started == ["gdn"]


@pytest.mark.parametrize(
    ("model", "changes", "words"),
    [
        ("gdn", {"seed": 3, "steps": 3000}, "recipe.steps is 3000 there and 3300 here"),
        ("gdn", {"seed": 4}, "recipe.seed is 4 there and 3 here"),
        ("gdn+fa", {"seed": 3}, "config"),
        ("gdn", {"seed": 3, "exercise_steps": (5, 6, 7)}, r"recipe.exercise_steps is \[5, 6, 7\] there"),
    ],
    ids=["recipe", "seed", "model", "exercises"],
)
def test_a_folder_of_another_training_is_not_taken_for_this_one(
    model: str, changes: dict[str, Any], words: str, data: str, tmp_path: Path, started: list[str]
) -> None:
    """Before anything is trained: what differs, in which folder, and what to do."""
    other = described(tmp_path / "other", model, data, **changes)
    with pytest.raises(UserError, match=f"{other} holds another model: {words}.*delete it") as raised:
        train_models(["gdn:fwpkm", "gdn"], "micro", [tmp_path / "new", other], data, 2, True, seed=3)
    assert "\n" not in str(raised.value)
    assert started == []


def test_a_folder_trained_on_another_text_is_not_taken_for_this_one(
    data: str, tmp_path: Path, started: list[str]
) -> None:
    other = described(tmp_path / "other", "gdn", write_words(tmp_path / "data", seed=1))
    with pytest.raises(UserError, match="data_hash is"):
        train_models(["gdn"], "micro", [other], data, 1, True)
    assert started == []


@pytest.mark.parametrize("text", ["{}", "{", "[]"])
def test_a_broken_description_is_no_trained_model(
    text: str, data: str, tmp_path: Path, started: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "checkpoints" / "gdn"
    broken.mkdir(parents=True)
    (broken / "model.json").write_text(text)
    command = ["reproduce", "--retrain", "--models", "gdn", "--data", data, "--out", str(tmp_path), "--quiet"]
    assert cli.main(command) == 2
    error = capsys.readouterr().err
    assert f"delete {broken} to train it anew" in error
    assert error.count("\n") == 1
    assert started == []


def test_loggers_that_are_not_there_are_named_with_the_way_to_get_them(
    data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("wandb", "tensorboard", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UserError, match="pip install wandb"):
        train(tmp_path, data, where=Where(log=("wandb",)))
    with pytest.raises(UserError, match="pip install tensorboard"):
        train(tmp_path, data, where=Where(log=("tensorboard",)))
    with pytest.raises(UserError, match=r"unknown logger 'wandbb', did you mean wandb"):
        train(tmp_path, data, where=Where(log=("wandbb",)))


def test_a_logger_gets_every_step(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import types

    logged: list[tuple[int, dict[str, float]]] = []
    run = types.SimpleNamespace(log=lambda numbers, step: logged.append((step, numbers)), finish=lambda: None)
    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=lambda **_: run))
    train(tmp_path, data, where=Where(log=("wandb",)))
    assert [step for step, _ in logged] == [1, 2, 3, 4, 5, 6]
    stored = [json.loads(line) for line in (tmp_path / METRICS).read_text().splitlines()]
    assert [numbers["loss"] for _, numbers in logged] == [row["loss"] for row in stored]
    assert all(row["gradient_norm"] > 0 for row in stored)


@pytest.mark.parametrize("block", [1, 7, 100])
def test_the_blockwise_loss_is_the_loss(block: int) -> None:
    draw = torch.Generator().manual_seed(0)
    hidden, head = (torch.randn(n, 8, generator=draw, dtype=torch.float64).requires_grad_() for n in (20, 31))
    targets = torch.randint(31, (20,), generator=draw)
    weights = torch.rand(20, generator=draw, dtype=torch.float64)
    loss, nats, right = weighted_cross_entropy(hidden, head, targets, weights, torch.float64, block)
    ours = torch.autograd.grad(3 * loss, (hidden, head))
    expected = F.cross_entropy(hidden @ head.T, targets, reduction="none")
    assert_close("mixer.forward", nats, expected)
    assert torch.equal(right, (hidden @ head.T).argmax(-1) == targets)
    for got, wanted in zip(ours, torch.autograd.grad(3 * (expected * weights).sum(), (hidden, head)), strict=True):
        assert_close("mixer.forward", got, wanted)


def test_many_logits_are_never_held_at_once_and_the_gradients_are_the_same(
    data: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = BatchMaker(replace(TINY, needle_share=1.0), ByteTokenizer(), data).batch(0)
    part = Part(torch.from_numpy(made.tokens), torch.from_numpy(np.flatnonzero(made.is_answer)), 32, None, 0.5, 0.25)
    found = []
    for most in (objective.MOST_LOGITS, 1):
        monkeypatch.setattr(objective, "MOST_LOGITS", most)
        model = Trainer(tiny_training_config("gdn:fwpkm@1"), TINY, Path("nowhere"), data).model
        whole = Objective(model, answer_weight=2.0)
        loss, result, _ = whole(part, model.initial_state())
        loss.backward()
        found.append((loss, result, {n: p.grad for n, p in model.named_parameters()}))
    (loss, result, slopes), (same_loss, same_result, same_slopes) = found
    assert_close("training.loss", same_loss, loss)
    assert torch.equal(result.right, same_result.right)
    for name, slope in slopes.items():
        assert slope is not None
        assert same_slopes[name] is not None
        assert_close("model.logits", same_slopes[name], slope, name)  # type: ignore[arg-type]


@pytest.mark.parametrize("world", [1, 4, 8])
def test_a_recipe_bounds_the_rows_that_are_read_at_once(world: int) -> None:
    """128 rows of `paper` on one GPU, on the paper's four, which read 32 each at once, and on more."""
    ranks = Ranks(torch.device("cpu"), world=world)
    assert _parts(RECIPES["paper"], Settings(), ranks) == max(1, 4 // world)
    assert _parts(replace(RECIPES["paper"], rows=72), Settings(), Ranks(torch.device("cpu"))) == 3, "24 at once"
    assert _parts(RECIPES["paper"], Settings(rows_at_once=2), ranks) == 64 // world
    assert RECIPES["paper"].recompute
    for scale, recipe in RECIPES.items():
        held = {"rows_at_once", "recompute"} & set(recipe.to_dict())
        assert held == ({"rows_at_once", "recompute"} if scale == "paper" else set()), "keys of old cells stay"
        assert Recipe.from_dict(recipe.to_dict()) == recipe


def test_a_recipe_that_recomputes_trains_the_same_weights(data: str, tmp_path: Path) -> None:
    plain = Trainer(tiny_training_config("gdn+swa:fwpkm@1"), TINY, tmp_path, data)
    again = Trainer(tiny_training_config("gdn+swa:fwpkm@1"), replace(TINY, recompute=True), tmp_path, data)
    assert [t.wrapped.recompute for t in (plain, again)] == [False, True]
    assert next(plain.run(1e9)).loss == next(again.run(1e9)).loss


def test_a_step_leaves_nothing_of_its_graph_behind(data: str, tmp_path: Path) -> None:
    trainer = Trainer(tiny_training_config("gdn+swa:fwpkm@1"), TINY, tmp_path, data)
    next(trainer.run(1e9))
    assert trainer.state.mixers == [None] * len(trainer.state.mixers)
    tensors = [tensor for held in trainer.state.fast_weights.values() for tensor in held.values()]
    assert tensors
    assert not any(tensor.requires_grad for tensor in tensors)
    assert all(held.past is None for held in trainer.state.memories.values())


def test_save_points_that_take_long_come_seldom(data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trainer = Trainer(tiny_training_config("gdn"), replace(TINY, steps=100), tmp_path, data)
    clock = [0.0]
    monkeypatch.setattr("fwpkm_eval.training.trainer.time.monotonic", lambda: clock[0])
    monkeypatch.setattr(trainer, "finish", lambda: None)
    saved: list[float] = []

    def step(batch: object, started: float) -> StepReport:
        clock[0] += 1.0
        return StepReport(trainer.step + 1, 1.0, 1.0, 1.0, 1.0, 1, clock[0])

    def save() -> None:
        saved.append(clock[0])
        clock[0] += 1.5

    monkeypatch.setattr(trainer, "_train_step", step)
    monkeypatch.setattr(trainer, "save", save)
    list(trainer.run(save_every_seconds=5.0))
    assert saved[0] == 6.0
    pauses = [after - before for before, after in pairwise(saved)]
    assert pauses
    assert min(pauses) > 20 * 1.5


@pytest.mark.parametrize("at_once", [1, 2])
def test_rows_in_parts_have_the_gradients_of_all_at_once(at_once: int, data: str, tmp_path: Path) -> None:
    recipe = replace(TINY, rows=4, needle_share=1.0)
    settings = (Settings(), Settings(rows_at_once=at_once))
    whole, parts = (Trainer(tiny_training_config("gdn:pkm@1"), recipe, tmp_path, data, each) for each in settings)
    expected, report = next(whole.run(1e9)), next(parts.run(1e9))
    assert report.loss == pytest.approx(expected.loss, rel=1e-6)
    assert report.answer_accuracy == pytest.approx(expected.answer_accuracy)
    for (name, slope), same in zip(whole.model.named_parameters(), parts.model.parameters(), strict=True):
        assert slope.grad is not None
        assert same.grad is not None
        assert_close("model.logits", same.grad, slope.grad, name)


def test_rows_that_cannot_be_shared_are_refused(data: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="4 rows cannot be read 3 at once"):
        Trainer(tiny_training_config("gdn"), replace(TINY, rows=4), tmp_path, data, Settings(rows_at_once=3))
    with pytest.raises(UserError, match="rows is 3; it must be even"):
        replace(TINY, rows=3)


def test_packed_rows_read_on_through_the_text_and_cover_it(data: str) -> None:
    """Documents end to end with an end token after each, in pieces of tokens + 1; each row in its own part."""
    made, tokenizer = PackedBatchMaker(PACKED, ByteTokenizer(), data), ByteTokenizer()
    documents = load_set(data, "words", "train").documents
    whole = np.concatenate([np.append(tokenizer.encode(d.text), tokenizer.eos) for d in documents])
    pieces = len(whole) // 97
    seen: dict[bytes, int] = {}
    for step in range(pieces // 3 + 1):
        batch = made.batch(step)
        assert batch.tokens.shape == (3, 97)
        assert not batch.is_answer.any()
        assert not batch.new_document
        for number, row in enumerate(batch.tokens):
            place = (number * pieces // 3 + step) % pieces
            assert np.array_equal(row, whole[place * 97 : (place + 1) * 97])
            seen[row.tobytes()] = step
    assert len(seen) == pieces


def test_windowed_steps_are_as_many_as_the_recipe_says() -> None:
    share = np.mean([is_windowed(replace(TINY, pswa=0.9), step) for step in range(1000)])
    assert 0.87 < share < 0.93
    assert not any(is_windowed(TINY, step) for step in range(100))
    seeds = [replace(TINY, pswa=0.5, seed=seed) for seed in range(3)]
    assert len({tuple(is_windowed(recipe, step) for step in range(40)) for recipe in seeds}) == 3


class WordTokenizer:
    """Tokens of one to three characters: pieces of a sentence differ in number, as in a real vocabulary."""

    name, vocab_size, eos = "words", 5000, 4999
    fingerprint: str | None = None

    def encode(self, text: str) -> IntArray:
        ids, place = [], 0
        while place < len(text):
            size = 1 if text[place].isdigit() else 1 + ord(text[place]) % 3
            ids.append(hash(text[place : place + size]) % 4990)
            place += size
        return np.array(ids, dtype=np.int64)

    def decode(self, ids: Any) -> str:
        raise NotImplementedError

    def byte_counts(self, ids: Any) -> Any:
        raise NotImplementedError


def test_needle_rows_of_any_tokenizer_are_full_and_marked(data: str) -> None:
    """Sentences of different lengths in tokens: rows have their length, and the marked targets are single digits."""
    tokenizer = WordTokenizer()
    recipe = replace(TINY, steps=20, rows=6, tokens=640, needle_share=1.0, dense_share=0.5)
    digits = {int(tokenizer.encode(digit)[0]) for digit in "0123456789"}
    for step in range(20):
        batch = BatchMaker(recipe, tokenizer, data).batch(step)
        assert batch.tokens.shape == (6, 641)
        assert batch.is_answer.any(axis=1).tolist() == [False] * 3 + [True] * 3
        assert set(batch.tokens[:, 1:][batch.is_answer].tolist()) <= digits
        assert (batch.is_answer.sum(1) % 6 == 0).all()


PAPER_MODELS = [
    backbone + memory
    for backbone in ("gdn", "gdn+swa", "gdn+fa", "fa")
    for memory in ("", ":pkm@2,6,10", ":fwpkm@2,6,10", ":pkm@6+fwpkm@2,10", ":fwmlp@2,6,10", ":lact@2,6,10")
]


@pytest.mark.parametrize("spec", PAPER_MODELS)
def test_every_model_of_the_paper_can_be_built(spec: str) -> None:
    """16 main models, FwMLP and LaCT on each backbone, at scale paper (on the meta device) and small."""
    total, active = count_parameters(model_config(spec, "paper"))
    backbone, _, memory = spec.partition(":")
    alone = count_parameters(model_config(backbone, "paper"))[0]
    values = 512**2 * 512
    added = {"": 0, "pkm": 3 * values, "fwpkm": 3 * values, "fwmlp": 14e6, "lact": 14e6}
    expected = alone + (3 * values if "+" in memory else added[memory.partition("@")[0]])
    assert total == pytest.approx(expected, rel=0.03)
    assert active < 1.15 * alone
    kinds = "+".join(part.partition("@")[0] for part in memory.split("+"))
    by_default = model_config(f"{backbone}:{kinds}" if kinds else backbone, "paper").name
    assert by_default == model_config(spec, "paper").name
    small = count_parameters(model_config(f"{backbone}:{kinds}" if kinds else backbone, "small"))
    assert small[1] < 60e6


def test_every_scale_has_a_recipe_and_layers(data: str) -> None:
    assert set(SCALES) == set(RECIPES) == set(DEFAULT_LAYERS)
    paper = recipe_for(PAPER, "hub")
    assert paper.steps * paper.rows * (paper.tokens + 1) == pytest.approx(10e9, rel=0.06)
    assert (paper.rows, paper.tokens, paper.steps, paper.warmup) == (128, 4096, 20_000, 100)
    assert (paper.learning_rate, paper.final_rate, paper.weight_decay) == (1e-3, 0.1, 0.1)
    assert set(recipe_for(PAPER).sets) == {"source", "docs"}
    assert recipe_for(SMALL).sets == ("source", "docs")
    assert recipe_for(PAPER, data).sets == ("words",)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--parallel", "dpp"], "unknown kind of parallelism 'dpp', did you mean ddp"),
        (["--parallel", "fsdp"], "start it with torchrun"),
        (["--device", "cuda:99"], "device 'cuda:99'"),
        (["--rows", "3"], "rows is 3; it must be even"),
        (["--rows-at-once", "5"], "2 rows cannot be read 5 at once"),
        (["--scale", "smal"], "did you mean small"),
    ],
)
def test_train_explains_what_is_wrong(
    arguments: list[str], words: str, tmp_path: Path, data: str, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert cli.main(["train", "--model", "gdn", "--out", str(out), "--data", data, "--quiet", *arguments]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert error.count("\n") == 1


def test_training_speed_is_of_one_computation_done_in_two_ways(data: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a size where the dense way is slower by far; and where the two disagree, no speed is reported.

    768² rows of 16 are 36 MiB, more than malloc ever keeps: smaller copies cost nothing once, and much another time.
    """
    config = tiny_training_config("gdn:fwpkm@1", **{"fwpkm.subkeys": 768, "fwpkm.value_dim": 16})
    recipe = replace(TINY, steps=3, chunks=(8,))
    found = training_speed(config, recipe, 1, data)
    assert sum(found.dense) / sum(found.sparse) > 3
    assert found.first_difference <= 1e-5
    monkeypatch.setattr(FwPKMLayer, "read_gate", lambda layer, gate: gate * (layer.backend != "auto"))
    with pytest.raises(UserError, match="the two ways differ"):
        training_speed(tiny_training_config("gdn:fwpkm@1"), recipe, 2, data)
    with pytest.raises(UserError, match="has no fwpkm"):
        training_speed(tiny_training_config("gdn:pkm@1"), recipe, 2, data)


def test_what_a_training_says_when_it_is_done(data: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Speed and memory always; answers only where some were asked for."""
    done = train(tmp_path / "needles", data)
    assert done is not None
    assert (done["tokens_per_second"] or 0) > 0
    assert (done["peak_memory_bytes"] or 0) > 2**26
    assert done["answer_accuracy"] is not None
    assert 0 <= done["answer_accuracy"] <= 1
    texts = replace(TINY, layout="packed", steps=2)
    assert train_model(tiny_training_config("gdn"), texts, tmp_path / "texts", data, False, False) is not None
    assert "answers" not in capsys.readouterr().err
    steps = [json.loads(line) for line in (tmp_path / "texts" / "metrics.jsonl").read_text().splitlines()]
    assert len(steps) == 2
