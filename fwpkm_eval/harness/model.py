"""Our models as a model of the lm-evaluation-harness, registered there as ``fwpkm``.

Requests are read one at a time, since all rows of a batch share one memory; the batch size is taken and changes
nothing. By default each starts from the same fast weights: order cannot change a score either.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lm_eval.models  # noqa: F401 # before a model is registered, or the built-in ones are not
import torch
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from tqdm import tqdm

from fwpkm_eval.api import load_model, tokenizer_of
from fwpkm_eval.errors import UserError
from fwpkm_eval.generation import GREEDY, Sampling, decode, score
from fwpkm_eval.harness.contexts import Context, ContextReader, Ids
from fwpkm_eval.harness.rolling import rolling_logprobs
from fwpkm_eval.harness.settings import reading_settings
from fwpkm_eval.tasks.describe import measuring, yarn_arm
from fwpkm_eval.tasks.lm_eval.text_unit import TextUnit

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from lm_eval.api.instance import Instance


END_OF_DOCUMENT = "<|endoftext|>"
"""How a text says that a document ends: read as the tokenizer's end token, as other models read theirs."""


@register_model("fwpkm")
class FwPKMLM(TemplateLM):
    """A model of the paper's notation, or the folder of a checkpoint, for lm-eval.

    Args:
        pretrained: a name (``gdn+swa:fwpkm``; in lm-eval's own command line without layers, whose commas it takes for
            the next argument), a checkpoint's folder, or a model that is loaded already.
        scale, seed, device, dtype: as `fwpkm_eval.load_model` takes them; of no use with a loaded model.
        max_gen_toks: tokens to generate where a task does not say.
        quiet: no progress bar.
        batch_size, max_batch_size: taken, and of no effect.
        reading: fields of `harness.settings.ReadingSettings`: memory, passes, write_chunk, memorise, segment, block.

    Raises:
        UserError: no such model, or arguments that are unknown or do not fit.
    """

    def __init__(
        self,
        pretrained: str | Path | Any = "gdn+swa:fwpkm",
        *,
        scale: str = "micro",
        seed: int = 0,
        device: str = "auto",
        dtype: str = "float32",
        max_gen_toks: int = 256,
        quiet: bool = False,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        **reading: Any,
    ) -> None:
        super().__init__()
        self.settings = reading_settings(reading)
        self.model = _model(pretrained, scale, device, seed, dtype)
        if self.settings.passes and not self.model.has_fast_weights:
            raise UserError(f"{self.model.config.name} has no fast weights to memorise with: leave passes out")
        self.text_tokenizer = tokenizer_of(self.model.config)
        self.max_gen_toks = max_gen_toks
        self.quiet = quiet
        self.tokens_read = self.sequences_with_yarn = 0
        self._stream: ContextReader | None = None

    @property
    def eot_token_id(self) -> int:
        return self.text_tokenizer.eos

    @property
    def device(self) -> Any:
        return self.model.device

    @property
    def tokenizer_name(self) -> str:
        return self.text_tokenizer.name

    @property
    def text_unit(self) -> TextUnit:
        """What our own tasks count lengths in for this model."""
        return TextUnit(self.text_tokenizer.name, self.text_tokenizer, END_OF_DOCUMENT)

    def get_model_info(self) -> dict[str, Any]:
        """What lm-eval's results say of the model."""
        config = self.model.config
        return {"model_name": config.name, "scale": config.scale, "weights_hash": self.model.weights_hash}

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids of a text; ``<|endoftext|>`` in it is the end of a document. Nothing is added to it."""
        ids: list[int] = []
        for number, part in enumerate(string.split(END_OF_DOCUMENT)):
            ids += [self.eot_token_id] * bool(number)
            ids += self.text_tokenizer.encode(part).tolist()
        return ids

    def tok_decode(self, tokens: Iterable[int]) -> str:
        """The text of token ids; ends of documents are left out."""
        return self.text_tokenizer.decode(list(tokens))

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        raise UserError(
            f"{self.model.config.name} is a base model without a chat template: leave --apply_chat_template out"
        )

    def chat_template(self, chat_template: bool | str = False) -> str:
        """None there is; asking for one is an error (see `apply_chat_template`)."""
        if chat_template:
            self.apply_chat_template([])
        return ""

    def drop_carried_memory(self) -> None:
        """Ends what memory ``stream`` carries: the next request starts from the first fast weights."""
        self._stream = None

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Cut exactly where the texts are, if that is between two tokens; else as lm-eval does it for all models."""
        apart = self.tok_encode(context), self.tok_encode(continuation)
        if apart[0] + apart[1] == self.tok_encode(context + continuation):
            return apart
        pair: tuple[list[int], list[int]] = super()._encode_pair(context, continuation)
        return pair

    def loglikelihood(self, requests: list[Instance], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        """(log-probability in nats, whether greedy decoding would give it) of each continuation."""
        asked = []
        for request in requests:
            context, continuation = request.args[:2]
            if context:
                context_ids, ids = self._encode_pair(context, continuation)
            else:
                ids = self.tok_encode(continuation)
                starts = ids[:1] == [self.prefix_token_id]  # the text itself starts as a document does
                context_ids, ids = ([self.prefix_token_id], ids[1:] if starts else ids)
            asked.append(((context, continuation), self._context(context, context_ids, request.doc), tuple(ids)))
        return self._score(asked, disable_tqdm)

    def _loglikelihood_tokens(
        self,
        requests: list[tuple[tuple[str, str], list[int], list[int]]],
        disable_tqdm: bool = False,
        **kwargs: Any,
    ) -> list[tuple[float, bool]]:
        asked = [
            (texts, Context(tuple(context), (), tuple(context)), tuple(continuation))
            for texts, context, continuation in requests
        ]
        return self._score(asked, disable_tqdm)

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """Log-probability in nats of each text, read as `ppl` reads a document (see `harness.rolling`)."""
        texts = [request.args[0] for request in requests]
        logprobs = []
        with self._progress("loglikelihood_rolling", len(texts), disable_tqdm) as progress:
            for text, logprob in zip(texts, self._rolling(texts), strict=True):
                self.cache_hook.add_partial("loglikelihood_rolling", (text,), logprob)
                logprobs.append(logprob)
                progress.update(1)
        return logprobs

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """A text for each context, up to a stop text, the end of a document or the tokens that the task allows.

        Greedy, unless a task asks for a temperature: then drawn with a seed that is a function of the request alone
        (and of how many equal ones came before it).
        """
        answers: dict[int, str] = {}
        seen: Counter[str] = Counter()
        contexts = []
        for request in requests:
            context = request.args[0]
            ids = self.tok_encode(context) or [self.prefix_token_id]
            contexts.append(self._context(context, ids, request.doc))
        with self._progress("generate_until", len(requests), disable_tqdm) as progress, measuring(self.model):
            for number, logits, state in self._visit(contexts):
                context, options = requests[number].args[:2]
                kwargs = dict(normalize_gen_kwargs(options, self.max_gen_toks))
                sampling = _sampling(kwargs, repr((context, options)), seen)
                stops = handle_stop_sequences(kwargs["until"], eos=END_OF_DOCUMENT)
                text = self._generate(logits, state, kwargs["max_gen_toks"], stops, sampling)
                self.cache_hook.add_partial("generate_until", (context, options), text)
                answers[number] = text
                progress.update(1)
        return [answers[number] for number in range(len(requests))]

    def _rolling(self, texts: list[str]) -> Iterator[float]:
        self.sequences_with_yarn += bool(yarn_arm(self.model, self.settings.segment))
        return rolling_logprobs(self.model, self.text_tokenizer, texts, self.settings, self._count)

    def _score(self, asked: list[tuple[Any, Context, Ids]], disable_tqdm: bool) -> list[tuple[float, bool]]:
        found: dict[int, tuple[float, bool]] = {}
        with self._progress("loglikelihood", len(asked), disable_tqdm) as progress, measuring(self.model):
            reader = self._reader()
            for number, logits, state in self._visit([context for _, context, _ in asked], reader):
                texts, _, continuation = asked[number]
                scores = score(
                    self.model,
                    logits,
                    state,
                    reader.tensor(continuation),
                    block=self.settings.block,
                    write_chunk=reader.every,
                    progress=self._count,
                )
                found[number] = scores.logprob, bool(scores.greedy.all())
                if texts is not None:
                    self.cache_hook.add_partial("loglikelihood", texts, found[number])
                progress.update(1)
        return [found[number] for number in range(len(asked))]

    def _visit(self, contexts: list[Context], reader: ContextReader | None = None) -> Iterator[tuple[int, Any, Any]]:
        """Each request's number with the logits and the state after its context; equal contexts are read once.

        A memory that is carried on takes the requests as they come: only neighbours share a reading then.
        """
        reader = reader or self._reader()
        alike: dict[Any, list[int]] = {}
        run = 0
        for number, context in enumerate(contexts):
            if self.settings.memory == "stream" and number and context != contexts[number - 1]:
                run += 1
            alike.setdefault((run, context), []).append(number)
        for (_, context), numbers in alike.items():
            logits, state = reader.after(context)
            self.sequences_with_yarn += state.yarn is not None
            for number in numbers:
                yield number, logits, state

    def _reader(self) -> ContextReader:
        if self.settings.memory != "stream":
            return ContextReader(self.model, self.settings, self._count)
        if self._stream is None:
            self._stream = ContextReader(self.model, self.settings, self._count)
        return self._stream

    def _context(self, text: str, ids: list[int], document: Any) -> Context:
        """The context cut behind what is memorised of it: a field of the task's document, or all of it."""
        memorised = document.get(self.settings.memorise) if isinstance(document, dict) else None
        if isinstance(memorised, str) and memorised and (place := text.find(memorised)) >= 0:
            begin = self.tok_encode(text[: place + len(memorised)])
            if ids[: len(begin)] == begin:
                return Context(tuple(begin), tuple(ids[len(begin) :]), tuple(self.tok_encode(memorised)))
        return Context(tuple(ids), (), tuple(ids))

    def _generate(self, logits: Any, state: Any, limit: int, stops: list[str], sampling: Sampling) -> str:
        ids: list[int] = []
        text = ""
        for step in decode(self.model, logits, state, limit=limit, sampling=sampling, progress=self._count):
            token = int(step.token)
            if token == self.eot_token_id:
                break
            ids.append(token)
            text = self.tok_decode(ids)
            if any(stop and stop in text for stop in stops):
                break
        answer: str = postprocess_generated_text(text, stops, None)
        return answer

    def _count(self, tokens: int) -> None:
        self.tokens_read += tokens

    def _progress(self, what: str, total: int, disable_tqdm: bool) -> Any:
        return tqdm(total=total, desc=what, disable=self.quiet or disable_tqdm)


def _model(pretrained: Any, *how: Any) -> Any:
    return pretrained if isinstance(pretrained, torch.nn.Module) else load_model(pretrained, *how)


def _sampling(options: dict[str, Any], request: str, seen: Counter[str]) -> Sampling:
    """How a request wants its tokens chosen. Raises UserError for ways of drawing that there are not."""
    if not options.get("do_sample") or not options.get("temperature"):
        return GREEDY
    for name, neutral in (("top_p", 1), ("top_k", 0), ("min_p", 0), ("num_beams", 1)):
        if options.get(name, neutral) not in (neutral, None):
            raise UserError(f"{name}={options[name]} is not there: tokens are drawn from all, at a temperature")
    digest = hashlib.sha256(f"{seen[request]} {request}".encode("utf-8", "surrogatepass")).digest()
    seen[request] += 1
    return Sampling(float(options["temperature"]), int.from_bytes(digest[:7], "little"))
