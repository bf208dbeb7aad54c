"""The recipes of bench.accuracy reach what they should, with their first seed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent.parent))
from bench.accuracy import RECIPES, trained, transferred

pytestmark = pytest.mark.proof
PICTURES = [name for name in RECIPES if not name.endswith("nats")]
TEXTS = [name for name in RECIPES if name.endswith("nats")]


@pytest.mark.parametrize("name", PICTURES)
def test_pictures_and_points(name: str) -> None:
    recipe = RECIPES[name]()
    reached, _ = trained(recipe, 0)
    assert reached >= recipe.bar if recipe.higher else reached < recipe.bar


@pytest.mark.parametrize("name", TEXTS)
def test_text_is_told_better_than_by_pairs_of_characters(name: str) -> None:
    recipe = RECIPES[name]()
    assert trained(recipe, 0)[0] < recipe.bar


def test_a_frozen_trunk_is_within_a_point() -> None:
    """At fewer seconds of all cores, which count what else runs too little to be held to a half here."""
    (frozen, seconds), (all_of_it, longer) = (transferred(0, freeze) for freeze in (True, False))
    assert frozen >= all_of_it - 1.0 and seconds < longer
