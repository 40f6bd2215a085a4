"""Every backbone with every memory: streams may be cut anywhere, and all that goes on is the state."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from model_cases import (
    BACKBONES,
    SPECS,
    WITH_FAST_WEIGHTS,
    everything,
    fast_weights,
    same,
    small_config,
    small_model,
    tokens,
)
from tolerances import assert_close
from torch import Tensor

from fwpkm_eval.errors import UserError
from fwpkm_eval.reference_models import count_parameters
from fwpkm_eval.reference_models.attention import Attention
from fwpkm_eval.reference_models.config import model_config
from fwpkm_eval.reference_models.gated_delta import GatedDeltaNet
from fwpkm_eval.reference_models.lact_layer import LaCTLayer
from fwpkm_eval.reference_models.language_model import LanguageModel, SwiGLU, values_seed
from fwpkm_eval.reference_models.memory_layers import FwMLPLayer, FwPKMLayer, PKMLayer
from fwpkm_eval.reference_models.notation import FAST_WEIGHTS
from fwpkm_eval.reference_models.state import ModelState

pytestmark = pytest.mark.usefixtures("one_thread", "no_gradients")

every_model = pytest.mark.parametrize("spec", SPECS)
every_memory = pytest.mark.parametrize("spec", WITH_FAST_WEIGHTS)


def read(model: LanguageModel, ids: Tensor, cuts: list[int] | None = None, **options: Any) -> tuple[Tensor, ModelState]:
    """The logits of a stream cut before the tokens in `cuts`, and the state after it."""
    state = model.initial_state(ids.shape[0])
    outputs = []
    for start, stop in pairwise(sorted({0, *(cuts or []), ids.shape[1]})):
        logits, state = model(ids[:, start:stop], state, **options)
        outputs.append(logits)
    return torch.cat(outputs, 1), state


def check_cuts(spec: str, cuts: list[list[int]], **options: Any) -> None:
    model, ids = small_model(spec), tokens(batch=2)
    near = "model.lact" if "lact" in spec else "model.logits"
    expected, state = read(model, ids, **options)
    assert expected.shape == (2, 20, 31)
    assert expected.dtype == torch.float32
    flushed = everything(model.flush(state))
    whole = everything(state)
    for places in cuts:
        logits, after = read(model, ids, places, **options)
        assert_close(near, logits, expected, f"cut before {places}")
        for ours, theirs in ((everything(after), whole), (everything(model.flush(after)), flushed)):
            assert ours.keys() == theirs.keys()
            for name, x in ours.items():
                assert_close(near, x.float(), theirs[name].float(), name)


@every_model
def test_cutting_a_stream_anywhere_changes_nothing(spec: str) -> None:
    """Chunks end at tokens 5, 10, 15 and are written one token later; the window is five tokens."""
    check_cuts(spec, [[1], [5, 6, 11], [4, 17], list(range(20))])


@pytest.mark.parametrize("write_chunk", [3, 50, "haystack"])
@every_memory
def test_cutting_a_stream_changes_nothing_at_other_write_chunks(spec: str, write_chunk: Any) -> None:
    check_cuts(spec, [[2, 4, 13]], write_chunk=write_chunk)


@every_model
def test_a_state_given_is_not_changed(spec: str) -> None:
    model, ids = small_model(spec), tokens(batch=2)
    _, state = model(ids[:, :12], None)
    before = everything(state)
    for options in (
        {},
        {"updates": "off"},
        {"updates": "scan"},
        {"write_chunk": 2},
        {"write_chunk": "haystack"},
    ):
        _, after = model(ids[:, 12:], state, **options)
        assert same(everything(state), before), options
        model.flush(after)
        model.flush(state)
        assert same(everything(state), before), options


@every_memory
def test_inplace_writes_into_the_fast_weights_and_gives_the_same(spec: str) -> None:
    model, ids = small_model(spec), tokens()
    expected, kept = model(ids, model.initial_state())
    state = model.initial_state()
    places = {name: x.data_ptr() for name, x in fast_weights(state).items()}
    first = {name: x.clone() for name, x in fast_weights(state).items()}
    logits, after = model(ids, state, inplace=True)
    assert torch.equal(logits, expected)
    assert same(everything(model.flush(after, inplace=True)), everything(model.flush(kept)))
    if "fwpkm" in spec:  # the dense memories replace their weights: they are small
        assert {name: x.data_ptr() for name, x in fast_weights(after).items()} == places
    assert all(not torch.equal(x, first[name]) for name, x in fast_weights(after).items())


def test_updates_off_shares_the_fast_weights_of_the_given_state() -> None:
    """As documented: so reading spares a copy of the memory, and an inplace call needs one where both are wanted."""
    model, ids = small_model("gdn:fwpkm@1"), tokens()
    state = model.initial_state()
    _, after = model(ids, state, updates="off")
    assert all(x is fast_weights(state)[name] for name, x in fast_weights(after).items())
    before = {name: x.clone() for name, x in fast_weights(state).items()}
    model(ids, after.copy(), inplace=True)
    assert same(fast_weights(state), before)
    model(ids, after, inplace=True)
    assert not same(fast_weights(state), before)


@pytest.mark.parametrize("spec", ["gdn", "gdn:fwpkm@1", "gdn:fwpkm@0", "gdn:fwmlp@1", "gdn:lact@1"])
@pytest.mark.parametrize("other", ["gdn", "gdn:fwpkm@1", "gdn:fwmlp@1", "gdn:lact@1", "gdn+swa:fwpkm@1"])
def test_a_state_of_another_model_is_refused(spec: str, other: str) -> None:
    if spec != other:
        with pytest.raises(UserError, match=f"not one of a {spec}: .*layer"):
            small_model(spec)(tokens(), small_model(other).initial_state())


@pytest.mark.parametrize("spec", ["gdn", "gdn+swa", "gdn+fa", "fa"])
@pytest.mark.parametrize("other", ["gdn", "gdn+swa", "gdn+fa", "fa"])
def test_a_state_of_another_backbone_is_refused(spec: str, other: str) -> None:
    """A full cache and a window's differ only once there are more tokens than the window holds."""
    ids, layers = tokens(), {"backbone.layers": 4}
    _, state = small_model(other, **layers)(ids)
    model = small_model(spec, **layers)
    if spec == other:
        model.check_state(state)
        return
    with pytest.raises(UserError, match=f"not one of a {re.escape(spec)} after {ids.shape[1]} tokens: layer"):
        model(ids, state)


