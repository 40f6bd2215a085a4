"""Tables as CSV and LaTeX: every text comes out as text, the best is bold, what others published is not ours."""

from __future__ import annotations

import csv
import io
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from fwpkm_eval.reporting import build_report
from fwpkm_eval.reporting.exports import file_names, to_csv, write_tables
from fwpkm_eval.reporting.latex import MADE, escaped, to_latex
from fwpkm_eval.reporting.table import Cell, Table
from fwpkm_eval.reporting.tables import build_tables
from fwpkm_eval.runs.rows import Row, read_rows_csv, rows_to_frame, write_rows_csv

STORED = Path(__file__).parents[1] / "results"
HOSTILE = "\\input{/etc/passwd}%_&#$^~{}[x]\n\\\\*\\end{tabular}--`q'' “é” 中 \u202e µ ± ² −"
COMMANDS = """
textbackslash textasciitilde textasciicircum textquoteleft textquoteright textquotedblleft textquotedblright
textbf textit textsuperscript textsubscript ldots pm times cdot circ to approx infty leq surd mu alpha lambda Sigma
Omega ss ae c r v H u S
"""


def stored_tables() -> list[Table]:
    """The tables of the runs that are stored with the project."""
    runs = sorted(path.parent for path in STORED.glob("*/rows.csv"))
    assert runs
    return [table for run in runs for table in build_tables(rows_to_frame(read_rows_csv(run / "rows.csv")))]


def table_of(name: str, text: str) -> Table:
    rows = ((Cell(text), Cell("1.5", strong=True), Cell("2.5")), (Cell("[b]"), Cell(text), Cell(text)))
    return Table(name, f"T {text}", ("model", "value", "published value"), rows, note=text)


def row_entries(line: str) -> list[str]:
    """The entries of one line of a tabular."""
    assert line.endswith(r" \\")
    return [entry.strip() for entry in re.split(r"(?<!\\)&", line.removesuffix(r" \\"))]


def check_text(text: str) -> None:
    """Whether LaTeX would read this as text: ASCII, closed braces and formulas, no command that is not meant."""
    assert text.isascii()
    assert set(re.findall(r"\\([A-Za-z]+)", text)) <= set(COMMANDS.split()), text
    bare = re.sub(r"\\[A-Za-z]+|\\[^A-Za-z]", "", text)
    assert not set(bare) & set("\\%&#_^~") - ({"^"} if r"$^\circ$" in text else set()), bare
    assert bare.count("$") % 2 == 0
    depth = 0
    for sign in bare:
        depth += {"{": 1, "}": -1}.get(sign, 0)
        assert depth >= 0, bare
    assert depth == 0


def check_table(latex: str, columns: int) -> list[list[str]]:
    """Whether a file has the shape of a booktabs table; returns the entries, the header first."""
    first, *rest = latex.splitlines()
    assert first == MADE
    lines = [line.strip() for line in rest]
    marks = [lines.index(mark) for mark in (r"\toprule", r"\midrule", r"\bottomrule", r"\end{tabular}", r"\end{table}")]
    assert marks == sorted(marks)
    assert marks[-1] == len(lines) - 1
    (begin,) = [line for line in lines if line.startswith(r"\begin{tabular}")]
    alignment = begin.removeprefix(r"\begin{tabular}{").removesuffix("}")
    assert len(re.sub(r"p\{[\d.]+\\linewidth\}", "p", alignment)) == columns
    (caption,) = [line for line in lines if line.startswith(r"\caption[")]
    check_text(caption.removeprefix(r"\caption"))
    entries = [row_entries(line) for line in lines[marks[0] + 1 : marks[2]] if line != r"\midrule"]
    for row in entries:
        assert len(row) == columns, row
        for entry in row:
            assert not entry.startswith(("[", "*")), "an option of the row before"
            check_text(entry)
    return entries


@pytest.mark.parametrize(
    ("text", "latex"),
    [
        ("50% of_it & #3 $", r"50\% of\_it \& \#3 \$"),
        ("85 ± 6", r"85 $\pm$ 6"),
        ("−14.0% (64–95)", r"$-$14.0\% (64{--}95)"),
        ("128² × 4 µs", r"128\textsuperscript{2} $\times$ 4 $\mu$s"),
        ("α λ Σ Ω ο Α", r"$\alpha$ $\lambda$ $\Sigma$ $\Omega$ o A"),
        ("{a}\\b^c~d`", r"\{a\}\textbackslash{}b\textasciicircum{}c\textasciitilde{}d\`{}"),
        ("<a> | [b] *", "$<$a$>$ $|$ {[}b{]} {*}"),
        ("--sets a---b", r"-{}-sets a-{}-{}-b"),
        ("Gödel, Erdős, Ångström, ß", r"G\"{o}del, Erd\H{o}s, \r{A}ngstr\"{o}m, \ss{}"),
        ("e\u0301 ½ ﬁ x₂", r"\'{e} 1/2 fi x\textsubscript{2}"),
        ("中 \u202e", r"{[}U+4E2D{]} {[}U+202E{]}"),
        ("a\n\tb\u00a0c", "a b c"),
        ("“q” … don't", r"\textquotedblleft{}q\textquotedblright{} \ldots{} don't"),
    ],
)
def test_text_is_escaped(text: str, latex: str) -> None:
    assert escaped(text) == latex
    check_text(escaped(text))


