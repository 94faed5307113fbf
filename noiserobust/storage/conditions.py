"""Conditions on rows, such as ``seed == 0 and images > 500``: read, never run as code."""

from __future__ import annotations

import ast
import operator
import re
from collections.abc import Callable
from typing import Any

import pandas as pd
from pandas.api.types import is_numeric_dtype

from noiserobust.errors import UserError

COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
}
WORDS = {"&": " and ", "|": " or "}
SIGN = re.compile(r"""('[^']*'|"[^"]*"|`[^`]*`)|[&|]""")
"""A quoted text, or a sign that joins conditions as the word does."""
ONE_SIGN = re.compile(r"(?<![=!<>])=(?!=)")
EQUAL = "equal is ==, and texts are quoted: method == 'plain'"
MEANING = "columns, numbers and texts joined by == != < <= > >=, in, and, or, not, + - * /"


def where(rows: pd.DataFrame, condition: str) -> pd.DataFrame:
    """The rows of which ``condition`` holds.

    It joins columns, numbers, texts and lists of them by comparisons, ``in``, ``and``, ``or``, ``not`` and ``+ - * /``;
    ``'pcm' in noise`` is a part of a text; a column whose name is no word stands in backticks. Nothing else is
    evaluated: no calls, no attributes.
    """
    columns = {str(name): rows[name] for name in rows.columns}
    quoted = {f"_column_{number}": name for number, name in enumerate(columns)}
    text = SIGN.sub(lambda match: match[1] or WORDS[match[0]], condition)
    for word, name in quoted.items():
        text = text.replace(f"`{name}`", f" {word} ")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
        chosen = _value(tree, columns | {word: columns[name] for word, name in quoted.items()})
        if not isinstance(chosen, pd.Series) or chosen.dtype not in (bool, "boolean"):
            raise TypeError("it is no condition on a column")
    except (SyntaxError, ValueError, TypeError, ArithmeticError, MemoryError, RecursionError) as error:
        names = ", ".join(columns)
        why = EQUAL if ONE_SIGN.search(SIGN.sub("", condition)) else str(error)
        raise UserError(f"expected a condition on {names} ({MEANING}), got '{condition}': {why}") from None
    return rows[chosen.fillna(False).astype(bool)]


def _value(node: ast.expr, columns: dict[str, Any]) -> Any:
    def of(inner: ast.expr) -> Any:
        return _value(inner, columns)

    match node:
        case ast.Constant(value=bool() | int() | float() | str()):
            return node.value
        case ast.Name(id=name):
            if name not in columns:
                raise ValueError(f"there is no column {name}")
            return columns[name]
        case ast.List(elts=parts) | ast.Tuple(elts=parts) | ast.Set(elts=parts):
            return [of(part) for part in parts]
        case ast.UnaryOp(op=ast.USub(), operand=inner):
            if not _is_number(value := of(inner)):
                raise TypeError("arithmetic is for numbers")
            return -value
        case ast.UnaryOp(op=ast.Not() | ast.Invert(), operand=inner):
            return ~_truths(of(inner))
        case ast.BoolOp(op=ast.And(), values=parts):
            return _joined(operator.and_, [of(part) for part in parts])
        case ast.BoolOp(op=ast.Or(), values=parts):
            return _joined(operator.or_, [of(part) for part in parts])
        case ast.BinOp(op=op, left=left, right=right) if type(op) in ARITHMETIC:
            one, other = of(left), of(right)
            if not (_is_number(one) and _is_number(other)):
                raise TypeError("arithmetic is for numbers")  # "a" * 10**9 would fill the memory
            return ARITHMETIC[type(op)](one, other)
        case ast.Compare(left=left, ops=ops, comparators=others):
            values = [of(left), *map(of, others)]
            truths = [_compared(op, one, other) for op, one, other in zip(ops, values, values[1:], strict=False)]
            return truths[0] if len(truths) == 1 else _joined(operator.and_, truths)
    raise ValueError(f"{type(node).__name__} is not taken")


def _is_number(value: Any) -> bool:
    return is_numeric_dtype(value) if isinstance(value, pd.Series) else isinstance(value, (int, float))


def _compared(op: ast.cmpop, one: Any, other: Any) -> Any:
    if isinstance(op, (ast.In, ast.NotIn)):
        if isinstance(one, str) and isinstance(other, pd.Series):
            found = other.astype(str).str.contains(one, regex=False)
        elif isinstance(one, pd.Series) and isinstance(other, list):
            found = one.isin(other)
        else:
            raise TypeError("in stands between a column and a list, such as draw in [0, 1], or a text and a column")
        return ~found if isinstance(op, ast.NotIn) else found
    if isinstance(op, (ast.Eq, ast.NotEq)) and isinstance(other, list):
        return _compared(ast.In() if isinstance(op, ast.Eq) else ast.NotIn(), one, other)
    if type(op) not in COMPARISONS:
        raise ValueError(f"{type(op).__name__} is not taken")
    return COMPARISONS[type(op)](one, other)


def _joined(join: Callable[[Any, Any], Any], values: list[Any]) -> Any:
    first, *others = map(_truths, values)
    for other in others:
        first = join(first, other)
    return first


def _truths(value: Any) -> Any:
    if isinstance(value, pd.Series) and value.dtype in (bool, "boolean"):
        return value
    raise TypeError("and, or, not join conditions")
