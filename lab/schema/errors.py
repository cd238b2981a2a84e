"""ConfigError, and how its messages are made safe to print."""

from __future__ import annotations

import re

LONGEST_WORD = 400
"""Characters without a space that a message quotes whole: a path may be long."""


class ConfigError(ValueError):
    """A configuration that cannot be used; the message is one sentence that names the key and the remedy.

    It may quote what was given, whatever that is: what would break the line or cannot be printed is shown as an escape,
    and a word that fills a screen by its beginning and its end.
    """

    def __init__(self, message: str) -> None:
        shown = "".join(x if x.isprintable() else x.encode("unicode_escape").decode() for x in message)
        super().__init__(re.sub(rf"\S{{{LONGEST_WORD},}}", lambda word: f"{word[0][:80]}...{word[0][-40:]}", shown))