def test_every_sign_of_the_first_plane_is_text() -> None:
    for code in (*range(0x20, 0xD800), *range(0xE000, 0x10000)):
        shown = escaped(f"a{chr(code)}b")
        assert shown.isascii()
        opened, closed = (len(re.findall(rf"(?<!\\){sign}", shown)) for sign in ("{", "}"))
        assert opened == closed, (hex(code), shown)


def test_the_tables_of_the_stored_runs_have_their_shape_in_latex() -> None:
    bold = 0
    for table in stored_tables():
        header, *entries = check_table(to_latex(table, table.name), len(table.columns))
        assert len(entries) == len(table.rows)
        for row, cells in zip(entries, table.rows, strict=True):
            for column, name, entry, cell in zip(table.columns, header, row, cells, strict=True):
                theirs = column.startswith("published")
                assert theirs == entry.startswith(r"\textit{") == name.startswith(r"\textit{"), column
                assert entry.startswith(r"\textbf{") == cell.strong
                bold += cell.strong
                assert not (theirs and r"\textbf" in entry)
    assert bold > 3


def test_a_published_number_cannot_be_the_best() -> None:
    with pytest.raises(ValueError, match="published number"):
        Table("t", "T", ("model", "published"), ((Cell("a"), Cell("1", strong=True)),))


def test_hostile_names_stay_text_in_their_entry() -> None:
    header, first, second = check_table(to_latex(table_of("t", HOSTILE), "t"), 3)
    assert header[2] == r"\textit{published value}"
    assert first[1:] == [r"\textbf{1.5}", r"\textit{2.5}"]
    assert second[0] == "{[}b{]}"
    assert first[0] == second[1] == escaped(HOSTILE)
    assert r"\textbackslash{}input\{/etc/passwd\}\%\_\&\#\$" in first[0]


def test_csv_holds_the_texts_as_they_are_shown() -> None:
    table = table_of("t", HOSTILE)
    lines = list(csv.reader(io.StringIO(to_csv(table), newline="")))
    assert lines == [list(table.columns), [HOSTILE, "1.5", "2.5"], ["[b]", HOSTILE, HOSTILE]]


def test_files_are_written_for_every_table_and_old_ones_go(tmp_path: Path) -> None:
    first, second = table_of("a", "x"), table_of("b", "ü")
    written = write_tables([first, second], tmp_path)
    assert [path.name for path in written] == ["a.csv", "a.tex", "b.csv", "b.tex"]
    assert "ü" in (tmp_path / "b.csv").read_text(encoding="utf-8")
    assert (tmp_path / "b.tex").read_text(encoding="ascii") == to_latex(second, "b")
    for name in ("mine.tex", "mine.csv", "notes.csv"):
        (tmp_path / name).write_text("mine")
    write_tables([first], tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"a.csv", "a.tex", "mine.csv", "mine.tex", "notes.csv"}


def test_tables_of_one_name_do_not_overwrite_each_other() -> None:
    names = [table_of(name, "x") for name in ("a", "a", "a-2", "b", "a")]
    assert file_names(names) == ["a", "a-2", "a-2-2", "b", "a-3"]


def test_the_report_writes_them_wherever_a_set_wants_to_go(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "run"
    out.mkdir(parents=True)
    rows = [
        Row(task="ppl", model="gdn", dataset=dataset, metric=metric, value=2.0, n=9, unit="bits")
        for dataset in ("../../up", "ü", "ö", HOSTILE[:24])
        for metric in ("perplexity", "bits_per_byte")
    ]
    write_rows_csv(rows, out / "rows.csv")
    written = build_report(out)
    tables = [path for path in written if path.suffix == ".tex"]
    assert {path.parent for path in tables} == {out / "tables"}
    assert len(set(tables)) == 4, "a table for each set"
    assert len([path for path in written if path.parent == out / "tables" and path.suffix == ".csv"]) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["deep"]


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex")
def test_pdflatex_reads_them(tmp_path: Path) -> None:
    tables = [*stored_tables(), table_of("hostile", HOSTILE)]
    every = "".join(chr(code) for code in range(0x20, 0x500))
    tables.append(table_of("signs", " ".join(re.findall(r".{1,8}", every))))
    names = [path.stem for path in write_tables(tables, tmp_path) if path.suffix == ".tex"]
    inputs = "\n".join(rf"\input{{{name}}}\clearpage" for name in names)
    start = "\\documentclass{article}\\usepackage[utf8]{inputenc}\\usepackage{booktabs}\n\\begin{document}\n"
    (tmp_path / "all.tex").write_text(f"{start}{inputs}\n\\end{{document}}\n")
    command = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "all.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, errors="replace", timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
