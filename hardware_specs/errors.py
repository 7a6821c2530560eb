"""The one error tree of llmsim, and what one mistake in the input looks like.

::

    Exception
    +-- LlmsimError            anything that llmsim refuses; carries ``problems``
        +-- SpecError          a file, figure or name of a model or a machine is wrong
        +-- ScenarioError      what was asked for makes no sense or breaks a rule
        +-- InfeasibleError    nothing satisfies the request (search, inverse design)

Command-line programs turn these into exit status 2 (1 for `InfeasibleError`).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

__all__ = [
    "InfeasibleError",
    "LlmsimError",
    "Problem",
    "ScenarioError",
    "SpecError",
    "near_names",
    "shorten",
]

_SHOWN_VALUE_CHARACTERS = 80


@dataclass(frozen=True, kw_only=True, slots=True)
class Problem:
    """One mistake: where, what was written, the rule, and the way out.

    Parameters
    ----------
    path : str
        Dotted key or file name, such as ``"plan.tensor_parallel"``.
    value : str
        What was written there; empty if there is nothing to show.
    rule : str
        What must hold.
    fix : str
        What to write instead; empty if there is no good guess.

    Examples
    --------
    >>> print(Problem(path="plan.tensor_parallel", value="3", rule="must divide 32", fix="use 4"))
    plan.tensor_parallel = 3: must divide 32; use 4
    """

    path: str
    value: str
    rule: str
    fix: str = ""

    def __str__(self) -> str:
        subject = self.path
        if self.value:
            subject = f"{subject} = {self.value}" if subject else self.value
        text = f"{subject}: {self.rule}" if subject else self.rule
        return f"{text}; {self.fix}" if self.fix else text


class LlmsimError(Exception):
    """Base of all refusals.

    Parameters
    ----------
    problems : iterable of Problem, or str
        Every mistake that was found; a text stands for one problem without a path.
    hint : str
        What leads out of all of them together; empty if there is nothing to say.

    Attributes
    ----------
    problems : tuple of Problem
        The mistakes; ``str(error)`` prints one on each line, and ``hint`` behind the last.
    hint : str
        As given.
    """

    def __init__(self, problems: Iterable[Problem] | str, hint: str = "") -> None:
        if isinstance(problems, str):
            problems = [Problem(path="", value="", rule=problems)]
        self.problems: tuple[Problem, ...] = tuple(problems)
        self.hint = hint
        # A line is a mistake: what leads out of all of them is at the end of the last one.
        text = "\n".join(str(problem) for problem in self.problems)
        super().__init__(f"{text}; {hint}" if hint else text)

    def __reduce__(self) -> tuple[type[LlmsimError], tuple[tuple[Problem, ...], str]]:
        # worker processes send errors back by pickle, which would otherwise keep only the text
        return type(self), (self.problems, self.hint)


class SpecError(LlmsimError):
    """A model or machine description is wrong, or its name is unknown."""


class ScenarioError(LlmsimError):
    """A scenario, plan or argument breaks a rule."""


class InfeasibleError(LlmsimError):
    """Search or inverse design found nothing that satisfies the request."""


def near_names(name: str, known: Iterable[str], n: int = 5) -> list[str]:
    """Known names that resemble ``name``, the nearest first.

    Parameters
    ----------
    name : str
        What was written.
    known : iterable of str
        The valid names.
    n : int
        The most names to return. [1]

    Returns
    -------
    list of str
        At most ``n`` names in their own spelling; empty if nothing is near. Raises nothing.

    Examples
    --------
    >>> near_names("H100_SXM", ["a100-sxm-80gb", "h100-sxm"], n=1)
    ['h100-sxm']
    """
    by_plain_name: dict[str, str] = {}
    for candidate in known:
        by_plain_name.setdefault(_plain(candidate), candidate)
    wanted = _plain(name)
    matches = difflib.get_close_matches(wanted, by_plain_name, n=max(len(by_plain_name), 1), cutoff=0.5)
    # Who writes "h100" means a name that starts so, not "mi100", which has as many letters in common.
    matches.sort(key=lambda plain: not plain.startswith(wanted))
    if wanted:  # "h100" is a poor match of "nvidia-h100-sxm" by ratio, yet it is what was meant
        matches += [plain for plain in by_plain_name if wanted in plain and plain not in matches]
    return [by_plain_name[plain] for plain in matches[:n]]


def shorten(value: object) -> str:
    """Text of ``value`` that fits in a one-line message (at most 80 characters); a path keeps its end.

    Raises nothing.
    """
    text = value if isinstance(value, str) else repr(value)
    text = " ".join(text.split())
    if len(text) <= _SHOWN_VALUE_CHARACTERS:
        return text
    if text.startswith(("/", "./", "../", "~")):
        return "..." + text[3 - _SHOWN_VALUE_CHARACTERS :]
    return text[: _SHOWN_VALUE_CHARACTERS - 3] + "..."


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "-").replace(" ", "-")