def test_a_state_with_a_memory_of_another_size_is_refused() -> None:
    for spec, size in (("gdn:fwpkm@1", "fwpkm.subkeys"), ("gdn:fwmlp@1", "fwmlp.hidden")):
        with pytest.raises(UserError, match="layer 1 has another memory"):
            small_model(spec)(tokens(), small_model(spec, **{size: 16}).initial_state())


@every_memory
def test_updates_off_only_reads(spec: str) -> None:
    """Fast weights stay bit-identical, nothing is queued, and the reads see what was written before."""
    model, ids = small_model(spec), tokens()
    _, written = model(ids, None)
    written = model.flush(written).fresh_sequence()
    before = {name: x.clone() for name, x in fast_weights(written).items()}
    logits, after = model(ids, written, updates="off")
    assert same(fast_weights(after), before)
    assert same(fast_weights(model.flush(after)), before)
    assert after.queued_tokens == 0
    assert after.position == 20
    unwritten, _ = model(ids, model.initial_state(), updates="off")
    assert not torch.allclose(logits, unwritten, atol=1e-3)


@every_memory
def test_a_stream_that_goes_on_behind_what_was_only_read_is_two_streams(spec: str) -> None:
    """But for what attention and recurrence saw, which go on."""
    model, ids = small_model(spec), tokens(length=20)
    _, before = model(ids[:, :8], write_chunk="haystack")
    _, between = model(ids[:, 8:12], before, updates="off", write_chunk="haystack")
    _, after = model(ids[:, 12:], between, write_chunk="haystack")
    assert all(held.memory.writes == 1 for held in after.memories.values())
    assert same(fast_weights(after), fast_weights(model.flush(before)))


