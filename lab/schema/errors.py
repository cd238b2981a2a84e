"""ConfigError, and the hints in its messages."""

import re
from collections.abc import Sequence
from difflib import get_close_matches

LONGEST_WORD = 400
"""Characters without a space that a message quotes in full: a path may be long."""


class ConfigError(ValueError):
    """A configuration that cannot be used; the message is one sentence that names the key and the remedy.

    The message may quote any input: unprintable characters become escapes, and very long words are shortened.
    """

    def __init__(self, message: str) -> None:
        shown = "".join(x if x.isprintable() else x.encode("unicode_escape").decode() for x in message)
        super().__init__(re.sub(rf"\S{{{LONGEST_WORD},}}", lambda word: f"{word[0][:80]}...{word[0][-40:]}", shown))


def did_you_mean(name: str, options: Sequence[str]) -> str:
    """Return the advice for an unknown name: the closest of the `options`, and the list of them."""
    if not options:
        return "leave it out"
    close = get_close_matches(name.lower(), options, n=1)
    hint = f"did you mean {close[0]}? " if close else ""
    return hint + (f"choose one of {', '.join(options)}" if len(options) > 1 else f"there is only {options[0]}")
