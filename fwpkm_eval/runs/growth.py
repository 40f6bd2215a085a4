"""Whether one run is another with more in it: more lengths, models, sets … of the same settings.

Such a run goes on in the same folder, and only what is missing is measured. Fewer would leave finished cells out of its
report without a word, so that is another run.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

LISTS = (
    *("models", "only", "sets", "lengths", "needles", "passes", "write_chunks", "protocols"),
    *("arms", "scores", "sizes", "seeds", "of"),
)
"""Settings that are lists of what is measured, each entry by itself. Others, such as the depths that needles take by
turns or the order of domains, are part of how each is measured."""
NUMBERS = ("budget_seconds", "seeds")
"""Settings of which a larger number measures all that a smaller one does, and more."""


def is_more_of(there: Mapping[str, Any], here: Mapping[str, Any]) -> bool:
    """Whether the config ``here`` asks for all that ``there`` did, and for more, and for nothing in another way."""
    there, here = _with_seeds(there), _with_seeds(here)
    if there.keys() != here.keys():
        return False
    changed = [name for name in there if _text(there[name]) != _text(here[name])]
    return bool(changed) and all(_holds_more(name, there[name], here[name]) for name in changed)


def is_beside(there: Mapping[str, Any], here: Mapping[str, Any]) -> bool:
    """Whether the two would be one run if ``here`` asked for all that ``there`` did, too."""
    names = [name for name in LISTS if isinstance(there.get(name), list) and isinstance(here.get(name), list)]
    return is_more_of(there, {**here, **{name: [*there[name], *here[name]] for name in names}})


def _holds_more(name: str, old: Any, new: Any) -> bool:
    if isinstance(old, list) and isinstance(new, list):
        # The same name may stand there several times: checkpoints of one model. Another order is no other run.
        return name in LISTS and not Counter(map(_text, old)) - Counter(map(_text, new))
    return name in NUMBERS and type(old) is type(new) and type(new) in (int, float) and new > old


def _with_seeds(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """``reproduce`` leaves out a number of seeds that is 1; with an ablation it then takes that one's own number."""
    if config.get("command") == "reproduce" and "ablation" not in config.get("only", ()):
        return {"seeds": 1, **config}
    return config


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