@every_memory
def test_a_flush_within_autocast_writes_in_full_precision(spec: str) -> None:
    model = small_model(spec)
    _, state = model(tokens(length=20), write_chunk="haystack")
    expected = fast_weights(model.flush(state))
    with torch.autocast("cpu", torch.bfloat16):
        found = fast_weights(model.flush(state))
    assert same(found, expected)


@every_model
def test_a_later_token_changes_no_earlier_logit(spec: str) -> None:
    model, ids = small_model(spec), tokens()
    for options in ({}, {"updates": "off"}, {"updates": "scan"}):
        expected, _ = model(ids, None, **options)
        for place in (1, 5, 6, 12):
            other = ids.clone()
            other[0, place] = (other[0, place] + 1) % 31
            logits, _ = model(other, None, **options)
            assert torch.equal(logits[:, :place], expected[:, :place]), (options, place)
            assert not torch.equal(logits[:, place], expected[:, place])


@every_model
def test_rows_of_a_batch_share_the_memory_and_nothing_else(spec: str) -> None:
    model, ids = small_model(spec), tokens(batch=3)
    together, _ = model(ids, None, updates="off")
    for row in range(3):
        alone, _ = model(ids[row : row + 1], None, updates="off")
        assert_close("model.logits", together[row : row + 1], alone, f"row {row}, nothing written")
    streamed, _ = model(ids, None)
    alone, _ = model(ids[:1], None)
    first = 5 + 1  # the first write comes after the sixth token (chunk 5, lookahead 1)
    assert_close("model.logits", streamed[:1, :first], alone[:, :first])
    if model.has_fast_weights:
        assert not torch.allclose(streamed[:1, first:], alone[:, first:], atol=1e-4)
    else:
        assert_close("model.logits", streamed[:1], alone)


@every_memory
def test_two_models_share_no_state(spec: str) -> None:
    """Reading with one of a kind, in place, is nothing to the other, nor to another state of the same."""
    one, two, ids = small_model(spec), small_model(spec), tokens()
    expected, _ = one(ids, one.initial_state())
    state = one.initial_state()
    for _ in range(3):
        _, state = one(ids, state, inplace=True)
    assert torch.equal(two(ids, None)[0], expected)
    assert torch.equal(one(ids, None)[0], expected)
    assert torch.equal(one(ids, one.initial_state())[0], expected)


@every_memory
def test_copied_states_are_independent(spec: str) -> None:
    model, ids = small_model(spec), tokens()
    _, state = model(ids[:, :12], None)
    copy = state.copy()
    before = everything(state)
    assert same(everything(copy), before)
    for weights in state.copy().fast_weights.values():
        for x in weights.values():
            x.zero_()
    assert same(everything(state), before)
    logits, after = model(ids[:, 12:], copy, inplace=True)
    model.flush(after, inplace=True)
    assert same(everything(state), before)
    assert torch.equal(model(ids[:, 12:], state)[0], logits)


@every_model
def test_states_are_equal_where_a_model_goes_on_alike(spec: str) -> None:
    model, ids = small_model(spec), tokens()
    _, state = model(ids[:, :11], None)
    _, further = model(ids[:, 11:12], state)
    assert state == state.copy()
    assert state != further
    assert state != model.initial_state()
    assert model.initial_state() == model.initial_state()
    assert state != 11
    if model.has_fast_weights:
        assert model.flush(state) != state
        assert model.flush(state) == model.flush(state.copy())
        changed = state.copy()
        [weights, *_] = changed.fast_weights.values()
        next(iter(weights.values())).view(-1)[-1] += 1
        assert changed != state
        for number, held in state.memories.items():
            if held.past is not None:  # of the query convolution
                other = state.copy()
                other.memories[number].past = held.past + 1
                assert other != state


@every_model
def test_a_state_of_other_rows_is_refused(spec: str) -> None:
    model = small_model(spec)
    _, state = model(tokens(batch=2), None)
    with pytest.raises(UserError, match="this state is of 2 rows and tokens have 1"):
        model(tokens(batch=1), state)
    model(tokens(batch=1), model.flush(state).fresh_sequence())


