"""Arithmetic conditions over columns (``where:`` of a sweep): parsed, checked against a whitelist, never eval'd."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from hardware_specs.errors import Problem, ScenarioError, near_names, shorten

_BINARY: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: np.mod,
    ast.Pow: operator.pow,
}
_COMPARE: dict[type[ast.AST], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_CALLS: dict[str, Callable[[Any, Any], Any]] = {"min": np.minimum, "max": np.maximum}
_MAX_CHARACTERS = 500
_LARGEST = 1e300
_UNDERSTOOD = "only numbers, names, arithmetic, comparisons, and, or, not, min and max are understood"
_KNOWN = "known are devices, micro_batches, the numbers of plan and task, the sizes of the model, and swept numbers"
_EXAMPLE = "write such as plan.tensor_parallel <= 8"
# What the engine supplies for every row beside the numeric keys of the sweep.
DEGREES = (
    "tensor_parallel",
    "pipeline_parallel",
    "virtual_pipeline",
    "data_parallel",
    "context_parallel",
    "expert_parallel",
    "micro_batch_size",
    "zero_stage",
    "sequence_parallel",
)
SIZES = ("n_layers", "hidden", "heads", "kv_heads", "head_dim", "ffn", "vocab")
DERIVED_NAMES = frozenset(
    [*DEGREES, *(f"plan.{d}" for d in DEGREES), *(f"model.{n}" for n in SIZES), "devices", "micro_batches"]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A parsed condition: its text, its tree, the names it uses, and those that have one value for all rows."""

    text: str
    tree: ast.expr
    names: frozenset[str]
    constants: Mapping[str, float] = field(default_factory=dict)


def _problem(text: str, why: str, fix: str = _EXAMPLE) -> Problem:
    return Problem(path="where", value=shorten(text), rule=why, fix=fix)


def _refuse(text: str, why: str, fix: str = _EXAMPLE) -> ScenarioError:
    return ScenarioError([_problem(text, why, fix)])


def _dotted(node: ast.AST) -> str | None:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        parent = _dotted(node.value)
        return f"{parent}.{node.attr}" if parent else None
    return None


def _names(node: ast.AST, text: str) -> set[str]:
    """Names below a node; anything but arithmetic, comparison and the two functions is refused."""
    name = _dotted(node)
    if name is not None:
        return {name}
    children: list[ast.AST]
    if isinstance(node, ast.BoolOp):
        children = list(node.values)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, (ast.Not, ast.USub, ast.UAdd)):
        children = [node.operand]
    elif isinstance(node, ast.BinOp) and type(node.op) in _BINARY:
        children = [node.left, node.right]
    elif isinstance(node, ast.Compare) and all(type(op) in _COMPARE for op in node.ops):
        children = [node.left, *node.comparators]
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _CALLS:
        if len(node.args) != 2 or node.keywords:
            raise _refuse(text, f"{node.func.id} takes two arguments")
        children = list(node.args)
    elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
        if abs(node.value) > _LARGEST:
            raise _refuse(text, f"a number in a condition is at most {_LARGEST:g}")
        return set()
    else:
        raise _refuse(text, _UNDERSTOOD)
    return set().union(*(_names(child, text) for child in children))


def parse_condition(text: Any) -> Condition:
    """Parse one condition such as ``plan.tensor_parallel * plan.pipeline_parallel <= 64``.

    Parameters
    ----------
    text : str
        An expression over dotted keys.

    Returns
    -------
    Condition
        Ready for :func:`holds`.

    Raises
    ------
    ScenarioError
        If it is no text, too long, has a syntax error, or contains anything else.
    """
    if not isinstance(text, str) or len(text) > _MAX_CHARACTERS:
        raise _refuse(str(text), f"a condition must be a text of at most {_MAX_CHARACTERS} characters")
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError):
        raise _refuse(text, "is not an expression") from None
    return Condition(text=text, tree=tree, names=frozenset(_names(tree, text)))


def _unknown_names(condition: Condition, known: Collection[str]) -> list[Problem]:
    found = []
    for name in sorted(condition.names - set(known)):
        near = near_names(name, known, n=3)
        fix = f"did you mean {', '.join(near)}?" if near else _KNOWN
        found.append(_problem(condition.text, f"{name} is not a number that a row has", fix))
    return found


def parse_conditions(
    texts: Any, problems: list[Problem], constants: Mapping[str, float], swept: Collection[str]
) -> tuple[Condition, ...]:
    """Parse the ``where`` of a sweep: one condition or a list of them.

    Parameters
    ----------
    texts : str or list of str
        As written.
    problems : list of Problem
        Every mistake is appended.
    constants : mapping of str to float
        Numbers of the scenario that do not vary [SI].
    swept : collection of str
        Keys that vary and are numbers.

    Returns
    -------
    tuple of Condition
        Those without a mistake. Raises nothing.
    """
    found = []
    for text in texts if isinstance(texts, list) else [texts]:
        try:
            condition = parse_condition(text)
        except ScenarioError as error:
            problems += error.problems
            continue
        problems += _unknown_names(condition, DERIVED_NAMES | constants.keys() | set(swept))
        found.append(replace(condition, constants=constants))
    return tuple(found)


def _value(node: ast.AST, columns: Mapping[str, Any]) -> Any:
    name = _dotted(node)
    if name is not None:
        return columns[name]
    if isinstance(node, ast.Constant):
        # float64, not Python's unbounded integers: 9**9**9 is infinite at once instead of a gigabyte of digits.
        return np.float64(node.value)  # type: ignore[arg-type]  # a number: parse_condition checked
    if isinstance(node, ast.BoolOp):
        join = np.logical_and if isinstance(node.op, ast.And) else np.logical_or
        out = _value(node.values[0], columns)
        for part in node.values[1:]:
            out = join(out, _value(part, columns))
        return out
    if isinstance(node, ast.UnaryOp):
        inner = _value(node.operand, columns)
        return (
            np.logical_not(inner)
            if isinstance(node.op, ast.Not)
            else (-inner if isinstance(node.op, ast.USub) else inner)
        )
    if isinstance(node, ast.BinOp):
        return _BINARY[type(node.op)](_value(node.left, columns), _value(node.right, columns))
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return _CALLS[node.func.id](_value(node.args[0], columns), _value(node.args[1], columns))
    if isinstance(node, ast.Compare):
        left, holds_so_far = _value(node.left, columns), np.True_
        for op, right_node in zip(node.ops, node.comparators, strict=True):
            right = _value(right_node, columns)
            holds_so_far = np.logical_and(holds_so_far, _COMPARE[type(op)](left, right))
            left = right
        return holds_so_far
    raise NotImplementedError(ast.dump(node))


def holds(condition: Condition, columns: Mapping[str, Any]) -> Any:
    """Where a condition holds, as a column of truth values; ScenarioError if it names something that is no column."""
    columns = {**condition.constants, **columns}
    unknown = _unknown_names(condition, columns)
    if unknown:
        raise ScenarioError(unknown)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        found = _value(condition.tree, columns)
    return np.atleast_1d(found).astype(bool)
