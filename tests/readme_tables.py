"""The tables of README.md and results/README.md, made from the stored rows: `python tests/readme_tables.py`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path

import pandas

from fwpkm_eval.ablations import ARMS, REFERENCE
from fwpkm_eval.reporting.training_seeds import COLUMN as TRAINING_SEED
from fwpkm_eval.reporting.training_seeds import with_training_seeds
from fwpkm_eval.runs.manifest import load_manifest
from fwpkm_eval.runs.rows import FROZEN, arm_without_yarn, read_rows_csv, rows_to_frame
from fwpkm_eval.tasks.compressors import COMPRESSORS

ROOT = Path(__file__).resolve().parents[1]
PAGES = (ROOT / "README.md", ROOT / "results" / "README.md")

MODELS = (
    "gdn+swa",
    "gdn+swa:pkm@1,3",
    "gdn+swa:fwmlp@1,3",
    "gdn+swa:lact@1,3",
    "gdn+swa:fwpkm@1,3",
    "gdn+swa:pkm@2+fwpkm@1,3",
    "gdn+fa",
    "gdn+fa:fwpkm@1,3",
)
WRITERS = (
    "gdn+swa:fwmlp@1,3",
    "gdn+swa:lact@1,3",
    "gdn+swa:fwpkm@1,3",
    "gdn+swa:pkm@2+fwpkm@1,3",
    "gdn+fa:fwpkm@1,3",
)
BACKBONE, WITH_MEMORY, WITH_BOTH = "gdn+swa", "gdn+swa:fwpkm@1,3", "gdn+swa:pkm@2+fwpkm@1,3"
PKM, FWMLP, LACT = "gdn+swa:pkm@1,3", "gdn+swa:fwmlp@1,3", "gdn+swa:lact@1,3"
FULL, FULL_WITH_MEMORY = "gdn+fa", "gdn+fa:fwpkm@1,3"
TRAININGS = {
    BACKBONE: {0: "micro", 1: "micro-backbone-seeds", 2: "micro-backbone-seeds"},
    PKM: {0: "micro", 1: "micro-pkm-seeds", 2: "micro-pkm-seeds"},
    FWMLP: {0: "micro", 1: "micro-fwmlp-seeds", 2: "micro-fwmlp-seeds"},
    LACT: {0: "micro", 1: "micro-lact-seeds", 2: "micro-lact-seeds"},
    WITH_MEMORY: {0: "micro", 1: "micro-seeds", 2: "micro-seeds"},
    WITH_BOTH: {0: "micro", 1: "micro-pkm-fwpkm-seeds", 2: "micro-pkm-fwpkm-seeds"},
    FULL: {0: "micro", 1: "micro-fa-seeds"},
    FULL_WITH_MEMORY: {0: "micro", 1: "micro-fa-seeds"},
}
"""The folder of each training of the models that were trained more than once, by seed."""
TRAINED_OTHERWISE: tuple[tuple[str, str, dict[str, Sequence[int]]], ...] = (
    ("micro-few", "fewer needles", {BACKBONE: (0, 1), WITH_MEMORY: (0, 1)}),
    ("micro-long", "four times as long", {BACKBONE: (0,), WITH_MEMORY: (0,)}),
    ("micro-conv", "convolution over 16 bytes", {BACKBONE: (0,)}),
)
"""Folder, what is unusual in model or recipe, and the seeds of each model."""
SETS = ("source", "docs", "manual")
WITH_MATCHES = "bits_per_byte_with_match_model"
BOOK_SETS = ("books", "lambada_openai", "fineweb_edu", "wikitext2_raw")
BOOK_RUNS: tuple[tuple[str, str, dict[str, Sequence[int]]], ...] = (
    ("books", "text and needles", {BACKBONE: (0, 1), "gdn+swa:pkm@1,3": (0, 1)}),
    ("books-fwpkm", "text and needles", {WITH_MEMORY: (0, 1)}),
    ("books-few", "text and fewer needles", {BACKBONE: (0, 1), WITH_MEMORY: (0, 1)}),
    ("books-text", "text alone", {BACKBONE: (0,)}),
    ("books-text-fwpkm", "text alone", {BACKBONE: (1,), WITH_MEMORY: (0, 1)}),
    ("books-text-no-conv", "text alone, no query convolution", {WITH_MEMORY: (0, 1)}),
)
"""Folder, how its models were trained, and the seeds of each in the order measured."""
BOOKS_MATCHED = (0, 1)
"""The seeds of both models that were read beside a match model."""
ONE_WRITE, OFTEN = ("haystack", "one write"), ("1024", "every 1,024")
HELD = (
    ("micro", 5, 4096, 20, ONE_WRITE),
    ("micro", 5, 4096, 20, OFTEN),
    ("micro", 64, 4096, 20, ONE_WRITE),
    ("needles-16k", 256, 16384, 50, ONE_WRITE),
    ("needles-16k", 256, 16384, 50, OFTEN),
    ("needles-32k", 5, 32768, 20, ONE_WRITE),
    ("needles-32k", 5, 32768, 20, OFTEN),
    ("needles-128k-memories", 5, 131072, 5, ONE_WRITE),
    ("needles-128k-memories", 5, 131072, 5, OFTEN),
)
SHOWN = ((512, 20, OFTEN), (4096, 20, OFTEN), *((n, 5, how) for n in (32768, 131072) for how in (OFTEN, ONE_WRITE)))


@cache
def rows_of(name: str) -> pandas.DataFrame:
    folder = ROOT / "results" / name
    frame = with_training_seeds(rows_to_frame(read_rows_csv(folder / "rows.csv")), load_manifest(folder))
    return frame.assign(arm=frame["arm"].map(arm_without_yarn))


def found(frame: pandas.DataFrame, model: str, **asked: object) -> str:
    """``100% (84–100)``: the best of all numbers of readings, with that setting's 95% interval."""
    rows = frame[(frame["task"] == "niah") & (frame["metric"] == "exact_match") & frame["depth"].isna()]
    for column, value in {"model": model, **asked}.items():
        rows = rows[rows[column] == value]
    if rows.empty:
        return "–"
    top = max(rows.to_dict("records"), key=lambda row: float(row["value"]))
    return f"{100 * top['value']:.0f}% ({100 * top['ci_low']:.0f}–{100 * top['ci_high']:.0f})"


