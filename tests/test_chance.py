"""Chance is a function of the key, and the process's own numbers are left alone."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
import torch

from etude.data.chance import item_key, sow, undisturbed


def _drawn() -> list[float]:
    return [torch.rand(()).item(), float(np.random.rand()), random.random()]


def test_the_key_of_an_item_depends_on_seed_epoch_and_index() -> None:
    keys = {item_key(seed, epoch, index) for seed in range(8) for epoch in range(8) for index in range(8)}
    keys |= {item_key(2**64, 0, 0), item_key(2**64 + 1, 0, 0)}
    assert len(keys) == 8**3 + 2
    assert all(0 <= key < 2**64 for key in keys)


def test_a_key_decides_all_three_generators() -> None:
    with undisturbed():
        sow(item_key(0, 0, 5))
        first = _drawn()
        sow(item_key(0, 0, 5))
        assert _drawn() == first
        sow(item_key(0, 0, 6))
        assert all(new != old for new, old in zip(_drawn(), first, strict=True))


def test_torch_and_numpy_draw_different_bits_from_one_key() -> None:
    with undisturbed():
        sow(item_key(0, 0, 0))
        ours = torch.randint(2**31, (4,)).tolist()
        theirs = np.random.randint(2**31, size=4).tolist()
    assert not set(ours) & set(theirs)


def _states() -> list[Any]:
    return [torch.get_rng_state().tolist(), repr(np.random.get_state(legacy=False)), random.getstate()]


@pytest.fixture
def other_twister() -> Iterator[None]:
    """A process whose numpy draws from another kind of generator."""
    own = np.random.get_bit_generator()
    np.random.set_bit_generator(np.random.PCG64(3))
    yield
    np.random.set_bit_generator(own)


def _left_alone() -> None:
    expected = _states()
    for key in (item_key(0, 0, 0), item_key(0, 0, 1)):
        with undisturbed():
            sow(key)
            _drawn()
            np.random.randn()
        assert _states() == expected


def test_the_generators_of_the_process_are_left_as_they_were() -> None:
    np.random.seed(1)
    _left_alone()
    np.random.rand()
    _left_alone()
    np.random.randn()  # leaves a second normal number waiting, which is part of the state
    _left_alone()
    np.random.randn()  # takes it: the bits are those of before
    _left_alone()
    np.random.seed(1)
    _left_alone()


@pytest.mark.usefixtures("other_twister")
def test_any_generator_of_numpy_is_left_as_it_was() -> None:
    _left_alone()


def test_states_are_given_back_after_an_error() -> None:
    expected = _states()
    with suppress(KeyError), undisturbed():
        sow(0)
        raise KeyError
    assert _states() == expected


@pytest.mark.parametrize("draw", [lambda: torch.rand(()), np.random.rand, np.random.randn, random.random, lambda: None])
def test_a_draw_from_any_generator_is_noticed(draw: Any) -> None:
    np.random.seed(0)
    with undisturbed() as untouched:
        assert untouched()
        nothing = draw() is None
        assert untouched() is nothing


def test_a_normal_number_in_waiting_is_noticed_when_it_is_taken() -> None:
    np.random.seed(0)
    np.random.randn()
    with undisturbed() as untouched:
        np.random.randn()
        assert not untouched()
