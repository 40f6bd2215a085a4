"""The model notation: what names mean, that they are canonical, and that a wrong one is explained."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fwpkm_eval.errors import UserError
from fwpkm_eval.reference_models.notation import (
    BACKBONES,
    MEMORIES,
    ModelSpec,
    parse_model_name,
    split_model_names,
)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("gdn", ModelSpec("gdn")),
        ("fa:pkm@2,6,10", ModelSpec("fa", (("pkm", (2, 6, 10)),))),
        ("gdn+swa:pkm@6+fwpkm@2,10", ModelSpec("gdn+swa", (("pkm", (6,)), ("fwpkm", (2, 10))))),
        ("gdn+fa:fwmlp@0", ModelSpec("gdn+fa", (("fwmlp", (0,)),))),
        ("fa:pkm@2+lact@3", ModelSpec("fa", (("pkm", (2,)), ("lact", (3,))))),
        ("gdn:fwpkm", ModelSpec("gdn", (("fwpkm", ()),))),
    ],
)
def test_names_that_read(text: str, spec: ModelSpec) -> None:
    assert parse_model_name(text) == spec
    assert spec.name == text


@pytest.mark.parametrize(
    ("text", "name"),
    [
        (" gdn ", "gdn"),
        ("gdn:fwpkm@10,2", "gdn:fwpkm@2,10"),
        ("gdn:fwpkm@2,10+pkm@6", "gdn:pkm@6+fwpkm@2,10"),
        ("gdn:fwpkm@02", "gdn:fwpkm@2"),
    ],
)
def test_one_model_has_one_name(text: str, name: str) -> None:
    assert parse_model_name(text).name == name


@st.composite
def specs(draw: st.DrawFn) -> ModelSpec:
    """Any valid spec: a backbone, some memories, layers shared out among them (or left to the scale)."""
    kinds = draw(st.lists(st.sampled_from(MEMORIES), unique=True))
    layers = draw(st.lists(st.integers(0, 9999), unique=True, max_size=12))
    owner = [draw(st.integers(0, len(kinds) - 1)) for _ in layers] if kinds else []
    memories = tuple(
        (kind, tuple(layer for layer, held_by in zip(layers, owner, strict=False) if held_by == i))
        for i, kind in enumerate(kinds)
    )
    return ModelSpec(draw(st.sampled_from(BACKBONES)), memories)


@given(specs())
def test_every_spec_reads_back_from_its_name(spec: ModelSpec) -> None:
    assert parse_model_name(spec.name) == spec
    assert parse_model_name(spec.name).name == spec.name


@given(st.lists(specs(), min_size=1, max_size=5))
def test_lists_of_names_split_where_a_name_begins(models: list[ModelSpec]) -> None:
    names = [spec.name for spec in models]
    assert split_model_names(",".join(names)) == names
    assert split_model_names(", ".join(names)) == names


_PIECES = st.sampled_from([*BACKBONES, *MEMORIES, ":", "@", "+", ",", "2", "10", "-1", "²", "swa", " ", "fwpmk", "\n"])


@given(st.one_of(st.text(max_size=40), st.lists(_PIECES, max_size=10).map("".join)))
@example("gdn:fwpkm@" + "9" * 5000)
@example("gdn:fwpkm@²")
@example("x" * 10_000)
def test_any_text_is_a_model_or_a_user_error_of_one_line(text: str) -> None:
    try:
        spec = parse_model_name(text)
    except UserError as error:
        message = str(error)
    else:
        assert parse_model_name(spec.name) == spec
        return
    assert len(message.splitlines()) == 1
    assert len(message) < 300


@pytest.mark.parametrize(
    ("text", "wrong_and_right"),
    [
        ("", ["empty model name", "gdn+swa"]),
        ("gnd", ["unknown backbone 'gnd'", "did you mean gdn?", "valid: fa, gdn, gdn+fa, gdn+swa"]),
        ("mamba9", ["unknown backbone 'mamba9'", "valid: fa, gdn, gdn+fa, gdn+swa"]),
        ("gdn:fwpmk@2", ["unknown memory 'fwpmk'", "did you mean fwpkm?", "valid: fwmlp, fwpkm, lact, pkm"]),
        ("gdn:FwPKM@2", ["unknown memory 'FwPKM'", "did you mean fwpkm?"]),
        ("gdn:", ["no memory after ':'"]),
        (":fwpkm@2", ["no backbone before ':'"]),
        ("fwpkm@2", ["no backbone", "gdn:fwpkm@2"]),
        ("gdn@2", ["layers without a memory", "gdn:fwpkm@2"]),
        ("gdn+fwpkm@2", ["a memory comes after ':'", "gdn:fwpkm@2"]),
        ("gdn:swa@2", ["'swa'", "part of a backbone"]),
        ("gdn:fwpkm2", ["missing '@'", "'fwpkm@2'"]),
        ("gdn:fwpkm2,10", ["missing '@'", "'fwpkm@2,10'"]),
        ("gdn:fwpkm@", ["no layers after '@'", "fwpkm@2,10"]),
        ("gdn:fwpkm@2,", ["bad layer ''"]),
        ("gdn:fwpkm@two", ["bad layer 'two'", "numbers from 0"]),
        ("gdn:fwpkm@-1", ["bad layer '-1'", "numbers from 0"]),
        ("gdn:fwpkm@1.5", ["bad layer '1.5'"]),
        ("gdn:fwpkm@2@3", ["bad layer '2@3'"]),
        ("gdn:fwpkm@2,2", ["layer 2", "twice to fwpkm"]),
        ("gdn:fwpkm@2,02", ["layer 2", "twice to fwpkm"]),
        ("gdn:pkm@2,6+fwpkm@6", ["layer 6", "both pkm and fwpkm"]),
        ("gdn:fwpkm@2+fwpkm@10", ["'fwpkm' is named twice", "fwpkm@2,10"]),
        ("gdn:fwpkm@2+", ["no memory name"]),
    ],
)
def test_a_wrong_name_is_explained(text: str, wrong_and_right: list[str]) -> None:
    with pytest.raises(UserError) as error:
        parse_model_name(text)
    for words in wrong_and_right:
        assert words in str(error.value)


def test_a_spec_built_by_hand_is_checked_and_ordered_too() -> None:
    assert ModelSpec("gdn", (("fwpkm", (10, 2)), ("pkm", (6,)))).name == "gdn:pkm@6+fwpkm@2,10"
    with pytest.raises(UserError, match="layer -1"):
        ModelSpec("gdn", (("fwpkm", (-1,)),))
    with pytest.raises(UserError, match="unknown memory"):
        ModelSpec("gdn", (("lstm", (1,)),))
    with pytest.raises(UserError, match="unknown backbone"):
        ModelSpec("lstm")


def test_layers_of_a_memory() -> None:
    spec = parse_model_name("gdn:pkm@6+fwpkm@10,2")
    assert spec.layers("fwpkm") == (2, 10)
    assert spec.layers("fwmlp") == ()


def test_layers_out_of_range_are_refused_with_the_range() -> None:
    spec = parse_model_name("gdn:fwpkm@2,4")
    spec.check_layers(5)
    with pytest.raises(UserError, match=r"layer 4 of memory 'fwpkm' is out of range.*valid: 0 to 3"):
        spec.check_layers(4)


def test_default_layers_fill_only_what_was_left_open() -> None:
    defaults = {"pkm": (1,), "fwpkm": (2,)}
    assert parse_model_name("gdn:fwpkm").with_default_layers(defaults).name == "gdn:fwpkm@2"
    assert parse_model_name("gdn:pkm+fwpkm@3").with_default_layers(defaults).name == "gdn:pkm@1+fwpkm@3"
    assert parse_model_name("gdn").with_default_layers(defaults).name == "gdn"
    with pytest.raises(UserError, match="layer 2 is given to both pkm and fwpkm"):
        parse_model_name("gdn:pkm@2+fwpkm").with_default_layers(defaults)
    with pytest.raises(UserError, match="'fwmlp' has no default layers"):
        parse_model_name("gdn:fwmlp").with_default_layers(defaults)
