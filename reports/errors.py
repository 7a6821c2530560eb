"""The one error of this package.

    ValueError
    +-- ReportError   a table or a path that cannot become a report; the message says what to change

The tree of the engine (``LlmsimError``) is not imported: reports stand alone, and a saved sweep can be
plotted without the engine.
"""

from __future__ import annotations

__all__ = ["ReportError"]


class ReportError(ValueError):
    """A column is missing, parts do not sum, or a file cannot be written.

    Parameters
    ----------
    message : str
        Subject, value with unit, rule and way out, on one line.

    Notes
    -----
    A ``ValueError``, so that callers need not import this package to catch it. Source: our own convention.
    """
