"""What the report may say about a text set: what it stands in for, and where it is from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from fwpkm_eval.data.corpora.catalog import CORPORA
from fwpkm_eval.reporting.published import STANDS_IN_FOR


@dataclass(frozen=True)
class SetFacts:
    """The sets of one run: ``stand_ins`` maps a set to the corpus it stands in for, ``corpora`` one that is a published
    corpus to its title, ``origins`` a set to words.

    Without a manifest the embedded sets are known by their names.
    """

    stand_ins: Mapping[str, str] = field(default_factory=lambda: dict(STANDS_IN_FOR))
    origins: Mapping[str, str] = field(default_factory=dict)
    corpora: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any] | None) -> SetFacts:
        """From the manifest's ``data``: a mapping of set names to ``stands_in_for``, ``origin``, …

        A manifest whose config says that the data is not embedded has no stand-ins beyond those it names: a
        user's own set may well be called ``docs``.
        """
        if manifest is None:
            return cls()
        named = {name: facts for name, facts in dict(manifest.get("data") or {}).items() if isinstance(facts, Mapping)}
        stand_ins = {name: str(facts["stands_in_for"]) for name, facts in named.items() if facts.get("stands_in_for")}
        data = dict(manifest.get("config") or {}).get("data", "embedded")
        if data == "embedded":
            stand_ins = {**STANDS_IN_FOR, **stand_ins}
        corpora = {name: corpus.title for name, corpus in CORPORA.items() if name in named} if data == "hub" else {}
        origins = {name: str(facts["origin"]) for name, facts in named.items() if facts.get("origin")}
        return cls(stand_ins, origins, corpora)

    def published_name(self, dataset: str) -> str | None:
        """The published corpus whose numbers may stand beside this set's; None for a user's own text."""
        return self.corpora.get(dataset) or self.stand_ins.get(dataset)

    def is_stand_in(self, dataset: str) -> bool:
        """Whether the set is other text in the place of a published corpus."""
        return dataset in self.stand_ins

    def title(self, dataset: str) -> str:
        """``source (stand-in for LC64)``."""
        corpus = self.stand_ins.get(dataset)
        return f"{dataset} (stand-in for {corpus})" if corpus else self.corpora.get(dataset, dataset)
