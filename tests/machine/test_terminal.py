"""Numbers in words."""

import pytest

from lab.machine.terminal import duration, file_size


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.043, "0.043 s"),
        (2.34, "2.3 s"),
        (9.96, "10 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (61, "1 min 1 s"),
        (3600, "1 h"),
        (5399, "1 h 29 min"),
        (1e5, "1 d 3 h"),
    ],
)
def test_a_duration_has_at_most_two_units(seconds: float, words: str):
    assert duration(seconds) == words


@pytest.mark.parametrize(
    ("size", "words"),
    [
        (0, "0 bytes"),
        (1023, "1023 bytes"),
        (1536, "1.5 KiB"),
        (2**30, "1 GiB"),
        (5 * 2**60, "5 EiB"),
        (2**80, "1.05e+06 EiB"),
    ],
)
def test_a_size_is_given_in_binary_units(size: int, words: str):
    assert file_size(size) == words
