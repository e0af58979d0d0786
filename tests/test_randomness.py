"""Chance of a run: counted by steps, and nobody else's."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from etude.data.chance import item_key, sow
from etude.run.randomness import own_randomness, seed_look, seed_step
from small import randomness

CPU = torch.device("cpu")


def drawn() -> tuple[float, float, float]:
    """A number from each generator."""
    return float(torch.rand(())), float(np.random.rand()), random.random()


def drawn_at(seed: int, step: int) -> tuple[float, float, float]:
    with own_randomness():
        seed_step(seed, step, CPU)
        return drawn()


def test_a_step_draws_the_same_whatever_was_drawn_before() -> None:
    first = drawn_at(3, 7)
    drawn()
    with own_randomness():
        seed_step(3, 6, CPU)
        drawn()
        seed_step(3, 7, CPU)
        assert drawn() == first


def test_seeds_and_steps_draw_different_numbers() -> None:
    found = {drawn_at(seed, step) for seed in range(12) for step in range(12)}
    assert len(found) == 144
    assert len({one[0] for one in found}) == 144


def test_neighbouring_seeds_do_not_walk_the_same_road() -> None:
    """Whatever the distance, the steps of one seed are not those of another, moved."""
    roads = [[drawn_at(seed, step)[0] for step in range(40)] for seed in range(6)]
    assert len({number for road in roads for number in road}) == 240


def test_the_three_generators_draw_different_numbers() -> None:
    assert len(set(drawn_at(0, 0))) == 3


def test_evaluations_draw_alike_and_not_as_steps_or_data_do() -> None:
    with own_randomness():
        seed_look(5, CPU)
        first = drawn()
        seed_look(5, CPU)
        assert drawn() == first
        sow(item_key(5, 0, 0))
        assert drawn() != first
    assert drawn_at(5, 0) != first


def test_the_generators_of_the_process_stay_as_they_were() -> None:
    torch.manual_seed(11)
    np.random.seed(11)
    random.seed(11)
    np.random.randn()  # leaves a second normal number in waiting
    before = randomness()
    with own_randomness():
        seed_step(0, 0, CPU)
        drawn()
        np.random.randn()
    assert randomness() == before


def test_they_also_do_after_an_error() -> None:
    def failing() -> None:
        with own_randomness():
            drawn_at(0, 0)
            raise KeyError

    before = randomness()
    with pytest.raises(KeyError):
        failing()
    assert randomness() == before
