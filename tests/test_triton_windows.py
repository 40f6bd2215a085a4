"""Long sums in parts (`triton_windows`): groups of any length, held against the reference and against plain sums.

Windows are small here, so that there are whole ones, parts before and after them, and groups without any.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scan_cases import Case
from test_triton_scan import DEVICE, SETTINGS, check_case, moved

from fwpkm_eval.kernels import triton_chunk, triton_windows
from fwpkm_eval.kernels.pkm import pkm_read
from fwpkm_eval.kernels.triton_gradients import add_rows
from fwpkm_eval.kernels.triton_segments import group_by_slot

pytestmark = pytest.mark.usefixtures("poisoned_memory", "one_thread")


@pytest.fixture(params=[2, 16])
def window(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(triton_windows, "WINDOW", request.param)
    monkeypatch.setattr(triton_windows, "LONG_CHUNK", 1)
    return int(request.param)


@pytest.mark.parametrize("case", SETTINGS, ids=lambda c: f"{c.score}-{c.addressing}-{c.gated}-{c.lookahead}")
def test_agrees_with_reference_in_every_setting(case: Case, window: int) -> None:
    check_case(replace(case, tokens=12, chunk=12))


def test_agrees_with_reference_where_few_slots_are_read_often(window: int) -> None:
    check_case(Case(batch=2, tokens=45, chunk=40, subkeys=3, topk=2, width=60, half=20))


def test_short_chunks_take_no_windows_and_long_ones_the_same_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    case, windows = Case(batch=2, tokens=20, chunk=20, subkeys=3, topk=2), []

    def noted(*arguments: Any) -> tuple[Any, int]:
        windows.append(triton_windows.sum_slot_windows(*arguments)[1])
        return triton_windows.sum_slot_windows(*arguments)

    monkeypatch.setattr(triton_chunk, "sum_slot_windows", noted)
    monkeypatch.setattr(triton_windows, "WINDOW", 4)
    results = []
    for long_from in (41, 40, 40):
        monkeypatch.setattr(triton_windows, "LONG_CHUNK", long_from)
        results.append(case.scan(moved(case.inputs()), backend="triton"))
    assert windows == [0, 4, 4]
    for name in ("keys", "values"):
        short, long, again = (getattr(result, name) for result in results)
        torch.testing.assert_close(long, short)
        assert torch.equal(again, long), "a run repeats bit for bit"


def test_windows_grow_with_the_chunk() -> None:
    sizes = [(1, 0), (512, 0), (1023, 0), (1024, 64), (16_384, 64), (32_767, 64), (32_768, 256), (2**20, 256)]
    assert [(tokens, triton_windows.window_for(tokens)) for tokens, _ in sizes] == sizes


def test_the_static_memorys_gradient(window: int) -> None:
    draw = torch.Generator().manual_seed(0)
    shapes = ((2, 20, 2 * 8), (2, 2, 3, 4), (9, 20))
    inputs = [torch.randn(shape, generator=draw, dtype=torch.float64) for shape in shapes]
    found = {}
    for backend in ("triton", "torch"):
        given = [x.to(DEVICE).requires_grad_() for x in inputs]
        pkm_read(*given, topk=2, backend=backend)[0].square().sum().backward()
        found[backend] = [x.grad for x in given]
    torch.testing.assert_close(found["triton"], found["torch"])


@given(st.lists(st.integers(0, 4), min_size=1, max_size=40), st.sampled_from([2, 4, 8]), st.integers(1, 3))
def test_every_read_is_summed_once(read_slots: list[int], window: int, width: int) -> None:
    """Whatever the lengths of the groups, and wherever they begin within a window."""
    slots = torch.tensor(read_slots, dtype=torch.int32, device=DEVICE).view(-1, 1)
    by_slot = group_by_slot(slots, 5)
    # Powers of two: a read that is left out, or taken twice, changes the sum.
    weights = torch.exp2(torch.arange(len(read_slots), dtype=torch.float64, device=DEVICE)).view(-1, 1)
    table = torch.zeros(5, width, dtype=torch.float64, device=DEVICE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(triton_windows, "WINDOW", window)
        patch.setattr(triton_windows, "LONG_CHUNK", 1)
        add_rows(table, by_slot.slots, by_slot, weights, torch.ones(len(read_slots), width, dtype=torch.float64))
    expected = torch.zeros(5, dtype=torch.float64).index_add_(0, slots.view(-1).cpu().long(), weights.view(-1).cpu())
    assert torch.equal(table.cpu(), expected[:, None].expand(5, width))
