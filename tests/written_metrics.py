"""Which metrics the rows that the code makes can have, read from its source."""

from __future__ import annotations

import ast
import itertools
from collections.abc import Iterator
from pathlib import Path

from fwpkm_eval.bench import models, ops, peers
from fwpkm_eval.tasks import gates
from fwpkm_eval.tasks.niah_rows import INSTEAD

ROOT = Path(__file__).parents[1]
PASSES = sorted({*ops.PASSES, *models.PASSES, *peers.PASSES})
KNOWN = {
    "what": PASSES,
    "case.what": PASSES,
    "number": ["3"],
    "layer": ["3"],
    "CLOSED": [str(gates.CLOSED)],
    "OPEN": [str(gates.OPEN)],
    "INSTEAD": [metric for _, metric in INSTEAD],
}
"""What can stand in the names of metrics, and what loops go over that is of another module."""
LM_EVALS = "result_rows.py"
"""Names its metrics as lm-eval does."""


def written_metrics() -> Iterator[tuple[str, str]]:
    """(Module, metric) of all rows that the code makes, apart from those of lm-eval."""
    for path in sorted(
        {path.resolve() for folder in ("fwpkm_eval", "tasks") for path in (ROOT / folder).rglob("*.py")}
    ):
        text = path.read_text(encoding="utf-8")
        if "Row(" in text and path.name != LM_EVALS:
            found = _Calls()
            found.visit(ast.parse(text))
            yield from ((path.stem, metric) for metric in sorted(found.metrics))


class _Calls(ast.NodeVisitor):
    """Notes what is given as ``metric`` to `Row`, and to functions that make rows and take one, by name or by place."""

    def __init__(self) -> None:
        self.metrics: set[str] = set()
        self.around: list[ast.FunctionDef | ast.Module] = []
        """The module and the functions that the visitor is in, the innermost last."""

    def visit_Module(self, node: ast.Module) -> None:
        self._enter(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._enter(node)

    def _enter(self, node: ast.FunctionDef | ast.Module) -> None:
        self.around.append(node)
        self.generic_visit(node)
        self.around.pop()

    def visit_Call(self, node: ast.Call) -> None:
        name = ast.unparse(node.func)
        place = next((arguments.index("metric") for arguments in self._defined(name) if "metric" in arguments), None)
        given = [keyword.value for keyword in node.keywords if keyword.arg == "metric"]
        if name == "Row":
            self.metrics.update(*map(self._texts, given))
        elif place is not None:
            self.metrics.update(*map(self._texts, given or [node.args[place]]))
        self.generic_visit(node)

    def _defined(self, name: str) -> Iterator[list[str]]:
        """The arguments of functions of this name that make rows, the nearest first."""
        for outer in reversed(self.around):
            for inner in outer.body:
                if isinstance(inner, ast.FunctionDef) and inner.name == name and "Row" in ast.unparse(inner):
                    yield [argument.arg for argument in inner.args.args]

    def _texts(self, given: ast.expr) -> list[str]:
        """All that an expression can be."""
        name = ast.unparse(given)
        if isinstance(given, ast.Constant):
            return [str(given.value)]
        if isinstance(given, ast.JoinedStr):
            parts = [self._texts(part.value if isinstance(part, ast.FormattedValue) else part) for part in given.values]
            return ["".join(chosen) for chosen in itertools.product(*parts)]
        if any(argument.arg == name for outer in self.around for argument in _arguments(outer)) and name == "metric":
            return []  # handed on: whoever calls has named it
        return KNOWN[name] if name in KNOWN else self._looped_over(name)

    def _looped_over(self, variable: str) -> list[str]:
        """What a loop's variable can be: keys of a dict of this function, or what is known."""
        for loop in ast.walk(self.around[-1]):
            if isinstance(loop, ast.For | ast.comprehension) and variable in _names(loop.target):
                (over,) = _names(loop.iter)
                return KNOWN[over] if over in KNOWN else self._keys(over)
        raise AssertionError(f"it is not known what the metric {variable} can be")

    def _keys(self, variable: str) -> list[str]:
        for node in ast.walk(self.around[-1]):
            if isinstance(node, ast.Assign | ast.AnnAssign) and isinstance(node.value, ast.Dict):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                if [variable] == [ast.unparse(target) for target in targets]:
                    return [ast.literal_eval(key) for key in node.value.keys if key is not None]
        raise AssertionError(f"it is not known what {variable} holds")


def _arguments(node: ast.FunctionDef | ast.Module) -> list[ast.arg]:
    return node.args.args if isinstance(node, ast.FunctionDef) else []


def _names(node: ast.expr) -> list[str]:
    return [part.id for part in ast.walk(node) if isinstance(part, ast.Name)]
