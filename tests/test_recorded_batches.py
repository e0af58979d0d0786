"""Orders and batches recorded from RETURNN, said in values of this library: the same numbers, or better ones.

What RETURNN should not have done is met by an error or by the number that was asked for; the tests say which.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from etude.data.plan.buckets import buckets
from etude.data.plan.budgets import budget, costs, packed, padding
from etude.data.plan.cut import Batches, cut, used
from etude.data.plan.lengths import Lengths, lengths_of
from etude.data.plan.orders import Units, laplace_stream, order, part, repeated, shuffle_blocks
from etude.data.plan.packing import strung
from etude.errors import DataError, SettingError
from etude.values.progress import Progress

RECORDED = json.loads((Path(__file__).parent / "fixtures" / "batches.json").read_text())
EPOCHS = 40


def cases(section: str, *kinds: str) -> Any:
    found = [case for case in RECORDED[section] if not kinds or case["kind"] in kinds]
    assert found
    return pytest.mark.parametrize("case", found, ids=[case["id"] for case in found])


def units(lengths: list[int]) -> Units:
    return Units(len(lengths), lengths_of({"data": lengths}))


def as_lists(batches: Batches) -> list[list[int]]:
    return [batches[place].tolist() for place in range(len(batches))]


# ------------------------------------------------------------------------------------------------------------ orders


def arranged(case: Any, epoch: int, seed: int = 1) -> list[int]:
    """The order of an epoch, counted from 0, under a case's settings."""
    settings, data = case["settings"], units(case["lengths"])
    said: Any = settings["seq_ordering"]
    if said.startswith("callable"):
        said = lambda epoch: "sorted" if epoch < 2 else "sorted_reverse"  # noqa: E731
    passes, shards = settings.get("partition_epoch", 1), settings.get("_num_shards", 1)
    whole = order(said).arrange(data, epoch // passes, seed)
    piece = part(whole, (epoch % passes) * shards + settings.get("_shard_index", 0), passes * shards)
    return repeated(piece, settings.get("repeat_epoch", 1)).tolist()


@cases("seq_order", "reference")
def test_an_order_without_chance_is_the_recorded_one(case: Any) -> None:
    for epoch, expected in case["order_by_epoch"].items():
        assert arranged(case, int(epoch) - 1) == expected


@cases("seq_order", "random")
def test_an_order_of_chance_has_what_the_recorded_draw_has(case: Any) -> None:
    name, recorded = case["settings"]["seq_ordering"], case["order_by_epoch"]
    ours = {epoch: arranged(case, int(epoch) - 1) for epoch in recorded}
    assert [len(each) for each in ours.values()] == [len(each) for each in recorded.values()]
    if name != "random_sample":
        assert all(len(set(each)) == len(each) for each in ours.values())
    if name == "random:2" or name == "laplace:3:2":
        assert ours["1"] == ours["2"] != ours["3"] == ours["4"]
    else:
        assert len(set(map(tuple, ours.values()))) == len(ours)


def test_more_parts_than_samples_are_refused_where_some_epochs_were_empty() -> None:
    (case,) = [case for case in RECORDED["seq_order"] if case["id"] == "dev/partition_larger_than_num_seqs"]
    assert [] in case["order_by_epoch"].values()
    with pytest.raises(DataError, match="14 epochs cannot share a pass over 12 units"):
        arranged(case, 0)


def test_an_unknown_order_is_refused_when_it_is_written() -> None:
    (case,) = [case for case in RECORDED["seq_order"] if case["id"] == "dev/unknown"]
    with pytest.raises(DataError, match=r"There is no order 'laplase'\. Nearest: \"laplace\""):
        order(case["settings"]["seq_ordering"])


def test_a_seed_further_on_is_not_another_seed_an_epoch_later() -> None:
    # In RETURNN the seed is added to the epoch, so that neighbouring seeds see one another's orders.
    recorded = {case["id"]: case["order_by_epoch"] for case in RECORDED["seq_order"]}
    assert recorded["dev/random_seed_offset_1"]["1"] == recorded["dev/random_seed_offset_0"]["2"]
    data = units(list(range(12)))
    orders = [order("random").arrange(data, epoch, seed).tolist() for seed in range(4) for epoch in range(4)]
    assert len(set(map(tuple, orders))) == len(orders)


def _invariants(prefix: str) -> Any:
    return [case for case in RECORDED["seq_order_invariants"] if case["id"].startswith(f"dev/{prefix}")]


def _epochs(case: Any) -> list[Any]:
    data, made = units(case["lengths"]), order(case["id"].removeprefix("dev/"))
    orders = [made.arrange(data, epoch, 3) for epoch in range(EPOCHS)]
    assert all(sorted(each.tolist()) == list(range(data.n)) for each in orders)
    return orders


@pytest.mark.parametrize("case", _invariants("laplace"), ids=lambda case: case["id"])
def test_bins_rise_and_fall_in_turn(case: Any) -> None:
    lengths = np.array(case["lengths"])
    orders = _epochs(case)
    for each in orders:
        for place, (start, stop) in enumerate(zip(case["cuts"], case["cuts"][1:], strict=False)):
            steps = np.diff(lengths[each[start:stop]])
            assert (steps <= 0).all() if place % 2 else (steps >= 0).all()
    assert len({tuple(each.tolist()) for each in orders}) == EPOCHS


@pytest.mark.parametrize("case", _invariants("sort_bin_shuffle"), ids=lambda case: case["id"])
def test_bins_of_the_sorted_list_come_in_random_order(case: Any) -> None:
    lengths = np.array(case["lengths"])
    rising = np.sort(lengths)
    bins = [rising[start:stop].tolist() for start, stop in zip(case["cuts"], case["cuts"][1:], strict=False)]
    firsts, rises = set(), []
    for each in _epochs(case):
        rest, left = lengths[each].tolist(), list(bins)
        firsts.add(next(place for place, found in enumerate(bins) if sorted(rest[: len(found)]) == found))
        while left:
            found = next(found for found in left if sorted(rest[: len(found)]) == found)
            rises.append(rest[: len(found)] == found)
            left.remove(found)
            rest = rest[len(found) :]
    assert len(firsts) == len(bins)
    assert all(rises) != ("_x2" in case["id"])


@pytest.mark.parametrize("case", _invariants("partition"), ids=lambda case: case["id"])
def test_the_parts_of_a_pass_are_the_whole(case: Any) -> None:
    data, of = units(case["lengths"]), case["partition_epoch"]
    made = order(case["id"].removeprefix("dev/partition_"))
    for passed in range(EPOCHS // of):
        whole = made.arrange(data, passed, 3)
        pieces = [part(whole, passed * of + place, of) for place in range(of)]
        assert [len(piece) for piece in pieces] == case["sizes"]
        assert np.concatenate(pieces).tolist() == whole.tolist()
        assert sorted(whole.tolist()) == list(range(data.n))


@pytest.mark.parametrize("case", _invariants("random"), ids=lambda case: case["id"])
def test_an_order_stays_for_several_epochs(case: Any) -> None:
    orders, every = [tuple(each.tolist()) for each in _epochs(case)], case["nth"]
    assert all(orders[epoch] == orders[epoch - epoch % every] for epoch in range(EPOCHS))
    assert len(set(orders)) == -(-EPOCHS // every)


@cases("padding")
def test_as_much_is_padded_as_with_the_recorded_order(case: Any) -> None:
    settings, data = case["settings"], units(case["lengths"])
    limits = costs(budget(settings["batch_size"], settings["max_seqs"]), data.lengths)
    means = {}
    for name, recorded in case["by_order"].items():
        padded, numbers = [], []
        for epoch in range(20):
            values = limits.values[:, order(name).arrange(data, epoch, 1)]
            made = cut(values, limits.kinds, limits.most(Progress()))
            padded.append(used(values[:1], ("padding",), made.offsets).sum())
            numbers.append(len(made))
        means[name] = np.mean(padded)
        assert recorded["padded_frames_min"] <= means[name] <= recorded["padded_frames_max"], name
        assert recorded["num_batches_min"] - 1 <= np.mean(numbers) <= recorded["num_batches_max"] + 1, name
    between = [mean for name, mean in means.items() if ":" in name]
    assert means["sorted"] <= min(between) <= max(between) < means["random"]


@cases("stream_laplace")
def test_a_stream_is_sorted_in_bins_as_recorded(case: Any) -> None:
    lengths = case["lengths"]
    made = laplace_stream(iter(range(len(lengths))), case["settings"]["num_seqs_per_bin"], lengths.__getitem__)
    assert list(made) == case["expect"]["order"]


@cases("batch_shuffle")
def test_whole_batches_are_shuffled_within_their_block(case: Any) -> None:
    number, block = case["settings"]["num_batches"], case["settings"]["buffer_size"]
    turns = [shuffle_blocks(number, block, seed, 0).tolist() for seed in range(20)]
    for turn in (case["example_order"], *turns):
        for start in range(0, number, block):
            assert sorted(turn[start : start + block]) == list(range(start, min(start + block, number)))
    assert len(set(map(tuple, turns))) > 10


# ----------------------------------------------------------------------------------------------------------- batches

LIMITS: dict[str, Callable[[int, int], float]] = {
    "20_then_40_from_half_of_epoch_1": lambda epoch, position: 20 if epoch - 1 + (position + 1) / 15 < 0.5 else 40,
    "10_plus_seq_idx": lambda epoch, position: 10 + position,
    "max_seqs_1_plus_epoch": lambda epoch, position: 1 + epoch,
}
"""Recorded functions, of the epoch from 1 on and the position of the sequence."""


def limited(case: Any) -> Batches:
    settings, lengths = case["settings"], case["lengths"]
    names = lengths[0] if lengths else ["data"]
    data = lengths_of({name: [each[name] for each in lengths] for name in names})
    size, number = settings.get("batch_size"), settings.get("max_seqs")
    asked = [
        LIMITS[each["callable"]] if isinstance(each, dict) and "callable" in each else None for each in (size, number)
    ]
    summed = [packed(settings["packed_batch_size"])] if "packed_batch_size" in settings else []
    frames = [] if size is None else [1e9 if asked[0] else size]
    made = costs(budget([*frames, *summed], 10**9 if asked[1] else None if number == -1 else number), data)
    most = made.most(Progress())

    def each_its_own(position: int) -> Any:
        own = most.copy()
        for function, row in zip(asked, (slice(0, len(names)), slice(-1, None)), strict=True):
            if function is not None:
                own[row] = function(case["epoch"], position)
        return own

    return cut(made.values, made.kinds, each_its_own if any(asked) else most)


@cases("batches", "reference")
def test_batches_are_the_recorded_ones(case: Any) -> None:
    assert as_lists(limited(case)) == case["expect"]["batches"]


@pytest.mark.parametrize("name", ["zero_batch_size", "zero_max_seqs", "per_key_unknown_key"])
def test_what_limits_nothing_is_refused(name: str) -> None:
    (case,) = [case for case in RECORDED["batches"] if case["id"] == f"dev/{name}"]
    assert case["kind"] == "quirk"
    kind, said = (DataError, "no stream 'nope'") if "unknown" in name else (SettingError, "above 0")
    with pytest.raises(kind, match=said):
        limited(case)


def test_every_recorded_quirk_of_batches_is_met() -> None:
    assert sum(case["kind"] == "quirk" for case in RECORDED["batches"]) == 3


@cases("bucket_batches")
def test_buckets_fill_as_recorded(case: Any) -> None:
    lengths, expect = np.array(case["lengths"]), case["expect"]
    made = buckets(*map(tuple, case["settings"]["buckets"])).fill(lengths)
    assert as_lists(made) == expect["batches"]
    assert [lengths[batch].tolist() for batch in as_lists(made)] == expect["batch_lengths"]
    assert made.dropped.tolist() == expect["dropped"]


# --------------------------------------------------------------------------- batches of the older side: pieces of units


def pieces(case: Any) -> list[list[int]]:
    """[sequence, start, end] of everything in the recorded batches."""
    return [piece[:3] for batch in case["expect"]["batches"] for piece in batch]


@pytest.mark.parametrize(
    "case",
    [case for case in RECORDED["legacy_batches"] if case["settings"]["recurrent_net"]],
    ids=lambda case: case["id"],
)
def test_batches_of_the_older_side_are_the_recorded_ones(case: Any) -> None:
    settings, expected = case["settings"], case["expect"]["batches"]
    if "chunking" in settings:
        units_of = pieces(case)
    else:
        least, longest = settings.get("min_seq_length", 0), settings.get("max_seq_length", 10**9)
        units_of = [[place, 0, size] for place, size in enumerate(case["lengths"]) if least <= size <= longest]
    wanted = [[piece[:3] for piece in batch] for batch in expected]
    if case["kind"] == "quirk":
        # One more than the four that were asked for was taken.
        units_of, wanted = units_of[: settings["max_total_num_seqs"]], wanted[:-1]
    data = lengths_of({"data": [stop - start for _, start, stop in units_of]})
    limits = [settings["batch_size"], *([padding(settings["max_pad_size"])] if "max_pad_size" in settings else [])]
    made = costs(budget(limits, settings.get("max_seqs")), data)
    batches = as_lists(cut(made.values, made.kinds, made.most(Progress())))
    assert [[units_of[unit] for unit in batch] for batch in batches] == wanted


def test_frames_strung_together_are_cut_as_recorded() -> None:
    (case,) = [case for case in RECORDED["legacy_batches"] if not case["settings"]["recurrent_net"]]
    made = strung(np.array(case["lengths"]), case["settings"]["batch_size"])
    found = np.stack([made.units, made.starts, made.stops], axis=1).tolist()
    assert found == pieces(case)
    sizes = [len(batch) for batch in case["expect"]["batches"]]
    assert np.diff(made.offsets).tolist() == sizes


def test_lengths_are_those_of_the_leading_stream() -> None:
    data = Lengths({"data": np.array([3, 1, 2]), "labels": np.array([1, 2, 3])})
    assert order("sorted").arrange(Units(3, data), 0, 0).tolist() == [1, 2, 0]