@every_model
def test_a_fresh_sequence_keeps_the_fast_weights_alone(spec: str) -> None:
    model, ids = small_model(spec), tokens()
    _, state = model(ids, None)
    state = model.flush(state)
    fresh = state.fresh_sequence()
    assert fresh.position == 0
    assert fresh.queued_tokens == 0
    assert same(fast_weights(fresh), fast_weights(state))
    assert same(everything(fresh), {n: x for n, x in everything(fresh).items() if n[:4] in ("posi", "fast")})
    logits, _ = model(ids, fresh, updates="off")
    if not model.has_fast_weights:
        assert torch.equal(logits, model(ids, None)[0])


@every_model
def test_modules_keep_no_hidden_state(spec: str) -> None:
    """Whatever is read, parameters, buffers, attributes and the global generator stay as they were."""
    model, ids = small_model(spec), tokens(batch=2)
    random = torch.get_rng_state()
    weights = {name: x.clone() for name, x in model.state_dict().items()}
    attributes = {name: vars(module).copy() for name, module in model.named_modules()}
    for options in ({}, {"updates": "off"}, {"updates": "scan"}, {"inplace": True}):
        _, state = model(ids, model.initial_state(), **options)
        model.flush(state, inplace=True)
    assert same(dict(model.state_dict()), weights)
    assert {name: vars(module) for name, module in model.named_modules()} == attributes
    assert torch.equal(torch.get_rng_state(), random)


def test_building_a_model_leaves_the_global_generator_alone() -> None:
    """Weights come from the model's own seed; whoever draws after it was built draws the same."""
    random = torch.get_rng_state()
    small_model("gdn+swa:pkm@2+fwpkm@0,3")
    assert torch.equal(torch.get_rng_state(), random)


@every_model
def test_logits_of_the_last_token_or_none(spec: str) -> None:
    model, ids = small_model(spec), tokens(batch=2)
    every, state = model(ids, None)
    last, after_last = model(ids, None, logits="last")
    none, after_none = model(ids, None, logits="none")
    assert none is None
    assert_close("model.logits", last, every[:, -1:])
    assert same(everything(after_last), everything(state))
    assert same(everything(after_none), everything(state))


@every_memory
def test_without_lookahead_scan_and_stream_are_the_same(spec: str) -> None:
    """The training form and the streaming form, where their chunks fall on the same tokens."""
    model = small_model(spec, **{f"{kind}.lookahead": 0 for kind in FAST_WEIGHTS})
    ids = tokens(batch=2, length=18)
    scanned, after_scan = model(ids, None, updates="scan")
    streamed, after_stream = read(model, ids, [8])
    assert_close("model.logits", streamed, scanned)
    flushed = fast_weights(model.flush(after_stream))
    for name, x in fast_weights(after_scan).items():
        assert_close("model.logits", flushed[name], x, name)


@every_model
def test_training_reaches_every_weight(spec: str) -> None:
    model, ids = small_model(spec), tokens(batch=2)
    with torch.enable_grad():
        logits, _ = model(ids[:, :-1], None, updates="scan", inplace=True)
        F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


@pytest.mark.parametrize("spec", WITH_FAST_WEIGHTS)
def test_a_scan_counts_its_writes(spec: str) -> None:
    _, state = small_model(spec)(tokens()[:, :12], None, updates="scan", write_chunk=5)
    assert {held.memory.writes for held in state.memories.values()} == {3}, "of 5, 5 and 2 tokens"


def test_layers_hold_what_the_name_says() -> None:
    gdn, swa, fa = "gdn", "swa", "fa"
    kinds = {
        "gdn": [gdn] * 12,
        "gdn+swa": [gdn, gdn, gdn, swa] * 3,
        "gdn+fa": [gdn, gdn, gdn, fa] * 3,
        "fa": [fa] * 12,
    }
    for backbone, expected in kinds.items():
        assert list(model_config(backbone, "paper").layer_kinds) == expected
    for backbone in BACKBONES:
        model = small_model(f"{backbone}:pkm@2+fwpkm@0,3", **{"backbone.layers": 4})
        for number, (layer, kind) in enumerate(zip(model.blocks, model.config.layer_kinds, strict=True)):
            assert isinstance(layer.mixer, GatedDeltaNet if kind == gdn else Attention)
            if isinstance(layer.mixer, Attention):
                assert layer.mixer.window == (5 if kind == swa else None)
            assert isinstance(layer.memory, FwPKMLayer) == (number in (0, 3))
            assert isinstance(layer.mlp, PKMLayer if number == 2 else SwiGLU)
    assert isinstance(small_model("fa:fwmlp@1").layers[1].memory, FwMLPLayer)
    assert isinstance(small_model("fa:lact@1").layers[1].memory, LaCTLayer)
    for memory, fast in (("", False), (":pkm@1", False), (":fwpkm@1", True), (":fwmlp@1", True), (":lact@1", True)):
        model = small_model(f"fa{memory}")
        assert model.has_fast_weights == model.config.spec.has_fast_weights == fast


