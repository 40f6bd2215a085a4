"""Needle in a haystack for any lm-eval model: the samples of `tasks.niah`, as text.

Arguments (lm-eval's ``metadata``): length (4096; of the haystack, needles included; a task that has it in its name
takes no other), needles (5), samples (20), seed (0), depths (drawn), key_length (4), value_length (6), data ("embedded"
or a folder), haystack (the set it is cut from), logprob (true; false for models that cannot score a given text).

A length counts tokens of the model under test where `text_unit.lengths_in_tokens_of` is used, as ``fwpkm-eval
lm-eval`` does, and bytes of UTF-8 otherwise. It is exact for byte tokens; other tokenizers may read the text with a
few tokens more or less than it was drawn with.

What is generated is compared from its first character that is no space; the ``value_length`` characters from there
are the answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lm_eval.api.instance import Instance
from lm_eval.api.task import ConfigurableTask

from fwpkm_eval.data import default_haystack, load_set
from fwpkm_eval.errors import UserError
from fwpkm_eval.sizes import parse_size
from fwpkm_eval.tasks.lm_eval.text_unit import current_unit
from fwpkm_eval.tasks.niah import NiahSettings, SampleAnswer, Setting, draw_sample, haystack_tokens
from fwpkm_eval.tasks.niah_rows import INSTEAD

if TYPE_CHECKING:
    import datasets

ARGUMENTS = ("length", "needles", "samples", "seed", "depths", "key_length", "value_length", "data", "haystack")
"""What `load` reads from a task's metadata; ``logprob`` is the task's own."""

EXTRA_TOKENS = 4
"""Generated beyond the number's digits: for a space before it and digits that are cut in tokens of their own."""


def load(named_length: int | None = None, **metadata: Any) -> dict[str, datasets.Dataset]:
    """The samples as documents, split ``test``. Raises UserError for arguments that do not fit."""
    import datasets

    wanted = {name: metadata[name] for name in ARGUMENTS if metadata.get(name) is not None}
    data = str(wanted.pop("data", "embedded"))
    text_set = load_set(data, str(wanted.pop("haystack", "") or default_haystack(data)), "test")
    length, needles = _size(wanted, "length", named_length or 4096), _size(wanted, "needles", 5)
    if named_length not in (None, length):
        raise UserError(f"this task's length is {named_length}: take fwpkm_niah for length={length}")
    depths = wanted.pop("depths", None)
    counts: dict[str, Any] = {name: _size(wanted, name, 0) for name in list(wanted)}
    settings = NiahSettings(lengths=(length,), needles=(needles,), depths=_depths(depths), **counts)
    unit = current_unit()
    text = haystack_tokens(text_set, unit.tokenizer)
    documents = []
    for index in range(settings.samples):
        sample = draw_sample(settings, text, unit.tokenizer, length, needles, index)
        asked = sample.needles[sample.asked]
        documents.append(
            {
                "index": index,
                "haystack": unit.text(sample.haystack),
                "question": asked.question,
                "answer": asked.value,
                "others": [needle.value for needle in sample.needles if needle is not asked],
                "depth": sample.depths[sample.asked],
                "length": length,
                "length_in": unit.name,
                "needles": needles,
                "seed": settings.seed,
                "dataset": text_set.name,
                "data_hash": text_set.sha256[:16],
            }
        )
    return {"test": datasets.Dataset.from_list(documents)}


class NiahTask(ConfigurableTask):
    """Asks twice about each sample: for a text, and for the log-probability of the right one."""

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__(config={name: value for name, value in config.items() if name != "class"})

    def construct_requests(self, doc: dict[str, Any], ctx: str, **kwargs: Any) -> list[Instance]:
        asked: Instance = super().construct_requests(doc, ctx, **dict(kwargs))
        options = {"max_gen_toks": len(doc["answer"]) + EXTRA_TOKENS, **asked.args[1]}
        asked.arguments = (ctx, options)
        if not (self.config.metadata or {}).get("logprob", True):
            return [asked]
        scored = Instance("loglikelihood", doc, (ctx, doc["answer"]), 1, metadata=kwargs["metadata"])
        return [asked, scored]


def context(doc: dict[str, Any]) -> str:
    """What is shown: haystack and question, which ends where the number starts."""
    return f"{doc['haystack']}{doc['question']}"


def grade(doc: dict[str, Any], results: list[Any]) -> dict[str, float]:
    """One sample's metrics, named as `niah` names them in its rows."""
    expected = doc["answer"]
    answered = results[0].lstrip()[: len(expected)]
    answer = SampleAnswer(
        setting=Setting(doc["length"], doc["needles"], ""),
        protocol="",
        passes=0,
        index=doc["index"],
        depth=doc["depth"],
        expected=expected,
        answered=answered,
        digits_right=sum(given == right for given, right in zip(answered, expected, strict=False)),
        distractor=answered in doc["others"],
        logprob=results[1][0] if len(results) > 1 else float("nan"),
    )
    metrics = {"exact_match": float(answer.exact), "digit_accuracy": answer.digits_right / len(expected)}
    metrics |= {metric: float(answer.instead == kind) for kind, metric in INSTEAD}
    return metrics | ({"answer_logprob": answer.logprob} if len(results) > 1 else {})


def _size(wanted: dict[str, Any], name: str, default: int) -> int:
    value = wanted.pop(name, default)
    if type(value) is int:
        return value
    if isinstance(value, str):
        return parse_size(value)
    raise UserError(f"{name.replace('_', ' ')} must be one whole number, not {value!r}")


def _depths(value: Any) -> tuple[float, ...] | None:
    if value is None:
        return None
    listed = value.split(",") if isinstance(value, str) else value if isinstance(value, list | tuple) else [value]
    try:
        return tuple(float(depth) for depth in listed)
    except (TypeError, ValueError):
        raise UserError(f"depths {value!r} are not numbers from 0 to 1, such as 0.1,0.5,0.9") from None
