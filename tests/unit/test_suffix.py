"""Registered domains."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.suffix import registered_domain


@pytest.mark.parametrize(
    ("name", "registered"),
    [
        ("example.com", "example.com"),
        ("a.b.example.com", "example.com"),
        ("mail.shop.co.uk", "shop.co.uk"),
        ("co.uk", ""),
        ("com", ""),
        ("shop.github.io", "shop.github.io"),  # a private suffix: its customers are strangers to each other
        ("a.shop.github.io", "shop.github.io"),
        ("", ""),
        (".com", ""),
        ("a..com", ""),
        ("mx.unlisted", "mx.unlisted"),  # the list's own rule for what it does not know: the last label is the suffix
    ],
)
def test_registered_domain(name: str, registered: str) -> None:
    assert registered_domain(name) == registered


@given(st.text(max_size=80))
def test_any_text_is_survived_and_the_answer_is_its_end(name: str) -> None:
    assert name.lower().endswith(registered_domain(name))
