"""What carries models beyond short sequences: YaRN, pSWA, recomputed activations, autocast, and the CUDA delta rule."""

from __future__ import annotations

import math
import sys
import types
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from model_cases import fast_weights, small_config, small_model, tokens
from niah_cases import TEXT, TOKENIZER
from tiny_models import tiny_config
from tolerances import assert_close
from torch import Tensor

from fwpkm_eval.data.questions import Question, QuestionSet
from fwpkm_eval.data.types import Document, TextSet
from fwpkm_eval.errors import UserError
from fwpkm_eval.harness.contexts import Context, ContextReader
from fwpkm_eval.harness.settings import ReadingSettings
from fwpkm_eval.reference_models import gated_delta
from fwpkm_eval.reference_models.attention import Attention
from fwpkm_eval.reference_models.config import TRAINED_LENGTHS, BackboneConfig, ModelConfig, model_config
from fwpkm_eval.reference_models.gated_delta import delta_rule_backend, fla_delta_rule, gated_delta_rule
from fwpkm_eval.reference_models.language_model import LanguageModel
from fwpkm_eval.reference_models.state_files import load_state, save_state
from fwpkm_eval.reference_models.yarn import YARN_VERSION, Yarn, yarn_for
from fwpkm_eval.runs.jobs import ModelSource, TextSource, perplexity_job
from fwpkm_eval.runs.rows import Row
from fwpkm_eval.tasks.addressing import addressing_rows, evaluate_addressing
from fwpkm_eval.tasks.continual import ContinualSettings, continual_rows, evaluate_continual
from fwpkm_eval.tasks.describe import fresh_state, yarn_arm
from fwpkm_eval.tasks.gates import evaluate_gates, gate_rows
from fwpkm_eval.tasks.longbench import LongBenchSettings, evaluate_longbench, longbench_rows
from fwpkm_eval.tasks.niah import NiahSettings, evaluate_niah
from fwpkm_eval.tasks.niah_rows import niah_rows
from fwpkm_eval.tasks.perplexity import PerplexitySettings, evaluate_perplexity, perplexity_rows
from fwpkm_eval.tasks.reading import CLOSED_BOOK, Exam, Reader, answer_without_memory, memorise_and_answer
from fwpkm_eval.tasks.trace import TraceSettings, trace_needles
from fwpkm_eval.tasks.trace_rows import trace_rows
from fwpkm_eval.training.recipe import RECIPES

pytestmark = pytest.mark.usefixtures("poisoned_memory", "one_thread")


def long_model(spec: str) -> LanguageModel:
    """A tiny model with the trained length of scale small."""
    return LanguageModel(replace(small_config(spec), scale="small"))


@pytest.mark.parametrize(
    ("length", "factor"),
    [(1, None), (4096, None), (4097, 2), (8192, 2), (8193, 4), (32768, 8), (131072, 32)],
)
def test_the_factor_is_the_next_power_of_two(length: int, factor: int | None) -> None:
    found = yarn_for(model_config("fa", "paper"), length)
    assert (found and found.factor) == factor
    assert yarn_for(model_config("gdn+swa", "paper"), length) is None, "a window meets no untrained distance"


def test_micro_has_its_own_trained_length() -> None:
    assert TRAINED_LENGTHS["micro"] == RECIPES["micro"].tokens
    assert yarn_for(model_config("fa", "micro"), 1024) is None
    assert yarn_for(model_config("gdn+fa:fwpkm", "micro"), 4096) == Yarn(4, 1024)


def test_the_trained_length_is_in_the_key_of_those_that_it_concerns() -> None:
    text = TextSource("embedded", TextSet("words", "test", (Document("a", "some words"),), "path", None, "", "hash"))
    keys = [
        perplexity_job(ModelSource(Path("x"), model_config(name), "w"), text, PerplexitySettings()).cell.settings
        for name in ("gdn+fa", "gdn+swa")
    ]
    assert [key.get("yarn") for key in keys] == [[YARN_VERSION, 1024], None]


def test_full_attention_trained_on_other_rows_than_its_scale_remembers_how_long_they_were() -> None:
    config = model_config("gdn+fa", "micro")
    assert config.trained_on(1024) == config
    assert "row_tokens" not in config.to_dict()
    short = config.trained_on(512)
    assert yarn_for(short, 4096) == Yarn(8, 512)
    assert ModelConfig.from_dict(short.to_dict()) == short
    window = model_config("gdn+swa", "micro")
    assert window.trained_on(512) == window
    with pytest.raises(UserError, match="row_tokens is 0; it must be a whole number of at least 1"):
        replace(config, row_tokens=0)


