"""Acceptance profiles: what they keep, and that the published one means as many cycles as published."""

import numpy as np
import pytest
import torch

from efficientgen.eval.bench_profile import PUBLISHED_CYCLES, Draws, Profile, cycles, measured, published
from efficientgen.planning.decode_form import OPEN, Form

FORM = Form(([5] * 3 + [OPEN] * 7) * 40, [0] * 400, torch.zeros(1, 9), [(i, i + 40) for i in range(0, 400, 40)])


def test_all_or_nothing():
    """With certain acceptance a cycle takes a block; without any, one value and the scaffold behind it."""
    assert cycles(FORM, Profile("all", (1.0,))) == 10
    assert cycles(FORM, Profile("none", (0.0,))) == pytest.approx(
        290, abs=11
    )  # a block that begins with scaffold: its first value is a draft
    draws = Draws(FORM, Profile("none", (0.0,)))
    assert draws.kept(9, 31) == 4, "the value, then three of scaffold, then a rejected one"


def test_the_published_profile_takes_the_published_cycles():
    profile = published(FORM)
    assert cycles(FORM, profile, 200) == pytest.approx(PUBLISHED_CYCLES, rel=0.06)
    assert 0 < profile.rate(1) == profile.rate(31) < 1


def test_positions_that_were_hardly_reached_are_left_out():
    profile = measured("nano", [0.9, 0.8, 0.1], [100, 20, 3])
    assert [profile.rate(n) for n in (1, 2, 3, 30)] == [0.9, 0.8, 0.8, 0.8]
    assert measured("nothing", [], []).rate(1) == 0.0


def test_draws_are_keyed_by_plan():
    a, b = (Draws(FORM, Profile("half", (0.5,)), 3) for _ in range(2))
    once = [a.kept(10, 30) for _ in range(20)]
    assert once == [b.kept(10, 30) for _ in range(20)]
    a.begin()
    assert [a.kept(10, 30) for _ in range(20)] != once
    assert np.mean(once) > 1