def test_a_query_convolution_for_all_layers_or_one_for_each() -> None:
    def taps(spec: str, **changes: Any) -> list[int | None]:
        layers = [layer.memory for layer in small_model(spec, **changes).blocks if layer.memory is not None]
        return [memory.conv.taps if memory.conv else None for memory in layers]

    assert taps("gdn+swa:fwpkm@0,3") == [4, 4]
    assert taps("gdn+swa:fwpkm@0,3", **{"fwpkm.query_conv": 0}) == [None, None]
    for given in ((3, 0), [3, 0]):
        assert taps("gdn+swa:pkm@2+fwpkm@0,3", **{"fwpkm.query_conv": given}) == [3, None]
    for kind in ("fwmlp", "lact"):
        assert taps(f"gdn+swa:{kind}@0,3", **{f"{kind}.query_conv": (0, 2)}) == [None, 2]


def test_at_micro_and_small_only_the_first_memory_layer_has_a_query_convolution() -> None:
    """What it is in a model without the memory is in every name of the model, too: it stays what it was."""
    for scale, taps in (("micro", 16), ("small", 8)):
        for kind in ("fwpkm", "fwmlp", "lact"):
            layers = {"": taps, f":{kind}@2": taps, f":{kind}": (taps, 0), f":{kind}@0,1,3": (taps, 0, 0)}
            for memory, expected in layers.items():
                assert getattr(model_config(f"gdn+swa{memory}", scale), kind).query_conv == expected
            given = model_config(f"gdn+swa:{kind}", scale, **{f"{kind}.query_conv": 3})
            assert getattr(given, kind).query_conv == 3
    assert model_config("gdn:fwpkm", "paper").fwpkm.query_conv == 0


@pytest.mark.parametrize(
    ("taps", "message"),
    [
        (-1, "fwpkm.query_conv is -1; it must be a whole number of at least 0, or one for each layer"),
        (True, "fwpkm.query_conv is True; it must be a whole number"),
        ([16, -1], "fwpkm.query_conv is [16, -1]; it must be a whole number"),
        ([], "fwpkm.query_conv is []; it must be a whole number"),
        ("16,0", "fwpkm.query_conv is '16,0'; it must be a whole number"),
        ([16], "fwpkm.query_conv is [16]; gdn+swa:fwpkm@1,3 has 2 layers with fwpkm: give one number for each"),
        ([16, 0, 4], "fwpkm.query_conv is [16, 0, 4]; gdn+swa:fwpkm@1,3 has 2 layers with fwpkm"),
    ],
)
def test_query_convolutions_that_do_not_fit(taps: Any, message: str) -> None:
    with pytest.raises(UserError, match=re.escape(message)):
        model_config("gdn+swa:fwpkm@1,3", **{"fwpkm.query_conv": taps})


@pytest.mark.parametrize(
    ("spec", "total", "active"),
    [("gdn", 112e6, 112e6), ("gdn:fwpkm@2,6,10", 519e6, 116e6), ("gdn:fwpkm", 519e6, 116e6)],
)
def test_parameters_at_paper_scale(spec: str, total: float, active: float) -> None:
    """Published: 112 M; 519 M in all and 116 M active with three FwPKM layers (arXiv 2601.00671)."""
    ours = count_parameters(model_config(spec, "paper"))
    assert ours[0] == pytest.approx(total, rel=0.01)
    assert ours[1] == pytest.approx(active, rel=0.01)