def bits(frame: pandas.DataFrame, model: str, dataset: str, arm: str = "", metric: str = "bits_per_byte") -> str:
    rows = frame[(frame["task"] == "ppl") & (frame["metric"] == metric) & (frame["arm"] == arm)]
    rows = rows[(rows["model"] == model) & (rows["dataset"] == dataset)]
    return "–" if rows.empty else f"{rows['value'].item():.3f}"


def table(head: Sequence[str], lines: Iterable[Sequence[str]], words: int = 1) -> str:
    rule = ["---"] * words + ["---:"] * (len(head) - words)
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, rule, *lines))


def size(tokens: int) -> str:
    return f"{tokens // 1024}K" if tokens >= 1024 else str(tokens)


def closed_book() -> str:
    lines = []
    for run, needles, length, samples, (chunk, words) in HELD:
        asked = {"needles": needles, "length": length, "write_chunk": chunk, "protocol": "closed-book"}
        cells = [found(rows_of(run), model, **asked) for model in WRITERS]
        lines.append([f"{needles} needles in {size(length)}, {words} (n = {samples})", *cells])
    return table(["asked with nothing in sight", *(f"`{model}`" for model in WRITERS)], lines)


def open_book() -> str:
    lines = []
    for model in MODELS:
        cells = []
        for length, _, (chunk, _) in SHOWN:
            asked = {"needles": 5, "length": length, "write_chunk": chunk, "protocol": "open-book"}
            frame = same_weights(rows_of("needles-128k")) if length == 131072 else rows_of("micro")
            cells.append(found(frame, model, **asked))
        lines.append([f"`{model}`", *cells])
    heads = []
    for length, samples, (_, words) in SHOWN:
        # 512 tokens end before a write every 1,024 is due: they are one write.
        heads.append(f"{size(length)}{'' if length < 1024 else f', {words}'} (n = {samples})")
    return table(["5 needles in", *heads], lines)


def same_weights(frame: pandas.DataFrame) -> pandas.DataFrame:
    """The rows of models that `micro` is about: older trainings of the same name are told of in words."""
    return frame[frame["weights_hash"].isin(set(rows_of("micro")["weights_hash"]))]