def test_yarn_keeps_fast_turns_stretches_slow_ones_and_grades_between() -> None:
    """A frequency that turns 64 times over the trained length stays, one of half a turn slows by the factor."""
    trained = 4096
    turns = torch.tensor([64.0, 32.0, 16.5, 1.0, 0.5], dtype=torch.float64)
    frequencies = turns * 2 * math.pi / trained
    yarn = Yarn(8, trained)
    expected = torch.tensor([1.0, 1.0, 0.5 + 0.5 / 8, 1 / 8, 1 / 8], dtype=torch.float64)
    assert_close("mixer.forward", yarn.frequencies(frequencies) / frequencies, expected)
    assert yarn.magnitude == pytest.approx(1 + 0.1 * math.log(8))


@torch.no_grad()
def test_yarn_turns_q_and_k_of_full_attention_alone() -> None:
    config = BackboneConfig(layers=1, hidden=24, heads=4, kv_heads=2, head_dim=16, window=5)
    yarn = Yarn(4, 8)
    full, window = Attention(config, None).double(), Attention(config, 5).double()
    x = torch.randn(1, 12, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    assert not torch.allclose(full(x, None, 0)[0], full(x, None, 0, yarn)[0])
    assert torch.equal(window(x, None, 0)[0], window(x, None, 0, yarn)[0])
    # The rotated features by hand: place 7, the first of two frequencies.
    q = torch.ones(1, 1, 1, 16, dtype=torch.float64)
    turned = full._rotate(q, 7, yarn)[0, 0, 0]
    angles = 7 * yarn.frequencies((config.rotary_theta ** -(torch.arange(2) / 2)).double())
    first = (angles.cos() - angles.sin()) * yarn.magnitude
    assert_close("mixer.forward", turned[:2], first)
    assert torch.equal(turned[4:], q[0, 0, 0, 4:])


@torch.no_grad()
def test_a_sequence_keeps_its_yarn_and_reads_the_same_in_pieces() -> None:
    model = long_model("gdn+fa:fwpkm@1")
    ids = tokens()
    start = model.initial_state(1, length=3 * 4096)
    assert start.yarn == Yarn(4, 4096)
    assert start.copy().yarn == start.fresh_sequence().yarn == start.yarn
    whole, _ = model(ids, start)
    first, state = model(ids[:, :7], start)
    second, state = model(ids[:, 7:], state)
    assert state.yarn == start.yarn
    assert_close("model.logits", torch.cat([first, second], 1), whole)
    assert not torch.allclose(whole, model(ids, model.initial_state())[0])


@torch.no_grad()
def test_a_stored_state_keeps_its_yarn(tmp_path: Path) -> None:
    model = long_model("gdn+fa:fwpkm@1")
    _, state = model(tokens(), model.initial_state(1, length=3 * 4096))
    save_state(tmp_path / "state.safetensors", model, state)
    assert load_state(tmp_path / "state.safetensors", model).yarn == Yarn(4, 4096)


def test_tasks_start_with_yarn_where_it_is_needed_and_say_so() -> None:
    long = long_model("gdn+fa")
    assert fresh_state(long, 8192).yarn == Yarn(2, 4096)
    assert fresh_state(long, 4096).yarn is None
    assert fresh_state(long, 8192) != fresh_state(long, 4096), "another rotation"
    assert (yarn_arm(long, 4096), yarn_arm(long, 8192)) == ("", "yarn")
    assert (yarn_arm(long, 4096, "frozen"), yarn_arm(long, 8192, "frozen")) == ("frozen", "frozen+yarn")
    window = long_model("gdn+swa")
    assert fresh_state(window, 1 << 20).yarn is None
    assert yarn_arm(window, 1 << 20) == ""


@torch.no_grad()
def test_a_question_alone_is_rotated_alike_with_and_without_a_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    haystack = tokens(length=100)
    exam = Exam(haystack, haystack[:, :5], haystack[:, :2])
    seen = []
    answer = Reader.answer

    def watched(self: Reader, state: Any, exam: Exam) -> Any:
        seen.append(state.yarn)
        return answer(self, state, exam)

    monkeypatch.setattr(Reader, "answer", watched)
    plain, memory = (LanguageModel(replace(small_config(spec), row_tokens=64)) for spec in ("gdn+fa", "gdn+fa:fwpkm@1"))
    answer_without_memory(Reader(plain, 32), exam, [CLOSED_BOOK])
    memorise_and_answer(Reader(memory, 32), exam, fresh_state(memory, 100), [CLOSED_BOOK], [1])
    assert seen == [Yarn(2, 64), Yarn(2, 64)]


TEXT_IN_SEGMENTS = PerplexitySettings(tokens=300, segment=256)
QUESTIONS = QuestionSet(
    "qa", "test", (), "path", None, "made for a test", "0" * 64, (Question("word " * 50, "Which?", ("word",)),)
)


def needles_asked(model: LanguageModel, scope: str) -> list[Row]:
    settings = NiahSettings(lengths=(256,), needles=(2,), samples=1, passes=(1,), scope=scope)
    result = evaluate_niah(model, TEXT, settings, TOKENIZER)
    for watch in result.divergence.values():  # as if it had: such rows say it, too
        watch.first[0] = watch.affected[0] = 1
    return niah_rows(model, TEXT, settings, result)


def traced(model: LanguageModel) -> list[Row]:
    settings = TraceSettings(length=256, needles=2, passes=1)
    return trace_rows(model, TEXT, settings, trace_needles(model, TEXT, settings, TOKENIZER))


def continued(model: LanguageModel) -> list[Row]:
    settings = ContinualSettings(adapt=256, test=64, segment=256)
    return continual_rows(model, [TEXT], settings, evaluate_continual(model, [TEXT], settings, TOKENIZER))


def asked(model: LanguageModel) -> list[Row]:
    settings = LongBenchSettings(passes=(1,))
    return longbench_rows(model, QUESTIONS, settings, evaluate_longbench(model, QUESTIONS, settings, TOKENIZER))


@pytest.mark.parametrize(
    "task",
    [
        lambda model: needles_asked(model, "sample"),
        lambda model: needles_asked(model, "stream"),
        traced,
        continued,
        asked,
        *(
            lambda model, rows=rows, measure=measure: rows(
                model, TEXT, TEXT_IN_SEGMENTS, measure(model, TEXT, TEXT_IN_SEGMENTS, TOKENIZER)
            )
            for rows, measure in (
                (perplexity_rows, evaluate_perplexity),
                (gate_rows, evaluate_gates),
                (addressing_rows, evaluate_addressing),
            )
        ),
    ],
    ids=["needles", "needles in a stream", "trace", "continual", "longbench", "perplexity", "gates", "addressing"],
)
def test_every_task_reads_with_the_yarn_of_its_length_and_says_so(task: Callable[[LanguageModel], list[Row]]) -> None:
    model = LanguageModel(replace(tiny_config("fa:fwpkm@0"), row_tokens=64))
    seen = set()
    model.register_forward_pre_hook(lambda _, arguments: seen.add(arguments[1].yarn))
    arms = {row.arm for row in task(model)}
    assert seen == {Yarn(4, 64)}
    assert arms == {"yarn"}


def test_a_users_own_model_need_not_know_of_lengths() -> None:
    start = types.SimpleNamespace(assert_fresh=lambda: None)
    own = types.SimpleNamespace(config=model_config("fa"), initial_state=lambda batch=1: start)
    assert fresh_state(own, 1 << 20) is start
    assert yarn_arm(own, 1 << 20) == ""


@torch.no_grad()
@pytest.mark.parametrize("memory", ["request", "stream"])
def test_contexts_of_other_programs_are_read_with_the_yarn_of_their_length(memory: str) -> None:
    model = LanguageModel(replace(small_config("gdn+fa:fwpkm@1"), row_tokens=64))
    reader = ContextReader(model, ReadingSettings(memory=memory))
    ids = tuple(tokens(length=70)[0].tolist())
    for length, factor in ((12, None), (70, 2), (16, None)):
        # However a sequence is cut, it is one sequence.
        for context in (Context(ids[:length], (), ids[:length]), Context(ids[:10], ids[10:length], ids[:10])):
            _, state = reader.after(context)
            assert (state.yarn and state.yarn.factor) == factor


@torch.no_grad()
def test_pswa_is_window_attention_for_a_call() -> None:
    model, windowed = small_model("gdn+fa"), small_model("gdn+swa")
    windowed.load_state_dict(model.state_dict())
    ids = tokens()
    ours, _ = model(ids, None, training_window=5)
    assert_close("model.logits", ours, windowed(ids, None)[0])
    assert not torch.allclose(ours, model(ids, None)[0])
    assert torch.equal(windowed(ids, None, training_window=3)[0], windowed(ids, None)[0]), "it has a window"


def gradients(model: LanguageModel, ids: Tensor, **options: Any) -> tuple[dict[str, Tensor], dict[Any, Tensor]]:
    logits, state = model(ids[:, :-1], None, updates="scan", inplace=True, **options)
    F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
    slopes = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    return slopes, fast_weights(state)


@pytest.mark.parametrize("spec", ["gdn+swa:pkm@2+fwpkm@0,3", "fa:fwmlp@0+lact@1"])
def test_recomputed_activations_change_no_gradient(spec: str) -> None:
    model, ids = small_model(spec), tokens()
    kept, memory = gradients(model, ids)
    computed, same_memory = gradients(model, ids, recompute=True)
    assert kept.keys() == computed.keys()
    assert all(torch.equal(computed[name], slope) for name, slope in kept.items())
    assert all(torch.equal(same_memory[name], value) for name, value in memory.items())


@pytest.mark.parametrize("spec", ["gdn+swa:pkm@2+fwpkm@0,3", "fa:fwmlp@0+lact@1"])
def test_autocast_leaves_the_memory_in_float32(spec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Activations are bfloat16; every fast weight, and what writes it, stays float32, with autocast off inside."""
    from fwpkm_eval.reference_models import lact_layer, memory_layers

    seen: list[tuple[torch.dtype, bool]] = []

    def spied(scan: Any) -> Any:
        def call(query: Tensor, *rest: Any, **options: Any) -> Any:
            seen.append((query.dtype, torch.is_autocast_enabled("cpu")))
            return scan(query, *rest, **options)

        return call

    scans = [(memory_layers, name) for name in ("fwpkm_scan", "fwmlp_scan", "pkm_read")]
    for module, name in [*scans, (lact_layer, "lact_scan")]:
        monkeypatch.setattr(module, name, spied(getattr(module, name)))
    model, ids = small_model(spec), tokens()
    exact, _ = model(ids, None, updates="scan")
    with torch.autocast("cpu", torch.bfloat16):
        rough, state = model(ids, None, updates="scan")
        rough.float().square().mean().backward()
    assert set(seen) == {(torch.float32, False)}
    assert all(value.dtype == torch.float32 for value in fast_weights(state).values())
    assert_close("model.logits", rough.float(), exact, dtype=torch.bfloat16)
    assert not torch.equal(rough, exact)
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def fake_fla(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """flash-linear-attention's function by its documentation, in float64: [B,T,H,K], g = log decay, its own scale."""
    calls: list[dict[str, Any]] = []

    def chunk_gated_delta_rule(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        g: Tensor,
        beta: Tensor,
        scale: float | None = None,
        initial_state: Tensor | None = None,
        output_final_state: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        calls.append({"dtypes": (q.dtype, k.dtype, v.dtype, g.dtype, beta.dtype), "shape": tuple(q.shape)})
        assert all(x.is_contiguous() for x in (q, k, v, g, beta))
        q = q.double() * (k.shape[-1] ** -0.5 if scale is None else scale)
        batch, length, heads, width = k.shape
        state = torch.zeros(batch, heads, width, v.shape[-1]).double()
        state = state if initial_state is None else initial_state.double()
        out = []
        for t in range(length):
            state = state * g[:, t].double().exp()[..., None, None]
            error = v[:, t].double() - torch.einsum("bhkv,bhk->bhv", state, k[:, t].double())
            state = state + torch.einsum("bhk,bhv->bhkv", k[:, t].double(), beta[:, t].double()[..., None] * error)
            out.append(torch.einsum("bhkv,bhk->bhv", state, q[:, t]))
        return torch.stack(out, 1).to(v.dtype), state.float() if output_final_state else None

    package, ops, module = (types.ModuleType(n) for n in ("fla", "fla.ops", "fla.ops.gated_delta_rule"))
    module.chunk_gated_delta_rule = chunk_gated_delta_rule  # type: ignore[attr-defined]
    for name, entry in (("fla", package), ("fla.ops", ops), ("fla.ops.gated_delta_rule", module)):
        monkeypatch.setitem(sys.modules, name, entry)
    return calls


@pytest.mark.parametrize("started", [False, True])
def test_the_cuda_form_is_called_as_its_documentation_says(started: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = fake_fla(monkeypatch)
    draw = torch.Generator().manual_seed(3)
    q, k, v = (torch.randn(2, 3, 20, 8, generator=draw) for _ in range(3))
    k = F.normalize(k, dim=-1)
    log_decay, beta = -torch.rand(2, 3, 20, generator=draw), torch.rand(2, 3, 20, generator=draw)
    start = torch.randn(2, 3, 8, 8, generator=draw) if started else None
    ours = fla_delta_rule(q, k, v, log_decay, beta, start)
    for got, expected in zip(ours, gated_delta_rule(q, k, v, log_decay, beta, start), strict=True):
        assert_close("mixer.forward", got, expected)
    low = v.bfloat16()
    fla_delta_rule(q, k, low, log_decay, beta, start)
    assert [c["shape"] for c in calls] == [(2, 20, 3, 8)] * 2
    assert calls[1]["dtypes"] == (torch.bfloat16,) * 3 + (torch.float32,) * 2


def test_the_cuda_form_runs_where_it_can_and_only_there(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, cpu = torch.device("cuda"), torch.device("cpu")
    monkeypatch.setattr(gated_delta, "fla_is_installed", lambda: True)
    monkeypatch.setattr(gated_delta, "is_miscompiled", lambda device: False)
    assert delta_rule_backend(cuda, torch.bfloat16) == "fla"
    assert delta_rule_backend(cuda, torch.float32) == "torch"
    assert delta_rule_backend(cpu, torch.bfloat16) == "torch"
    assert gated_delta.fla_trouble(cuda) is None
    monkeypatch.setattr(gated_delta, "fla_is_installed", lambda: False)
    assert delta_rule_backend(cuda, torch.bfloat16) == "torch"
    assert "is not installed" in str(gated_delta.fla_trouble(cuda))


def test_who_runs_the_slow_form_where_the_cuda_form_could_run_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gated_delta, "_is_for_fla", lambda device, dtype: True)
    monkeypatch.setattr(gated_delta, "fla_trouble", lambda device: "it is not there")
    gated_delta._warn_of.cache_clear()
    model, ids = small_model("gdn"), tokens()
    with pytest.warns(UserWarning, match="runs on its torch form, slowly: it is not there") as told:
        model(ids, model(ids, None)[1])
    gated_delta._warn_of.cache_clear()
    assert len(told) == 1


@pytest.mark.parametrize(
    ("version", "capability", "refuses"),
    [
        ("3.6.0", (9, 0), True),
        ("3.7.0", (9, 0), True),
        ("3.7.1", (9, 0), False),
        ("3.7.1+gitabc", (9, 0), False),
        ("3.3.1", (9, 0), False),
        ("3.6.0", (8, 0), False),
        ("3.10.0", (9, 0), False),
    ],
)
def test_the_cuda_form_is_left_where_its_compiler_gets_it_wrong(
    version: str, capability: tuple[int, int], refuses: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There its kernels refuse the backward: training would end at its first step."""
    monkeypatch.setattr(gated_delta, "fla_is_installed", lambda: True)
    monkeypatch.setattr("triton.__version__", version)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    gated_delta.is_miscompiled.cache_clear()
    backend = delta_rule_backend(torch.device("cuda"), torch.bfloat16)
    gated_delta.is_miscompiled.cache_clear()
    assert backend == ("torch" if refuses else "fla")


def test_a_model_by_the_cuda_form_gives_the_same_logits(monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole path through a model: the layer hands its tensors over as the form wants them, and takes them back."""
    calls = fake_fla(monkeypatch)
    model, ids = small_model("gdn+swa:fwpkm@1"), tokens()
    expected, _ = model(ids, None)
    monkeypatch.setattr(gated_delta, "delta_rule_backend", lambda device, dtype: "fla")
    ours, state = model(ids[:, :9], None)
    after, _ = model(ids[:, 9:], state)
    assert len(calls) == 6, "three layers of Gated DeltaNet, two pieces"
    assert_close("model.logits", torch.cat([ours, after], 1), expected)