@every_model
def test_parameters_are_counted_as_they_are_there(spec: str) -> None:
    model = small_model(spec)
    slow = sum(p.numel() for p in model.parameters())
    fast = sum(x.numel() for x in fast_weights(model.initial_state()).values())
    assert count_parameters(small_config(spec))[0] == slow + fast


@every_model
def test_weights_are_a_function_of_the_seed(spec: str) -> None:
    """Whatever the global generator was at; another seed gives other slow and fast weights."""
    torch.manual_seed(1)
    one = LanguageModel(small_config(spec), seed=5)
    torch.manual_seed(2)
    two, other = LanguageModel(small_config(spec), seed=5), LanguageModel(small_config(spec), seed=6)
    assert one.weights_hash == two.weights_hash != other.weights_hash
    assert same(dict(one.state_dict()), dict(two.state_dict()))
    assert same(fast_weights(one.initial_state()), fast_weights(two.initial_state()))
    for name, x in fast_weights(other.initial_state()).items():
        assert not x.any() or not torch.equal(x, fast_weights(one.initial_state())[name])


def test_every_layer_of_every_seed_draws_fast_weights_of_its_own() -> None:
    assert len({values_seed(seed, layer) for seed in range(20) for layer in range(20)}) == 400
    assert values_seed(3, 2) == 3002, "or stored results are of other models"


@every_model
def test_a_float64_model_is_computed_in_float64(spec: str) -> None:
    """But for its memory, which is float32 in a model of any type."""
    model, ids = small_model(spec).double(), tokens()
    logits, _ = model(ids, None, updates="off")
    assert logits.dtype == torch.float64
    norm, x = model.final_norm, torch.randn(7, model.final_norm.weight.numel(), dtype=torch.float64)
    expected = x / (x.square().mean(-1, keepdim=True) + norm.eps).sqrt() * (1 + norm.weight)
    torch.testing.assert_close(norm(x), expected, rtol=1e-12, atol=1e-12)


@every_model
def test_bfloat16_activations_keep_float32_fast_weights(spec: str) -> None:
    model, ids = small_model(spec), tokens(batch=2, length=20)
    expected, _ = model(ids, None, updates="off")
    logits, state = model.bfloat16()(ids, None, updates="off")
    assert logits.dtype == torch.float32
    assert_close("model.logits", logits, expected, dtype=torch.bfloat16)
    logits, state = model(ids, state)
    assert logits.isfinite().all()
    assert all(x.dtype == torch.float32 for x in fast_weights(model.flush(state)).values())


def test_settings_reach_parts_of_the_model_that_are_not_there_at_its_scale() -> None:
    """A layer is judged by the model that is asked for, not by its scale's."""
    assert len(model_config("gdn:fwpkm@6", "micro", **{"backbone.layers": 8}).layer_kinds) == 8
    with pytest.raises(UserError, match="layer 3"):
        model_config("gdn:fwpkm@3", "micro", **{"backbone.layers": 2})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"updates": "straem"}, ["straem", "did you mean stream"]),
        ({"logits": "lsat"}, ["lsat", "did you mean last"]),
        ({"write_chunk": 0}, ["0"]),
        ({"write_chunk": -3}, ["-3"]),
        ({"write_chunk": "haystak"}, ["haystak", "haystack"]),
    ],
    ids=str,
)
def test_options_that_do_not_fit(options: dict[str, Any], words: list[str]) -> None:
    model, ids = small_model("gdn+swa:fwpkm@1"), tokens()
    with pytest.raises(UserError) as raised:
        model(ids, None, **options)
    assert "\n" not in str(raised.value)
    for word in words:
        assert word in str(raised.value)


@pytest.mark.parametrize("shape", [(20,), (1, 0), (1, 2, 3)])
def test_tokens_that_do_not_fit(shape: tuple[int, ...]) -> None:
    model = small_model("gdn")
    with pytest.raises(UserError, match=str(list(shape)).replace("[", r"\[")):
        model(torch.zeros(shape, dtype=torch.int64), None)
    with pytest.raises(UserError, match="0"):
        model.initial_state(0)