def text() -> str:
    lines = []
    for model in MODELS:
        lines.append(
            [f"`{model}`", *(bits(rows_of("micro"), model, name, arm) for name in SETS for arm in ("", FROZEN))]
        )
    for name in COMPRESSORS:
        lines.append([name, *(cell for one in SETS for cell in (bits(rows_of("micro"), name, one), "–"))])
    return table(["bits per byte", *(head for name in SETS for head in (f"`{name}`", "writes off"))], lines)


def copying() -> str:
    """Bits per byte of each model's mixture with a match model, as it reads and with writes off."""
    asked = [(name, arm) for name in SETS for arm in ("", FROZEN)]
    lines = [
        [f"`{model}`", *(bits(rows_of("micro-match"), model, name, arm, WITH_MATCHES) for name, arm in asked)]
        for model in MODELS
    ]
    return table(["with match model", *(head for name in SETS for head in (f"`{name}`", "writes off"))], lines)


def trainings() -> str:
    """A line for each training of the models that were trained more than once."""
    asked = (*_needles_asked(), *((f"`{name}`", _bits_of(name)) for name in SETS))
    lines = []
    for model, seeds in TRAININGS.items():
        for seed in seeds:
            frame = trained(model, seed)
            lines.append([f"`{model}`", str(seed), *(tell(frame, model) for _, tell in asked)])
    for name, how, models in TRAINED_OTHERWISE:
        for model, seeds_so in models.items():
            for seed in seeds_so:
                frame = of_training(rows_of(name), seed)
                lines.append([f"`{model}`, {how}", str(seed), *(tell(frame, model) for _, tell in asked)])
    return table(["model", "seed", *(label for label, _ in asked)], lines)


def trained(model: str, seed: int) -> pandas.DataFrame:
    """The rows of one training of a model."""
    frame = rows_of(TRAININGS[model][seed])
    frame = frame[frame["model"] == model]
    return of_training(frame, seed) if seed else frame


def on_books() -> str:
    """A line for each training on books, and one for the same with writes off."""
    asked = _needles_asked()
    lines = []
    trained_so = [(model, name, kind, seeds) for name, kind, models in BOOK_RUNS for model, seeds in models.items()]
    for model, name, kind, seeds in sorted(trained_so, key=lambda one: MODELS.index(one[0])):
        asks = "needles" in kind
        for number, seed in enumerate(seeds):
            frame = of_training(rows_of(name), seed) if asks else in_order(rows_of(name), model, number)
            for arm, off in (("", ""), (FROZEN, ", writes off")):
                found = [bits(frame, model, one, arm) for one in BOOK_SETS]
                if set(found) == {"–"}:
                    continue
                needles = [tell(frame, model) if asks and not off else "–" for _, tell in asked]
                lines.append([f"`{model}`", f"{kind}, {seed}{off}", *found, *needles])
    heads = ["model", "trained with, seed", *(f"`{one}`" for one in BOOK_SETS), *(label for label, _ in asked)]
    return table(heads, lines, words=2)


def copying_on_books() -> str:
    """A line for each training on books and text alone: bits per byte without and with a match model."""
    lines = []
    for model in (BACKBONE, WITH_MEMORY):
        for seed in BOOKS_MATCHED:
            frame = of_training(rows_of("books-match"), seed)
            cells = [
                bits(frame, model, name, "", what) for name in BOOK_SETS for what in ("bits_per_byte", WITH_MATCHES)
            ]
            lines.append([f"`{model}`", str(seed), *cells])
    return table(["model", "seed", *(head for name in BOOK_SETS for head in (f"`{name}`", "with match model"))], lines)


def ablated() -> str:
    """A line for each model of the ablation in full."""
    frame = rows_of("ablation-full")
    asked = [(needles, how) for needles in (5, 64) for how in (ONE_WRITE, OFTEN)]
    lines = []
    order = [REFERENCE, *ARMS]
    for (arm, score), own in sorted(frame.groupby(["arm", "score"]), key=lambda group: order.index(str(group[0][0]))):
        cells = []
        for needles, (chunk, _) in asked:
            rows = own[(own["metric"] == "exact_match") & (own["needles"] == needles) & (own["write_chunk"] == chunk)]
            cells.append(" / ".join(f"{100 * value:.0f}" for value in rows.sort_values("passes")["value"]) + "%")
        (text,) = own[own["metric"] == "bits_per_byte"]["value"]
        lines.append([str(arm), str(score), *cells, f"{text:.3f}"])
    heads = (f"{needles} in 4K, {words}" for needles, (_, words) in asked)
    return table(["what it is", "scoring", *heads, "`source`"], lines, words=2)


