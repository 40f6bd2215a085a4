"""Tables as LaTeX that needs the package booktabs and nothing else, in plain ASCII: every engine reads it."""

from __future__ import annotations

import unicodedata

from fwpkm_eval.reporting.table import Cell, Table

MADE = "% Made from rows.csv by `fwpkm-eval report`: edit nothing here. Needs \\usepackage{booktabs}."
"""The first line of every file: what starts otherwise is not ours."""

_WORDS = 40
"""A column flush left with more characters than this in an entry is set as a paragraph."""
_MANY = 6
"""A table of more columns than this is set in smaller type, with less between the columns."""

_SIGNS = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "#": r"\#",
    "$": r"\$",
    "%": r"\%",
    "&": r"\&",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "`": r"\`{}",
    '"': "{''}",
    # Text in TeX's first encoding shows other signs for these three.
    "<": "$<$",
    ">": "$>$",
    "|": "$|$",
    # Behind the end of a row these would be its options.
    "[": "{[}",
    "]": "{]}",
    "*": "{*}",
    "‐": "-",
    "‑": "-",
    "–": "{--}",
    "—": "{---}",
    "‘": r"\textquoteleft{}",
    "’": r"\textquoteright{}",
    "“": r"\textquotedblleft{}",
    "”": r"\textquotedblright{}",
    "…": r"\ldots{}",
    "−": "$-$",
    "±": r"$\pm$",
    "×": r"$\times$",
    "·": r"$\cdot$",
    "°": r"$^\circ$",
    "→": r"$\to$",
    "←": r"$\leftarrow$",
    "≈": r"$\approx$",
    "≠": r"$\neq$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "∞": r"$\infty$",
    "∑": r"$\sum$",
    "√": r"$\surd$",
    "⁄": "/",
    "§": r"\S{}",
    "ß": r"\ss{}",
    "æ": r"\ae{}",
    "Æ": r"\AE{}",
    "œ": r"\oe{}",
    "Œ": r"\OE{}",
    "ø": r"\o{}",
    "Ø": r"\O{}",
    "ł": r"\l{}",
    "Ł": r"\L{}",
    "ı": r"\i{}",
}
_GREEK = {
    "α": "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi o pi rho varsigma sigma tau "
    "upsilon phi chi psi omega",
    # The second sigma is small alone: its capital is no sign at all.
    "Α": "A B Gamma Delta E Z H Theta I K Lambda M N Xi O Pi P - Sigma T Upsilon Phi X Psi Omega",
}
_SIGNS |= {
    chr(ord(first) + at): name if len(name) == 1 else f"$\\{name}$"
    for first, names in _GREEK.items()
    for at, name in enumerate(names.split())
}

_ACCENTS = dict(
    zip("\u0300\u0301\u0302\u0303\u0304\u0306\u0307\u0308\u030a\u030b\u030c\u0327", "`'^~=u.\"rHvc", strict=True)
)
"""Accents that join the letter before them, and what LaTeX calls them."""


def to_latex(table: Table, name: str) -> str:
    """A floating ``table`` with its caption, the label ``tab:name`` and a booktabs ``tabular``.

    The best is bold; columns of published numbers are in italics and never bold.
    """
    title, note = escaped(table.title), escaped(table.note)
    lines = [MADE, r"\begin{table}", r"  \centering", rf"  \caption[{title}]{{{title}.{' ' if note else ''}{note}}}"]
    lines.append(rf"  \label{{tab:{name}}}")
    if len(table.columns) > _MANY:
        lines += [r"  \footnotesize", r"  \setlength{\tabcolsep}{3pt}"]
    lines += [rf"  \begin{{tabular}}{{{_alignment(table)}}}", r"    \toprule"]
    for at, row in enumerate([tuple(map(Cell, table.columns)), *table.rows]):
        lines += [r"    \midrule"] if at == 1 else []
        entries = [_entry(cell, theirs) for cell, theirs in zip(row, table.published, strict=True)]
        lines.append(f"    {' & '.join(entries)} \\\\")
    return "\n".join([*lines, r"    \bottomrule", r"  \end{tabular}", r"\end{table}"]) + "\n"


def escaped(text: str) -> str:
    """``text`` as ASCII LaTeX that shows it; a sign that LaTeX has no plain name for is shown as ``[U+4E2D]``."""
    shown, before = "", ""
    for sign in unicodedata.normalize("NFC", " ".join(text.split())):
        # Two hyphens, or two apostrophes, would join into another sign.
        shown += ("{}" if sign == before and sign in "-'" else "") + _sign(sign)
        before = sign
    return shown


def _sign(sign: str) -> str:
    if sign in _SIGNS:
        return _SIGNS[sign]
    if " " <= sign <= "~":
        return sign
    *kind, parts = unicodedata.decomposition(sign).rpartition("> ")
    signs = [chr(int(part, 16)) for part in parts.split()]
    if len(signs) == 2 and signs[1] in _ACCENTS:
        return rf"\{_ACCENTS[signs[1]]}{{{_sign(signs[0])}}}"
    if not signs:
        return f"{{[}}U+{ord(sign):04X}{{]}}"
    shown = "".join(map(_sign, signs))
    raised = {"<super": r"\textsuperscript", "<sub": r"\textsubscript"}.get(kind[0])
    return f"{raised}{{{shown}}}" if raised else shown


def _entry(cell: Cell, theirs: bool) -> str:
    text = escaped(cell.text)
    return rf"\textit{{{text}}}" if theirs else rf"\textbf{{{text}}}" if cell.strong else text


def _alignment(table: Table) -> str:
    """``l`` for words and ``r`` for values; entries of many words share the width of the text."""
    longest = [max((len(row[at].text) for row in table.rows), default=0) for at in range(len(table.columns))]
    long = [n > _WORDS and not right for n, right in zip(longest, table.to_the_right, strict=True)]
    share = rf"p{{{0.6 / max(sum(long), 1):.2f}\linewidth}}"
    kinds = zip(long, table.to_the_right, strict=True)
    return "".join(share if is_long else "r" if right else "l" for is_long, right in kinds)
