"""Gates and addressing: every token's gate and every read of a write counted once, by the formulas."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tiny_models import SIZES, tiny_model

from fwpkm_eval.data import Document, TextSet, hash_documents
from fwpkm_eval.data.tokenizers import ByteTokenizer
from fwpkm_eval.kernels.product_keys import lookup, split_query
from fwpkm_eval.reference_models.config import model_config
from fwpkm_eval.reference_models.language_model import LanguageModel
from fwpkm_eval.reference_models.memory_layers import FastWeightLayer, FwPKMLayer
from fwpkm_eval.reporting.tables_memory import addressing_tables, gate_tables
from fwpkm_eval.runs.rows import rows_to_frame
from fwpkm_eval.tasks.addressing import addressing_rows, evaluate_addressing, slot_use
from fwpkm_eval.tasks.gates import LayerGates, evaluate_gates, gate_rows, gated_layers
from fwpkm_eval.tasks.perplexity import PerplexitySettings, evaluate_perplexity

pytestmark = pytest.mark.usefixtures("one_thread")
TOKENIZER = ByteTokenizer()
TEXT = "Peter Piper picked a peck of pickled peppers. " * 8
DOCUMENTS = (Document("0", TEXT), Document("1", TEXT[:100]))
SET = TextSet("verses", "test", DOCUMENTS, "path", None, "made for a test", hash_documents(DOCUMENTS))
SETTINGS = PerplexitySettings(segment=200, write_chunk=64, block=50)
TOKENS = len(TEXT) + 1 + 100 + 1


def memory_layer(model: LanguageModel, number: int) -> FastWeightLayer:
    layer = model.blocks[number].memory
    assert layer is not None
    return layer


def test_use_of_slots_by_the_formulas() -> None:
    # Four of eight slots read 4, 1, 1 and 2 times: 6 of 8 reads collide, and p = 4/8, 1/8, 1/8, 2/8.
    use = slot_use(np.array([4, 0, 1, 1, 0, 2, 0, 0]), 8)
    assert (use.collision_rate, use.coverage, use.reads) == (0.75, 0.5, 8)
    assert use.kl_to_uniform == pytest.approx(4 / 8 * math.log(4) + 2 * 1 / 8 * math.log(1) + 2 / 8 * math.log(2))
    even, single = slot_use(np.full(16, 5), 16), slot_use(np.array([7]), 16)
    assert (even.collision_rate, even.coverage, even.kl_to_uniform) == pytest.approx((1.0, 1.0, 0.0))
    assert (single.coverage, single.kl_to_uniform) == pytest.approx((1 / 16, math.log(16)))
    assert slot_use(np.ones(4, dtype=np.int64), 16).collision_rate == 0.0
    with pytest.raises(ValueError, match="never read"):
        slot_use(np.zeros(4, dtype=np.int64), 4)


@pytest.mark.parametrize("name", ["gdn+swa:fwpkm@0,1", "fa:fwpkm@1+fwmlp@0"])
def test_every_read_of_a_write_is_counted_once(name: str) -> None:
    model = tiny_model(name)
    result = evaluate_addressing(model, SET, SETTINGS, TOKENIZER)
    assert set(result.layers) == set(model.config.spec.layers("fwpkm"))
    # Segments of 200, 200 and the rest: 64 tokens a write, at a segment's end what has a target.
    sizes = [64, 64, 64, 7] * 2 + [64, 5]
    assert sum(sizes) == TOKENS - 3
    for layer in result.layers.values():
        assert [write.reads for write in layer.writes] == [8 * size for size in sizes]
        assert layer.counts.sum() == 8 * sum(sizes)
        assert len(layer.counts) == 16**2


def test_a_memory_that_starts_anew_is_counted_on() -> None:
    [layer] = evaluate_addressing(
        tiny_model("fa:fwpkm@0"), SET, replace(SETTINGS, scope="segment"), TOKENIZER
    ).layers.values()
    assert len(layer.writes) == 10
    assert layer.counts.sum() == sum(write.reads for write in layer.writes)


def test_the_slots_counted_are_those_that_the_write_reads() -> None:
    model = tiny_model("fa:fwpkm@0")
    short = PerplexitySettings(tokens=33, write_chunk=32)
    result = evaluate_addressing(model, SET, short, TOKENIZER)
    tokens = torch.tensor([[TOKENIZER.eos, *TEXT.encode()[:31]]])
    with torch.no_grad():
        layer = memory_layer(model, 0)
        assert isinstance(layer, FwPKMLayer)
        query, _, _, _ = layer.project(model.embedding(tokens), None)
        found = lookup(split_query(query, 1), layer.first_keys, 8, "idw")
    expected = np.bincount(found.slots.flatten().numpy(), minlength=256)
    np.testing.assert_array_equal(result.layers[0].counts, expected)


def test_watching_changes_nothing_of_what_is_read() -> None:
    plain = evaluate_perplexity(tiny_model("gdn+swa:fwpkm@0,1"), SET, SETTINGS, TOKENIZER)
    model = tiny_model("gdn+swa:fwpkm@0,1")
    evaluate_addressing(model, SET, SETTINGS, TOKENIZER)
    evaluate_gates(model, SET, SETTINGS, TOKENIZER)
    after = evaluate_perplexity(model, SET, SETTINGS, TOKENIZER)
    np.testing.assert_array_equal(after.nats, plain.nats)
    assert not any(module._forward_hooks for module in model.modules())


def test_every_tokens_gate_is_counted_once_in_its_bin() -> None:
    gates = LayerGates()
    gates.add(np.array([[0.0, 0.04, 0.05], [0.5, 0.96, 1.0]]))
    assert gates.counts.tolist() == [2, 1, *[0] * 8, 1, *[0] * 8, 2]
    assert (gates.tokens, gates.closed, gates.opened) == (6, 3, 2)
    assert gates.total / gates.tokens == pytest.approx(2.55 / 6)


@pytest.mark.parametrize("other", ["fwmlp", "lact"])
def test_gates_are_those_that_mix_the_layers_output(other: str) -> None:
    """With gate weights of zero every gate is the sigmoid of the bias."""
    model = tiny_model(f"fa:fwpkm@0+{other}@1")
    with torch.no_grad():
        for number, bias in ((0, 3.0), (1, -3.0)):
            memory_layer(model, number).g_proj.weight.zero_()
            memory_layer(model, number).g_proj.bias.fill_(bias)
    result = evaluate_gates(model, SET, SETTINGS, TOKENIZER)
    for number, gate in ((0, 0.95257), (1, 0.04743)):
        layer = result.layers[number]
        assert layer.tokens == TOKENS
        assert layer.total / layer.tokens == pytest.approx(gate, abs=1e-5)
    assert result.layers[0].opened == result.layers[1].closed == TOKENS
    assert result.layers[0].closed == result.layers[1].opened == 0


def test_a_layer_made_without_a_gate_has_none() -> None:
    model = LanguageModel(model_config("fa:fwpkm@0+fwmlp@1", "micro", **{**SIZES, "fwpkm.gate": False}))
    assert gated_layers(model) == [1]
    assert set(evaluate_gates(model, SET, SETTINGS, TOKENIZER).layers) == {1}


def test_without_a_gate_nothing_weighs_the_writes() -> None:
    model = LanguageModel(model_config("fa:fwpkm@0", "micro", **{**SIZES, "fwpkm.gate": False}))
    tokens = torch.tensor([[TOKENIZER.eos, *TEXT.encode()[:31]]])
    values = []
    for bias in (-3.0, 3.0):
        torch.nn.init.constant_(memory_layer(model, 0).g_proj.bias, bias)
        _, state = model(tokens, None, write_chunk=16)
        assert state.memories[0].memory.writes == 1
        values.append(state.fast_weights[0]["values"])
    assert torch.equal(*values)


def test_rows_and_tables() -> None:
    model = tiny_model("gdn+swa:fwpkm@0,1")
    rows = gate_rows(model, SET, SETTINGS, evaluate_gates(model, SET, SETTINGS, TOKENIZER))
    shares = [row for row in rows if row.metric == "gate_share@1"]
    assert [row.depth for row in shares] == [round(0.025 + 0.05 * bin_number, 3) for bin_number in range(20)]
    assert sum(row.value or 0 for row in shares) == pytest.approx(1)
    by_metric = {row.metric: row for row in rows if row.depth is None}
    assert set(by_metric) == {f"gate_{what}@{layer}" for what in ("mean", "below_0.1", "above_0.9") for layer in (0, 1)}
    assert by_metric["gate_mean@0"].n == TOKENS

    result = evaluate_addressing(model, SET, SETTINGS, TOKENIZER)
    uses = addressing_rows(model, SET, SETTINGS, result)
    found: dict[str, Any] = {row.metric: row for row in uses}
    names = [f"{of}{what}@1" for of in ("", "chunk_") for what in ("collision_rate", "coverage", "kl_to_uniform")]
    assert set(names) <= set(found)
    assert found["chunk_coverage@1"].n == 10
    assert found["chunk_coverage@1"].ci_low < found["chunk_coverage@1"].value < found["coverage@1"].value
    assert found["chunk_collision_rate@1"].value < found["collision_rate@1"].value
    assert {row.write_chunk for row in [*rows, *uses]} == {"64"}

    frame = rows_to_frame([*rows, *uses])
    [gates] = gate_tables(frame)
    [slots] = addressing_tables(frame)
    assert [[cell.text for cell in row[:3]] for row in gates.rows] == [[model.config.name, n, "verses"] for n in "01"]
    assert [row[3].text for row in slots.rows] == ["64", "64"]
    assert gate_tables(frame.iloc[:0]) == addressing_tables(frame.iloc[:0]) == []
