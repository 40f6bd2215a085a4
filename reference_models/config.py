"""Sizes of the models, by scale, and everything else that decides what a model computes."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field, fields, is_dataclass, replace
from typing import Any, Literal, get_args, get_origin, get_type_hints

from fwpkm_eval.errors import UserError, unknown
from fwpkm_eval.reference_models.notation import FAST_WEIGHTS, ModelSpec, parse_model_name

LayerKind = Literal["gdn", "swa", "fa"]
PerLayer = int | tuple[int, ...]
"""One number for every layer that has the memory, or one for each of them, in rising order."""

# Which mixers a backbone repeats, from layer 0 on (paper, section 4: three Gated DeltaNet layers, then one attention).
_PATTERNS: dict[str, tuple[LayerKind, ...]] = {
    "gdn": ("gdn",),
    "gdn+swa": ("gdn", "gdn", "gdn", "swa"),
    "gdn+fa": ("gdn", "gdn", "gdn", "fa"),
    "fa": ("fa",),
}


@dataclass(frozen=True)
class BackboneConfig:
    """The Transformer around the memories: widths in features, windows in tokens, stds of normal initialisations."""

    layers: int = 12
    hidden: int = 768
    mlp_hidden: int = 2304
    vocab_size: int = 32000
    heads: int = 12
    kv_heads: int = 4
    head_dim: int = 64
    window: int = 512
    rotary_fraction: float = 0.25
    rotary_theta: float = 10000.0
    gdn_heads: int = 8
    gdn_head_dim: int = 64
    gdn_conv: int = 4
    norm_eps: float = 1e-5
    init_std: float = 0.02
    embedding_std: float = 0.02
    mixer_out_std: float = 0.02


@dataclass(frozen=True)
class FwPKMConfig:
    """Fast-weight product-key memory (paper: H = 1, k = 8, S = 512, dk = dv = 512, C = 512).

    query_conv is ours, not the paper's: a causal depthwise convolution over that many positions before the query's
    linear, in every layer or, where they differ, one number for each layer in rising order; 0 is the paper. gate_bias
    shifts the gate's start.
    """

    subkeys: int = 512
    key_dim: int = 512
    value_dim: int = 512
    heads: int = 1
    topk: int = 8
    score: Literal["idw", "dot"] = "idw"
    lookahead: int = 1
    addressing: Literal["entropy", "none"] = "entropy"
    addressing_weight: float = 1.0
    learning_rate: float = 1.0
    gate: bool = True
    gated_loss: bool = True
    target_norm: bool = True
    query_conv: PerLayer = 0
    gate_bias: float = 0.0


@dataclass(frozen=True)
class PKMConfig:
    """Static product-key memory (paper: H = 4, k = 32, S = 512, dk = dv = 512)."""

    subkeys: int = 512
    key_dim: int = 512
    value_dim: int = 512
    heads: int = 4
    topk: int = 32


@dataclass(frozen=True)
class FwMLPConfig:
    """Dense fast-weight MLP (paper: in 512, hidden 2304, out 512, rate 0.1, target the mean of v_t … v_{t+L})."""

    input_dim: int = 512
    hidden: int = 2304
    output_dim: int = 512
    lookahead: int = 1
    target_rule: Literal["mean", "next"] = "mean"
    learning_rate: float = 0.1
    target_norm: bool = True
    query_conv: PerLayer = 0
    gate_bias: float = 0.0


@dataclass(frozen=True)
class LaCTConfig:
    """Dense test-time training with Muon (arXiv 2505.23884): widths, target and layer as `FwMLPConfig`'s at each scale,
    hence its active parameters; a write costs Newton–Schulz besides.

    target_rule "next": FwPKM's target. base_rate: where softplus starts for a token's three learned rates; 0.01, far
    below softplus's bend, so that they start as exp(Linear(h)): a token can weigh tenfold another. As Muon takes away
    the length of a chunk's gradient, it says nothing of the step's size. read_norm: v̂ is given unit mean square, as
    LaCT's reads are, since the dot-product loss leaves their length open.
    """

    input_dim: int = 512
    hidden: int = 2304
    output_dim: int = 512
    lookahead: int = 1
    target_rule: Literal["mean", "next"] = "next"
    base_rate: float = 0.01
    read_norm: bool = True
    target_norm: bool = True
    query_conv: PerLayer = 0
    gate_bias: float = 0.0


@dataclass(frozen=True)
class ModelConfig:
    """A model: its full name in the paper's notation, its scale, and the sizes of its parts.

    chunk_size: tokens per write of the fast weights while training, and by default at evaluation.
    row_tokens: tokens of a training sequence, where full attention was not trained on its scale's.
    """

    name: str
    scale: str
    tokenizer: str = "mistral"
    chunk_size: int = 512
    backbone: BackboneConfig = field(default_factory=BackboneConfig)
    fwpkm: FwPKMConfig = field(default_factory=FwPKMConfig)
    pkm: PKMConfig = field(default_factory=PKMConfig)
    fwmlp: FwMLPConfig = field(default_factory=FwMLPConfig)
    lact: LaCTConfig = field(default_factory=LaCTConfig)
    row_tokens: int | None = None

    def __post_init__(self) -> None:
        check_sizes(self)
        self.spec.check_layers(self.backbone.layers)

    @property
    def spec(self) -> ModelSpec:
        return parse_model_name(self.name)

    @property
    def vocab_size(self) -> int:
        return self.backbone.vocab_size

    @property
    def trained_length(self) -> int | None:
        """Tokens of a training sequence; beyond, full attention needs YaRN. None: a scale that has no such length."""
        return self.row_tokens or TRAINED_LENGTHS.get(self.scale)

    def trained_on(self, tokens: int) -> ModelConfig:
        """The same model trained on sequences of `tokens` tokens, which only full attention has to know of."""
        as_its_scale = tokens == TRAINED_LENGTHS.get(self.scale) or "fa" not in self.layer_kinds
        return replace(self, row_tokens=None if as_its_scale else tokens)

    @property
    def layer_kinds(self) -> tuple[LayerKind, ...]:
        """The mixer of each layer."""
        pattern = _PATTERNS[self.spec.backbone]
        return tuple(pattern[i % len(pattern)] for i in range(self.backbone.layers))

    def query_conv(self, layer: int) -> int:
        """Positions of the query convolution of the fast-weight memory in a layer; 0: none."""
        kind = next(kind for kind in FAST_WEIGHTS if layer in self.spec.layers(kind))
        taps: PerLayer = getattr(self, kind).query_conv
        return taps if isinstance(taps, int) else taps[self.spec.layers(kind).index(layer)]

    def to_dict(self) -> dict[str, Any]:
        """As checkpoints and cells' keys hold it. A model without LaCT does not name LaCT's sizes: those that were made
        before there was LaCT stay what they are; so with the length of training sequences."""
        found = asdict(self)
        if not self.spec.layers("lact") and self.lact == _lact_of(self.scale):
            del found["lact"]
        if self.row_tokens is None:
            del found["row_tokens"]
        return found

    @staticmethod
    def from_dict(data: dict[str, Any]) -> ModelConfig:
        """The inverse of `to_dict`. UserError on a field that does not exist or does not fit."""
        try:
            made = {k: _PARTS[k](**_from_json(v)) if k in _PARTS else v for k, v in data.items()}
            return ModelConfig(**{"lact": _lact_of(data.get("scale")), **made})
        except TypeError as problem:
            raise UserError(f"not a model configuration: {' '.join(str(problem).split())}") from None


_PARTS: dict[str, Any] = {
    "backbone": BackboneConfig,
    "fwpkm": FwPKMConfig,
    "pkm": PKMConfig,
    "fwmlp": FwMLPConfig,
    "lact": LaCTConfig,
}


def _from_json(settings: Any) -> Any:
    """A part's settings with JSON's list of a number for each layer as the tuple that it was made from."""
    taps = settings.get("query_conv") if isinstance(settings, dict) else None
    return {**settings, "query_conv": tuple(taps)} if isinstance(taps, list) else settings


def _check_types(config: ModelConfig) -> None:
    """Every whole number is one, and at least 1 (0 for a lookahead); a choice is one of its values."""
    for owner, part in (("", config), *((name, getattr(config, name)) for name in _PARTS)):
        hints = get_type_hints(type(part))
        for entry in fields(part):
            value, label = getattr(part, entry.name), f"{owner}.{entry.name}".lstrip(".")
            choices = get_args(hints[entry.name]) if get_origin(hints[entry.name]) is Literal else ()
            if choices and value not in choices:
                raise UserError(f"{label} is {value!r}; it must be one of {', '.join(choices)}")
            if entry.type == "bool" and not isinstance(value, bool):
                raise UserError(f"{label} is {value!r}; it must be true or false")
            if entry.type == "int":
                least = 0 if entry.name == "lookahead" else 1
                if type(value) is not int or value < least:
                    raise UserError(f"{label} is {value!r}; it must be a whole number of at least {least}")
            elif entry.type == "float" and (type(value) not in (int, float) or not math.isfinite(value)):
                raise UserError(f"{label} is {value!r}; it must be a number")
            elif entry.type == "str" and not isinstance(value, str):
                raise UserError(f"{label} is {value!r}; it must be text")


def _check_query_conv(config: ModelConfig) -> None:
    for kind in FAST_WEIGHTS:
        given, layers = getattr(config, kind).query_conv, config.spec.layers(kind)
        by_layer = isinstance(given, tuple)
        taps = list(given) if by_layer else [given]
        if not taps or any(type(one) is not int or one < 0 for one in taps):
            shown = taps if by_layer else given
            raise UserError(
                f"{kind}.query_conv is {shown!r}; it must be a whole number of at least 0, or one for each layer"
            )
        if by_layer and layers and len(taps) != len(layers):
            raise UserError(
                f"{kind}.query_conv is {taps}; {config.spec.name} has {len(layers)} layers with {kind}: "
                "give one number for each, or one for all"
            )


def check_sizes(config: ModelConfig) -> None:
    """Refuses sizes that do not fit each other, in one line that says what would."""
    back, fw, pkm = config.backbone, config.fwpkm, config.pkm
    _check_types(config)
    _check_query_conv(config)
    for owner, memory in (("fwpkm", fw), ("pkm", pkm)):
        if memory.key_dim % 2:
            raise UserError(f"{owner}.key_dim is {memory.key_dim}; it must be even, since a query is split into halves")
        if not 1 <= memory.topk <= memory.subkeys:
            raise UserError(f"{owner}.topk is {memory.topk}; it must be 1 to {memory.subkeys}, the sub-keys of a half")
    if back.heads % back.kv_heads:
        raise UserError(f"backbone.heads {back.heads} must be a multiple of backbone.kv_heads {back.kv_heads}")
    lookahead = max(fw.lookahead, config.fwmlp.lookahead, config.lact.lookahead)
    if config.chunk_size <= lookahead:
        raise UserError(f"chunk_size {config.chunk_size} must be larger than the lookahead {lookahead}")
    if config.row_tokens is not None and (type(config.row_tokens) is not int or config.row_tokens < 1):
        raise UserError(f"row_tokens is {config.row_tokens!r}; it must be a whole number of at least 1, or left out")
    for owner, rate in (("fwpkm", fw.learning_rate), ("fwmlp", config.fwmlp.learning_rate)):
        if rate < 0:
            raise UserError(f"{owner}.learning_rate is {rate}; it must be at least 0: a write goes down the loss")
    if config.lact.base_rate <= 0:
        raise UserError(f"lact.base_rate is {config.lact.base_rate}; it must be above 0")


MICRO = ModelConfig(
    name="gdn+swa",
    scale="micro",
    tokenizer="bytes",
    chunk_size=128,
    backbone=BackboneConfig(
        layers=4,
        hidden=128,
        mlp_hidden=320,
        vocab_size=257,
        heads=4,
        kv_heads=2,
        head_dim=32,
        window=64,
        gdn_heads=4,
        gdn_head_dim=32,
        init_std=0.08,
        embedding_std=0.1,
        mixer_out_std=0.1,
    ),
    fwpkm=FwPKMConfig(subkeys=256, key_dim=64, value_dim=64, query_conv=16, gate_bias=1.0),
    pkm=PKMConfig(subkeys=64, key_dim=64, value_dim=64, heads=2, topk=16),
    fwmlp=FwMLPConfig(input_dim=64, hidden=256, output_dim=64, query_conv=16, gate_bias=1.0),
    lact=LaCTConfig(input_dim=64, hidden=256, output_dim=64, query_conv=16, gate_bias=1.0),
)
# What micro showed (tokens per second before size, a convolution on the first query, mixers heard from the start), at
# 4,096 tokens and with a vocabulary of whole words. One memory layer in four, as in the paper.
SMALL = ModelConfig(
    name="gdn+swa",
    scale="small",
    backbone=BackboneConfig(
        layers=8,
        hidden=512,
        mlp_hidden=1408,
        heads=8,
        kv_heads=4,
        init_std=0.04,
        embedding_std=0.05,
        mixer_out_std=0.05,
    ),
    fwpkm=FwPKMConfig(key_dim=256, value_dim=256, query_conv=8, gate_bias=1.0),
    pkm=PKMConfig(key_dim=256, value_dim=256),
    fwmlp=FwMLPConfig(input_dim=256, hidden=1152, output_dim=256, query_conv=8, gate_bias=1.0),
    lact=LaCTConfig(input_dim=256, hidden=1152, output_dim=256, query_conv=8, gate_bias=1.0),
)
PAPER = ModelConfig(name="gdn", scale="paper")
SCALES: dict[str, ModelConfig] = {"micro": MICRO, "small": SMALL, "paper": PAPER}

TRAINED_LENGTHS = {"micro": 1024, "small": 4096, "paper": 4096}
"""Tokens of a training sequence by scale."""

DEFAULT_LAYERS: dict[str, dict[str, tuple[int, ...]]] = {
    "micro": {"pkm": (1, 3), **dict.fromkeys(FAST_WEIGHTS, (1, 3))},
    "small": {"pkm": (2, 6), **dict.fromkeys(FAST_WEIGHTS, (2, 6))},
    "paper": {"pkm": (2, 6, 10), **dict.fromkeys(FAST_WEIGHTS, (2, 6, 10))},
}
DEFAULT_LAYERS_TOGETHER: dict[str, dict[str, tuple[int, ...]]] = {
    "micro": {"pkm": (2,), **dict.fromkeys(FAST_WEIGHTS, (1, 3))},
    "small": {"pkm": (4,), **dict.fromkeys(FAST_WEIGHTS, (2, 6))},
    "paper": {"pkm": (6,), **dict.fromkeys(FAST_WEIGHTS, (2, 10))},
}
"""Default layers of a model that has a PKM beside a fast-weight memory, both named without layers."""


def _lact_of(scale: object) -> LaCTConfig:
    """LaCT's sizes at a scale, which a configuration without them is meant to have."""
    return SCALES[scale].lact if isinstance(scale, str) and scale in SCALES else LaCTConfig()


