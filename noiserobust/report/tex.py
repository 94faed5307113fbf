"""Tables for papers: the Markdown that tables are written as, as LaTeX."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import groupby

SIGNS = {
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\textquotedbl{}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "σ": r"$\sigma$",
    "µ": r"$\mu$",
    "μ": r"$\mu$",
    "Δ": r"$\Delta$",
    "≤": r"$\le$",
    "≥": r"$\ge$",
    "–": "--",
    "—": "---",
    "…": r"\ldots{}",
}
"""What TeX takes for a command, or its usual fonts lack."""
CELL = re.compile(r"(?<!\\)\|")
NUMBER = re.compile(r"[+-]?[\d–.]")


def escaped(text: str) -> str:
    r"""``text`` as LaTeX prints it.

    >>> print(escaped("rwp:a_b 5% ± 1"))
    rwp:a\_b 5\% $\pm$ 1
    """
    return "".join(SIGNS.get(sign, sign) for sign in text)


def as_tex(markdown: str) -> str:
    """Tables as ``noiserobust`` writes them in Markdown, for ``\\input`` into a document that loads ``booktabs``."""
    lines = [line for line in markdown.splitlines() if line != "```"]
    blocks = (
        block
        for is_table, part in groupby(lines, lambda line: line.startswith("| "))
        for block in ([_tabular(list(part))] if is_table else _prose(part))
    )
    return "% needs \\usepackage{booktabs}\n" + "\n\n".join(filter(None, blocks)) + "\n"


def _prose(lines: Iterator[str]) -> Iterator[str]:
    for line in lines:
        bold = re.fullmatch(r"\*\*(.*)\*\*", line)
        yield rf"\textbf{{{escaped(bold[1])}}}\par" if bold else rf"{escaped(line)}\par" if line.strip() else ""


def _tabular(lines: list[str]) -> str:
    cells = [[cell.strip().replace("\\|", "|") for cell in CELL.split(line)[1:-1]] for line in lines]
    head, _, *body = cells
    sides = "".join("r" if all(NUMBER.match(c) or not c for c in column) else "l" for column in zip(*body, strict=True))
    rows = [" & ".join(map(escaped, row)) + r" \\" for row in [head, *body]]
    ruled = [r"\toprule", rows[0], r"\midrule", *rows[1:], r"\bottomrule"]
    return "\n".join([rf"\begin{{tabular}}{{{sides or 'l' * len(head)}}}", *ruled, r"\end{tabular}"])
