"""Our models in lm-eval: the same numbers as our own tasks, whatever the order, the batch and what is shared."""

from __future__ import annotations

import random
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import SIZES, tiny_checkpoint, tiny_model

from fwpkm_eval import load_model
from fwpkm_eval.data import Document, TextSet, hash_documents, load_set
from fwpkm_eval.data.tokenizers import ByteTokenizer
from fwpkm_eval.errors import UserError
from fwpkm_eval.reference_models.config import model_config
from fwpkm_eval.reference_models.language_model import LanguageModel
from fwpkm_eval.tasks.niah import NiahSettings, evaluate_niah
from fwpkm_eval.tasks.perplexity import PerplexitySettings, evaluate_perplexity

lm_eval = pytest.importorskip("lm_eval")

from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

from fwpkm_eval.harness import FwPKMLM  # noqa: E402
from fwpkm_eval.tasks.lm_eval import FOLDER  # noqa: E402
from fwpkm_eval.tasks.lm_eval.text_unit import lengths_in_tokens_of  # noqa: E402

pytestmark = pytest.mark.usefixtures("one_thread")
TINY = "gdn+swa:fwpkm@1"
WORDS = ["one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]


def text(seed: int, words: int) -> str:
    return " ".join(random.Random(seed).choices(WORDS, k=words))


def request(kind: str, *arguments: Any, doc: dict[str, Any] | None = None) -> Any:
    return Instance(kind, doc or {}, arguments, 0, metadata=("test", 0, 1))


def tiny(**arguments: Any) -> Any:
    return FwPKMLM(tiny_model(arguments.pop("name", TINY)), quiet=True, **arguments)


@cache
def shipped() -> Any:
    return load_model("gdn+swa:fwpkm")


def needles_through_lm_eval(lm: Any, **arguments: Any) -> list[Any]:
    manager = TaskManager(include_path=str(FOLDER), include_defaults=False, metadata=arguments)
    with lengths_in_tokens_of(lm):
        tasks = manager.load(["fwpkm_niah"])["tasks"]
    results = lm_eval.simple_evaluate(model=lm, tasks=list(tasks.values()), task_manager=manager, bootstrap_iters=0)
    found: list[Any] = results["samples"]["fwpkm_niah"]
    return found


@pytest.mark.parametrize(
    ("passes", "write_chunk"), [(0, "haystack"), (1, "haystack"), (2, "haystack"), (1, 128), (2, 100)]
)
def test_a_needle_gets_the_same_answer_and_log_probability_as_through_niah(passes: int, write_chunk: int | str) -> None:
    lm = FwPKMLM(shipped(), memory="request" if passes else "off", passes=passes, write_chunk=write_chunk, quiet=True)
    settings = NiahSettings(lengths=(512,), passes=(passes,), write_chunks=(write_chunk,), samples=2, seed=3)
    ours = evaluate_niah(shipped(), load_set("embedded", "manual", "test"), settings, ByteTokenizer()).answers
    theirs = needles_through_lm_eval(lm, length=512, samples=2, seed=3)
    assert len(ours) == len(theirs) == 2
    for answer, sample in zip(ours, theirs, strict=True):
        generated, (logprob, _) = sample["filtered_resps"]
        assert logprob == answer.logprob  # to the last bit
        assert generated[:6] == answer.answered
        assert sample["target"] == answer.expected
        assert sample["exact_match"] == float(answer.exact)
        assert sample["digit_accuracy"] == answer.digits_right / 6
    if passes:
        assert all(sample["exact_match"] == 1 for sample in theirs)
        assert all(sample["filtered_resps"][1][1] for sample in theirs)


def requests_of_both_kinds() -> tuple[list[Any], list[Any]]:
    contexts = [text(seed, 60) for seed in range(4)]
    scored = [request("loglikelihood", context, f" {word}") for context in contexts for word in ("six", "nine ten")]
    options = {"until": ["\n"], "max_gen_toks": 8}
    drawn = {"until": [], "max_gen_toks": 8, "do_sample": True, "temperature": 1.5}
    generated = [request("generate_until", context, how) for context in contexts for how in (options, drawn)]
    return scored, generated


@pytest.mark.parametrize("settings", [{}, {"passes": 2, "write_chunk": 32}, {"memory": "off"}])
def test_order_and_batch_size_change_nothing(settings: dict[str, Any]) -> None:
    scored, generated = requests_of_both_kinds()
    lm = tiny(**settings)
    expected = lm.loglikelihood(scored), lm.generate_until(generated)
    assert len(set(expected[0])) == len(scored)
    order = random.Random(4).sample(range(8), 8)
    again = tiny(batch_size=7, **settings)
    assert again.loglikelihood([scored[at] for at in order]) == [expected[0][at] for at in order]
    assert again.generate_until([generated[at] for at in order]) == [expected[1][at] for at in order]
    alone = [tiny(**settings).loglikelihood([one])[0] for one in scored[:2]]
    assert alone == expected[0][:2]


def test_a_context_is_read_once_for_all_its_requests() -> None:
    context = text(1, 40)
    endings = [" one", " twelve", " two two"]
    lm = tiny()
    together = lm.loglikelihood([request("loglikelihood", context, ending) for ending in endings])
    assert lm.tokens_read == len(context) + sum(len(ending) - 1 for ending in endings)
    apart = [tiny().loglikelihood([request("loglikelihood", context, ending)])[0] for ending in endings]
    assert together == apart


@pytest.mark.parametrize("passes", [0, 2])
def test_a_score_is_that_of_the_model_called_by_hand(passes: int) -> None:
    model = tiny_model(TINY).eval()
    context, ending = text(2, 40), " three"
    tokens = torch.tensor([list(context.encode())])
    with torch.no_grad():
        state = model.initial_state()
        for _ in range(passes):
            _, state = model(tokens, state.fresh_sequence(), write_chunk=50)
            state = model.flush(state)
        how = "off" if passes else "stream"
        _, state = model(tokens[:, :-1], state.fresh_sequence(), updates=how, write_chunk=50)
        wanted = torch.tensor([list(ending.encode())])
        last, state = model(tokens[:, -1:], state, updates=how, write_chunk=50)
        rest, _ = model(wanted[:, :-1], state, updates="off")
        logprobs = torch.log_softmax(torch.cat([last, rest], 1)[0].double(), -1)
    expected = float(logprobs.gather(1, wanted[0, :, None]).sum())
    lm = FwPKMLM(model, passes=passes, write_chunk=50, quiet=True)
    ((logprob, greedy),) = lm.loglikelihood([request("loglikelihood", context, ending)])
    assert logprob == pytest.approx(expected, abs=1e-4)
    assert not greedy
    frozen = FwPKMLM(model, memory="off", quiet=True).loglikelihood([request("loglikelihood", context, ending)])
    assert frozen[0][0] != pytest.approx(expected, abs=1e-4)


def test_what_passes_memorise_is_the_field_of_the_document_or_the_context() -> None:
    haystack, question = text(3, 40), " and then?"
    lm = tiny(passes=1, write_chunk="haystack")
    named = lm.loglikelihood([request("loglikelihood", haystack + question, " six", doc={"haystack": haystack})])
    assert lm.tokens_read == 2 * len(haystack) + len(question) + 3
    other = tiny(passes=1, write_chunk="haystack", memorise="passage")
    assert (
        other.loglikelihood([request("loglikelihood", haystack + question, " six", doc={"passage": haystack})]) == named
    )
    whole = tiny(passes=1, write_chunk="haystack").loglikelihood(
        [request("loglikelihood", haystack + question, " six")]
    )
    assert whole[0][0] != named[0][0]


def test_a_carried_memory_goes_from_request_to_request_in_their_order() -> None:
    asked = [request("loglikelihood", text(seed, 60), " six") for seed in (1, 2, 1)]
    fresh = tiny().loglikelihood(asked)
    assert fresh[0] == fresh[2]
    lm = tiny(memory="stream")
    carried = lm.loglikelihood(asked)
    assert carried[0] == fresh[0]
    assert carried[1] != fresh[1]
    assert carried[2] != carried[0]
    # The memory stays with the model, and neighbours with one context are one reading.
    assert lm.loglikelihood([asked[0]]) != [carried[0]]
    twice = tiny(memory="stream").loglikelihood([asked[0], asked[0], *asked[1:]])
    assert twice == [carried[0], *carried]


@pytest.mark.parametrize("lookahead", [0, 1])
def test_a_context_as_long_as_a_write_leaves_the_memory_for_the_next(lookahead: int) -> None:
    model = LanguageModel(model_config(TINY, "micro", **{**SIZES, "fwpkm.lookahead": lookahead}), 0).eval()
    asked = [request("loglikelihood", "one, " * words, " six") for words in (8, 4)]
    together = FwPKMLM(model, write_chunk=40, quiet=True).loglikelihood(asked)
    assert FwPKMLM(model, write_chunk=40, quiet=True).loglikelihood(asked[1:]) == together[1:]


DOCUMENTS = tuple(Document(str(seed), text(seed, 100) + "\n") for seed in range(3))
SET = TextSet("words", "test", DOCUMENTS, "path", None, "made for a test", hash_documents(DOCUMENTS))


@pytest.mark.parametrize(
    ("memory", "scope", "frozen"),
    [("request", "document", False), ("off", "document", True), ("stream", "stream", False)],
)
def test_rolling_scores_are_those_of_ppl(memory: str, scope: str, frozen: bool) -> None:
    settings = PerplexitySettings(segment=200, scope=scope, frozen=frozen)
    result = evaluate_perplexity(tiny_model(TINY), SET, settings, ByteTokenizer())
    texts = [request("loglikelihood_rolling", document.text) for document in DOCUMENTS]
    logprobs = tiny(memory=memory, segment=200).loglikelihood_rolling(texts)
    total = float(result.nats[result.byte_counts > 0].sum(dtype="float64"))
    assert -sum(logprobs) == pytest.approx(total, rel=1e-9)
    if memory != "stream":
        assert tiny(memory=memory, segment=200).loglikelihood_rolling(texts[::-1]) == logprobs[::-1]


def test_a_text_is_cut_exactly_where_context_ends() -> None:
    lm = tiny()
    assert lm._encode_pair("it is ", "6") == (list(b"it is "), list(b"6"))
    assert lm.tok_encode("a<|endoftext|>é") == [97, 256, 0xC3, 0xA9]
    assert lm.tok_decode([97, 256, 98]) == "ab"
    (from_nothing,) = lm.loglikelihood([request("loglikelihood", "", "six")])
    (from_the_end,) = lm.loglikelihood([request("loglikelihood", "<|endoftext|>", "six")])
    assert from_nothing == from_the_end
    assert lm.loglikelihood([request("loglikelihood", "one", "")]) == [(0.0, True)]


def test_generation_ends_where_the_task_says() -> None:
    lm = FwPKMLM(shipped(), quiet=True)
    ask = request("generate_until", "The secret number for ID-ab12 is ", {"until": [], "max_gen_toks": 9})
    (whole,) = lm.generate_until([ask])
    assert len(whole) == 9
    stop = whole[3:5]
    ask = request("generate_until", "The secret number for ID-ab12 is ", {"until": [stop], "max_gen_toks": 9})
    assert lm.generate_until([ask]) == [whole[: whole.index(stop)]]
    never = FwPKMLM(EndsAtOnce(), quiet=True)
    assert never.generate_until([request("generate_until", "a", {"until": []})]) == [""]


class EndsAtOnce(torch.nn.Module):
    """A model that ends every document at once."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = tiny_model("gdn")
        self.config, self.has_fast_weights, self.initial_state = self.inner.config, False, self.inner.initial_state

    def forward(self, *arguments: Any, **how: Any) -> tuple[Any, Any]:
        logits, state = self.inner(*arguments, **how)
        return None if logits is None else logits + 1e3 * (torch.arange(257) == 256), state


def test_equal_requests_are_drawn_anew_each_time() -> None:
    how = {"until": [], "max_gen_toks": 12, "do_sample": True, "temperature": 1.0}
    asked = [request("generate_until", "one two", how)] * 3
    drawn = tiny().generate_until(asked)
    assert len(set(drawn)) == 3
    assert tiny().generate_until(asked) == drawn
    with pytest.raises(UserError, match="top_k=5 is not there"):
        tiny().generate_until([request("generate_until", "one", {**how, "top_k": 5})])


def test_it_is_registered_beside_the_built_in_models(tmp_path: Path) -> None:
    from lm_eval.api.registry import get_model, model_registry

    assert get_model("fwpkm") is FwPKMLM
    assert {"hf", "dummy", "fwpkm"} <= set(model_registry)
    folder = tiny_checkpoint(TINY, tmp_path / "tiny")
    arguments = f"pretrained={folder},passes=1,write_chunk=32,quiet=True"
    lm = FwPKMLM.create_from_arg_string(arguments, {"batch_size": "auto", "device": "cpu"})
    assert (lm.settings.passes, lm.settings.write_chunk, lm.settings.memory) == (1, 32, "request")
    assert lm.get_model_info()["model_name"] == TINY


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"pases": 1}, "unknown model argument 'pases', did you mean passes?"),
        ({"memory": "requests"}, "unknown memory 'requests', did you mean request?"),
        ({"memory": "off", "passes": 1}, "memory=off forbids it"),
        ({"passes": -1}, "passes must be 0 or more"),
        ({"write_chunk": 0}, "write chunk 0"),
        ({"write_chunk": "haystak"}, "haystak"),
        ({"segment": "none"}, "none"),
        ({"name": "gdn", "passes": 1}, "no fast weights to memorise with"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(arguments: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words):
        tiny(**arguments)


def test_a_chat_template_and_memorised_rolling_texts_are_refused() -> None:
    with pytest.raises(UserError, match="without a chat template"):
        tiny().apply_chat_template([{"role": "user", "content": "hello"}])
    with pytest.raises(UserError, match="without a chat template"):
        tiny().chat_template(True)
    assert tiny().chat_template() == ""
    with pytest.raises(UserError, match="memorise the very text"):
        tiny(passes=1).loglikelihood_rolling([request("loglikelihood_rolling", "one")])


def test_through_its_tokens_alone_scores_are_the_same() -> None:
    context, ending = text(5, 30), " six"
    asked = [((context, ending), list(context.encode()), list(ending.encode()))]
    assert tiny()._loglikelihood_tokens(asked) == tiny().loglikelihood([request("loglikelihood", context, ending)])