def _with_default_layers(spec: ModelSpec, scale: str) -> ModelSpec:
    together = len(spec.memories) > 1 and not any(layers for _, layers in spec.memories)
    return spec.with_default_layers((DEFAULT_LAYERS_TOGETHER if together else DEFAULT_LAYERS)[scale])


def model_config(name: str, scale: str = "micro", **overrides: Any) -> ModelConfig:
    """The configuration of a model at a scale.

    name: the notation; a memory without layers takes the scale's own. Of several layers with a fast-weight memory only
    the first has the scale's query convolution, unless it is overridden. overrides: fields of `ModelConfig`, or of its
    parts as "fwpkm.score".

    Raises:
        UserError: an unknown scale, model, layer or field, or sizes that do not fit.
    """
    if scale not in SCALES:
        raise unknown("scale", scale, list(SCALES))
    spec = _with_default_layers(parse_model_name(name), scale)
    config = SCALES[scale]
    changes: dict[str, Any] = {"name": spec.name}
    for kind in FAST_WEIGHTS:
        part, further = getattr(config, kind), len(spec.layers(kind)) - 1
        if part.query_conv and further > 0:
            # In one layer it makes needles learnable; in the others it costs most of what they save on text.
            changes[kind] = replace(part, query_conv=(part.query_conv, *[0] * further))
    for key, value in overrides.items():
        owner, _, attribute = key.rpartition(".")
        part = getattr(config, owner, None) if owner else config
        if not is_dataclass(part):
            raise UserError(f"no setting {key!r} in a model configuration; settings look like 'fwpkm.score'")
        if attribute not in (names := [f.name for f in fields(part)]):
            raise unknown(f"setting of {owner or 'a model'}", attribute, names)
        if owner:
            changes[owner] = replace(changes.get(owner, part), **_from_json({attribute: value}))
        else:
            changes[attribute] = value
    return replace(config, **changes)
