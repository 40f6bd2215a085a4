"""Large tensors in huge pages: the same numbers, asked for where the system has them, and nothing where it does not."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fwpkm_eval.kernels import huge_pages
from fwpkm_eval.kernels.huge_pages import LARGE, copy_large, empty_large

SMAPS = Path("/proc/self/smaps")


def flags_at(address: int) -> set[str]:
    """What the system says of the pages at an address: "hg" is that huge ones were asked for."""
    inside = False
    for line in SMAPS.read_text().splitlines():
        bounds = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line)
        if bounds:
            inside = int(bounds[1], 16) <= address < int(bounds[2], 16)
        elif inside and line.startswith("VmFlags:"):
            return set(line.split()[1:])
    return set()


def middle(x: Tensor) -> int:
    return x.data_ptr() + x.numel() * x.element_size() // 2


@pytest.mark.skipif(
    not (Path("/sys/kernel/mm/transparent_hugepage").exists() and "VmFlags" in SMAPS.read_text()),
    reason="this system has no huge pages, or does not tell",
)
def test_the_system_is_asked_for_large_tensors() -> None:
    large = LARGE // 4
    for made in (empty_large(large), empty_large(2, large // 2), copy_large(torch.empty(large))):
        assert "hg" in flags_at(middle(made))


def test_only_large_tensors_are_asked_for_and_only_pages_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(huge_pages, "_madvise", lambda: lambda at, size, _: asked.append((at.value, size.value)))
    monkeypatch.setattr(huge_pages, "MADV_HUGEPAGE", 14)
    assert empty_large(LARGE // 4 - 1).numel() == LARGE // 4 - 1
    assert copy_large(torch.empty(9)).numel() == 9
    assert asked == []
    made = empty_large(LARGE // 4 + 3)
    [(at, size)] = asked
    assert made.data_ptr() <= at < made.data_ptr() + 2**21
    assert LARGE - 2**22 < size <= LARGE
    assert at % 2**21 == size % 2**21 == 0


@pytest.mark.parametrize("known", [True, False], ids=["huge pages", "a system without"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int64])
def test_a_copy_is_the_same_and_contiguous(known: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    if not known:
        monkeypatch.setattr(huge_pages, "_madvise", lambda: None)
    rows = LARGE // dtype.itemsize // 1024 + 3
    drawn = torch.randint(-99, 99, (1024, rows), generator=torch.Generator().manual_seed(1)).to(dtype)
    for x in (drawn, drawn.T, drawn[:5, :7], drawn[:0]):
        copy = copy_large(x)
        assert copy.is_contiguous()
        assert (copy.dtype, copy.shape) == (x.dtype, x.shape)
        assert torch.equal(copy, x)
        assert copy.data_ptr() != x.data_ptr() or not x.numel()


def test_what_is_drawn_into_one_is_what_torch_draws() -> None:
    shape = (LARGE // 4096 + 1, 1024)
    ours = empty_large(*shape).normal_(generator=torch.Generator().manual_seed(5))
    assert torch.equal(ours, torch.randn(shape, generator=torch.Generator().manual_seed(5)))