def _needles_asked() -> tuple[tuple[str, Callable[[pandas.DataFrame, str], str]], ...]:
    return (
        ("5 in 4K", _asked(5, 4096, "haystack")),
        ("64 in 4K", _asked(64, 4096, "haystack")),
        ("256 in 16K", _asked(256, 16384, "haystack")),
        ("5 in 32K", _asked(5, 32768, "haystack")),
        ("5 in 32K, every 1,024", _asked(5, 32768, "1024")),
    )


def _asked(needles: int, length: int, chunk: str) -> Callable[[pandas.DataFrame, str], str]:
    how = {"needles": needles, "length": length, "write_chunk": chunk, "protocol": "closed-book"}
    return lambda frame, model: found(frame, model, **how).partition(" ")[0]


def _bits_of(name: str) -> Callable[[pandas.DataFrame, str], str]:
    return lambda frame, model: bits(frame, model, name)


def of_training(frame: pandas.DataFrame, seed: int) -> pandas.DataFrame:
    """The rows of the weights that were trained with a seed, which an older manifest does not say: there needles have
    it, too, and text is read with one seed for all of them."""
    if TRAINING_SEED in frame:
        return frame[frame[TRAINING_SEED] == seed]
    own = set(frame[(frame["task"] == "niah") & (frame["seed"] == seed)]["weights_hash"])
    return frame[frame["weights_hash"].isin(own)]


def in_order(frame: pandas.DataFrame, model: str, number: int) -> pandas.DataFrame:
    """The rows of a model's first, second, … weights in a run that measured them one after the other."""
    weights = list(dict.fromkeys(frame[frame["model"] == model]["weights_hash"]))
    return frame[frame["weights_hash"].isin(weights[number : number + 1])]


def speed() -> str:
    frame = rows_of("bench-paper")
    lines = []
    for label, arm, name in (
        ("forward, in place (as models run it)", "scan/torch in place", "forward"),
        ("forward, copying the memory given", "scan/torch", "forward"),
        ("forward + backward to query, target, gate, in place", "scan/torch in place", "training"),
        ("forward + backward to first keys and values too, copying", "scan/torch", "forward_backward"),
    ):
        lines.append([label, *(_ratio(frame, f"{arm}{malloc}", name) for malloc in (", tuned malloc", ""))])
    return table(
        ["backend `torch`", "malloc told to keep freed memory, as our commands run", "malloc as the system has it"],
        lines,
    )


def _ratio(frame: pandas.DataFrame, arm: str, name: str) -> str:
    """``18.2× (16.5–39.7), 1/1120``: times as fast with percentiles, memory as a part of the reference's."""
    rows = frame[frame["arm"] == arm]
    fast = rows[rows["metric"] == f"speedup_{name}"].iloc[0]
    part = 1 / rows[rows["metric"] == f"memory_over_reference_{name}"].iloc[0]["value"]
    low, high = (f"{fast[bound]:.3g}" for bound in ("ci_low", "ci_high"))
    return f"{fast['value']:.3g}× ({low}–{high}), 1/{f'{part:,.0f}' if part >= 100 else f'{part:.3g}'}"


TABLES: dict[str, Callable[[], str]] = {
    "speed": speed,
    "closed book": closed_book,
    "open book": open_book,
    "text": text,
    "copying": copying,
    "trainings": trainings,
    "books": on_books,
    "copying on books": copying_on_books,
    "ablated": ablated,
}


def block(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {name}: made by tests/readme_tables.py -->\n)(.*?)(\n\n)", re.DOTALL)


def page_of(name: str) -> Path:
    """The page that holds a table."""
    [page] = [page for page in PAGES if block(name).search(page.read_text(encoding="utf-8"))]
    return page


def main() -> None:
    for name, make in TABLES.items():
        page, made = page_of(name), make()
        page.write_text(block(name).sub(f"\\g<1>{made}\\g<3>", page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
