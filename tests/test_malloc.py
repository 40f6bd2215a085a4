"""malloc's setting: freed memory is kept once told to, and children inherit it."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import pytest

from fwpkm_eval import malloc

MIB = 2**20
KEPT = """
import ctypes
from fwpkm_eval.malloc import tune_malloc
print(tune_malloc(), tune_malloc())

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in (
        "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
libc.mallinfo2.restype = Info
buffer = libc.malloc(16 * 2**20)
held = libc.mallinfo2()
libc.free(buffer)
freed = libc.mallinfo2()
print(held.hblkhd // 2**20, freed.fordblks // 2**20)
"""


def _kept(**environment: str) -> tuple[str, int, int]:
    """What `tune_malloc` said twice, MiB mapped for a buffer of 16 MiB, and MiB free in the heap once it was freed."""
    kept = {name: value for name, value in os.environ.items() if name not in malloc.tuned_environment()}
    done = subprocess.run(
        [sys.executable, "-P", "-c", KEPT], env=kept | environment, capture_output=True, text=True, check=True
    )
    said, sizes = done.stdout.splitlines()
    mapped, free = map(int, sizes.split())
    return said, mapped, free


@pytest.mark.skipif(
    not malloc.is_glibc() or tuple(map(int, platform.libc_ver()[1].split("."))) < (2, 33), reason="needs mallinfo2"
)
def test_malloc_keeps_freed_memory_once_told_to() -> None:
    # By malloc's own account: the system's count of page faults depends on what else the machine does.
    said, mapped, free = _kept()
    assert said == "True False"  # the second call finds it set
    assert mapped == 0
    assert free >= 16
    said, mapped, free = _kept(MALLOC_TRIM_THRESHOLD_="131072")
    assert said == "False False"  # whoever chose otherwise keeps their choice
    assert mapped >= 16 or free < 16


def test_malloc_is_left_alone_where_there_is_no_glibc(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in malloc.tuned_environment():
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(malloc, "is_glibc", lambda: False)
    assert not malloc.tune_malloc()
    assert not set(malloc.tuned_environment()) & set(os.environ)


def test_children_inherit_the_setting(monkeypatch: pytest.MonkeyPatch) -> None:
    if not malloc.is_glibc():
        pytest.skip("needs glibc")
    for name in malloc.tuned_environment():
        monkeypatch.delenv(name, raising=False)
    calls: list[tuple[int, int]] = []

    class OldLibrary:
        """As glibc before 2.35: no threshold above 32 MiB."""

        @staticmethod
        def mallopt(which: int, value: int) -> int:
            calls.append((which, value))
            return int(which != -3 or value <= 32 * MIB)

    monkeypatch.setattr(malloc.ctypes, "CDLL", lambda name: OldLibrary)
    assert malloc.tune_malloc()
    assert calls == [(-3, 1_000_000_000), (-1, 2**31 - 1), (-2, 200_000_000), (-3, 32 * MIB)]
    assert malloc.tuned_environment().items() <= os.environ.items()
