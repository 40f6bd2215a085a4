"""Sizes: what reads, what is refused, and that writing and reading are inverse."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fwpkm_eval.errors import UserError
from fwpkm_eval.sizes import format_size, parse_size, parse_sizes


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("512", 512),
        ("1000", 1000),
        ("4K", 4096),
        ("4k", 4096),
        (" 4K ", 4096),
        ("128K", 131_072),
        ("8M", 8_388_608),
        ("1G", 2**30),
        ("1.5K", 1536),
        ("0.5K", 512),
        ("2.0", 2),
        ("007", 7),
    ],
)
def test_sizes_that_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "0",
        "0K",
        "0.0",
        "-4",
        "-4K",
        "+4",
        "4KB",
        "K",
        "4 K",
        "1e3",
        "1_000",
        "4,096",
        "½",
        "٤",
        "nan",
        "0.3K",
    ],
)
def test_sizes_that_are_refused(text: str) -> None:
    with pytest.raises(UserError, match="size") as error:
        parse_size(text)
    assert "\n" not in str(error.value)


@given(st.text(max_size=30))
def test_any_text_is_a_size_above_zero_or_a_user_error(text: str) -> None:
    try:
        size = parse_size(text)
    except UserError as error:
        message = str(error)
    else:
        assert size > 0
        return
    assert len(message.splitlines()) == 1


@given(st.integers(1, 2**45))
def test_a_written_size_reads_back(size: int) -> None:
    assert parse_size(format_size(size)) == size


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (512, "512"),
        (1024, "1K"),
        (1536, "1536"),
        (4096, "4K"),
        (131_072, "128K"),
        (2**23, "8M"),
        (2**30, "1G"),
    ],
)
def test_sizes_are_written_with_the_largest_unit_that_is_exact(size: int, text: str) -> None:
    assert format_size(size) == text


def test_lists_keep_their_order_and_drop_repeats() -> None:
    assert parse_sizes("32K,4K, 1000,4096") == (32_768, 4096, 1000)


@pytest.mark.parametrize("text", ["", ",", "4K,", "4K,,8K", "4K;8K"])
def test_lists_with_a_hole_are_refused(text: str) -> None:
    with pytest.raises(UserError):
        parse_sizes(text)
