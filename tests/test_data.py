"""`Data`: samples and how they become batches, in one value."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import Dataset

import etude
from batchings import rows, samples
from etude import Cursor, Data
from etude.data import buckets, chunk, cost, easiest, joined, length, packed, padded, padding, shortest, weighted
from etude.data.flow import Flow
from etude.errors import DataError, EtudeError, SettingError

LENGTHS = [5, 3, 9, 4, 7, 2, 8, 6, 5, 3]


def data(**options: Any) -> Data:
    return Data(samples(LENGTHS), **options)


def indices(made: Data, **options: Any) -> list[list[int]]:
    return [batch.indices.tolist() for batch in made.batches(epochs=1, **options)]  # type: ignore[union-attr]


class Items(Dataset[Any]):
    """Samples that are read, of which nothing is known."""

    def __len__(self) -> int:
        return len(LENGTHS)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return {"t": torch.arange(3), "label": number}


def passing() -> Iterator[Any]:
    yield from samples(LENGTHS)


# --------------------------------------------------------------------------------------------------------- the value


def test_it_is_printed_as_it_was_said() -> None:
    made = data(budget=40, order="random", keep=length(most=8))
    assert repr(made).startswith("Data(")
    assert all(said in repr(made) for said in ("10 samples", "budget=40", "order='random'", "keep=length(most=8)"))
    assert "tensor" not in repr(made)
    assert repr(made) == repr(data(budget=40, order="random", keep=length(most=8)))


def test_other_options_leave_the_first_as_it_was() -> None:
    made = data(budget=40, order="in_order")
    other = made.but(budget=9)
    assert (repr(other).count("budget=9"), repr(made).count("budget=40")) == (1, 1)
    assert len(indices(other)) > len(indices(made))
    assert indices(made.but(source=samples([1, 2]))) == [[0, 1]]


def test_how_many_samples_there_are() -> None:
    assert len(data(budget=40)) == 10
    with pytest.raises(TypeError, match="is read forward: how many samples there are is not known"):
        len(Data(passing, lengths="x", budget=40))


def test_with_a_budget_batches_are_of_alike_lengths() -> None:
    assert "strata" in repr(data(budget=40).assembled.batching.order)
    assert "random" in repr(data(batch_size=4).assembled.batching.order)
    assert "random" in repr(data(budget=40, buckets=2).assembled.batching.order)
    assert "random" in repr(data(budget=packed(40), pack=True).assembled.batching.order)
    assert "in_order" in repr(Data(passing, lengths="x", budget=40).assembled.batching.order)


@pytest.mark.parametrize("seed", [0, 1, 2**70])
def test_a_loop_of_ones_own_goes_on_where_it_was_left(seed: int) -> None:
    made = data(budget=15)
    batches = list(made.batches(epochs=3, seed=seed))
    for place in (1, len(batches) // 2):
        again = list(made.batches(batches[place - 1].next, epochs=3 - batches[place].cursor.epoch, seed=seed))
        assert [rows(batch) for batch in again] == [rows(batch) for batch in batches[place:]]


def test_what_is_only_looked_at_comes_whole_and_once() -> None:
    made = data(
        budget=20, keep=shortest(0.3), chunk=4, select=weighted(np.eye(10)[3]), subepochs=2, repeat=2, too_long="drop"
    )
    found = list(made.batches(epochs=1, training=False))
    assert sorted(index for batch in found for index in batch.indices.tolist()) == list(range(10))  # type: ignore[union-attr]
    assert all(len(row) == LENGTHS[row[0] // 1000] for batch in found for row in rows(batch))
    alike = made.but(in_evaluation=True)
    cut = [row for batch in alike.batches(epochs=1, training=False) for row in rows(batch)]
    assert max(map(len, cut)) <= 4
    assert len({row[0] // 1000 for row in cut}) == 3


def test_padding_has_a_value_for_each_stream() -> None:
    (batch,) = data(batch_size=10, pad={"x": -1}, order="in_order").batches(epochs=1)
    assert batch.values["x"][0].tolist() == [0, 1, 2, 3, 4, -1, -1, -1, -1]
    (batch,) = data(batch_size=10, pad=7, order="in_order").batches(epochs=1)
    assert batch.values["x"][1].tolist() == [1000, 1001, 1002, 7, 7, 7, 7, 7, 7]


def test_sequences_one_after_the_other() -> None:
    (batch,) = data(budget=packed(100), pack=True, order="in_order").batches(epochs=1)
    assert batch.values["x"].shape == (sum(LENGTHS),)
    assert batch.values["x_offsets"].tolist() == [0, *np.cumsum(LENGTHS)]
    with pytest.raises(DataError, match="all its frames are true"):
        batch.mask("x")


def test_masks_frames_and_lengths_of_a_batch() -> None:
    batch = next(data(batch_size=2, order="in_order").batches())
    assert batch.mask("x").tolist() == [[True] * 5, [True] * 3 + [False] * 2]
    assert (batch.frames, batch.tokens) == ({"x": 8}, 8)
    assert {name: own.tolist() for name, own in batch.lengths.items()} == {"x": [5, 3]}
    with pytest.raises(DataError, match="The batch has no stream 'y'"):
        batch.mask("y")


def test_a_dtype() -> None:
    made = Data([{"x": np.zeros(3)}, {"x": np.zeros(2)}], lengths="x", batch_size=2)
    assert next(made.batches()).values["x"].dtype == torch.float32
    assert next(made.but(dtype=torch.float64).batches()).values["x"].dtype == torch.float64


def test_reports_of_what_is_read_forward_come_after() -> None:
    made = Data(passing, lengths="x", budget=40)
    with pytest.raises(DataError, match="is read forward: what is in its batches is known once they are read"):
        made.report()
    flow = Flow(made)
    assert flow.report(0) is None
    assert sum(batch.samples for batch in flow.batches(epochs=1)) == flow.report(0).samples == 10  # type: ignore[union-attr]


def test_a_schedule_of_the_whole_run_needs_a_run() -> None:
    with pytest.raises(EtudeError, match="data have no run to be a share of"):
        data(budget=etude.linear(10, 40)).report()


# -------------------------------------------------------------------------------------------------------- in a flow


def test_a_flow_may_say_the_batch_size_where_the_data_do_not() -> None:
    made = data()
    assert [batch.samples for batch in Flow(made, batch_size=4).batches(epochs=1)] == [4, 4, 2]
    said = "batch_size=4 was asked for, and these data say how large batches are"
    for other in (data(budget=40), data(buckets=buckets((9, 3)))):
        with pytest.raises(DataError, match=said):
            Flow(other, batch_size=4)
    with pytest.raises(DataError, match=r"How large are the batches of .*\? Write batch_size=32 or budget=20_000\."):
        Flow(made)


def test_a_flow_may_say_that_nothing_is_shuffled() -> None:
    flow = Flow(data(budget=packed(30), shuffle_batches=True), shuffle=False)
    assert [index for batch in flow.batches(epochs=1) for index in batch.indices.tolist()] == list(range(10))  # type: ignore[union-attr]
    with pytest.raises(DataError, match="shuffle=True was asked for, and these data come"):
        Flow(data(budget=40, order="sorted"), shuffle=True)


def test_what_a_flow_knows_beforehand() -> None:
    told = Flow(data(), batch_size=4)
    assert (told.batches_per_epoch, told.samples, told.tokens, told.smallest) == (3, 10, sum(LENGTHS), 2)
    assert told.batches_of(2) == [3, 3]
    varying = Flow(data(budget=15))
    assert (varying.batches_per_epoch, varying.samples) == (None, 10)
    assert varying.batches_of(2) == [varying.batches_in(0), varying.batches_in(1)]
    kept = Flow(data(budget=15, keep=shortest(0.5)))
    assert (kept.samples, kept.tokens) == (None, None)
    streamed = Flow(Data(passing, lengths="x", budget=40))
    assert (streamed.batches_per_epoch, streamed.samples, streamed.batches_of(1)) == (None, None, None)


def test_a_cursor_beyond_the_epoch() -> None:
    with pytest.raises(DataError, match=r"There is no batch at Cursor\(epoch=1, batch=99\)"):
        data(budget=40).batches(Cursor(1, 99))
    with pytest.raises(DataError, match=r"There is no batch at Cursor\(epoch=0, batch=9\)"):
        list(Data(passing, lengths="x", batch_size=4).batches(Cursor(0, 9), epochs=1))


# --------------------------------------------------------------------------------------------------------- bad input

BAD: list[tuple[Callable[[], Any], type[EtudeError], str]] = [
    (lambda: data(batchsize=3), EtudeError, "batch_size"),
    (lambda: Data(data(budget=3)), DataError, "these are data already"),
    (lambda: data(budget=0), SettingError, "padded(0): a batch needs a limit above 0"),
    (lambda: data(budget=-3), SettingError, "a batch needs a limit above 0"),
    (lambda: data(budget=float("nan")), SettingError, "a batch needs a limit above 0"),
    (lambda: data(batch_size=0), SettingError, "samples(0): a batch needs a limit above 0"),
    (lambda: data(budget="40"), SettingError, "budget='40' is no limit"),
    (lambda: data(budget={"y": 40}), DataError, "padded(y=40): there is no stream 'y'."),
    (lambda: data(budget=cost(lambda lengths: lengths["y"], 9)), DataError, "there is no stream 'y'"),
    (lambda: data(budget=40, order="sortd"), DataError, "There is no order 'sortd'. Nearest: \"sorted\""),
    (lambda: data(budget=40, select=[1, 2]), SettingError, "select=[1, 2]: no selection. Write weighted(weights)"),
    (lambda: data(budget=40, keep=3), SettingError, "keep=3"),
    (lambda: data(budget=40, chunk={"y": 3}), DataError, "the data have no stream 'y'"),
    (lambda: data(budget=40, chunk=0), SettingError, "size"),
    (lambda: data(budget=40, pad={"y": 0}), DataError, "pad={'y': 0}: there is no part 'y'."),
    (lambda: data(budget=40, too_long="crop"), SettingError, "too_long='crop': known are 'alone', 'drop', 'error'."),
    (lambda: data(budget=40, pack="all"), SettingError, "pack='all': known are False, True, 'first_fit', 'strung'."),
    (lambda: data(budget=40, pack=1), SettingError, "pack=1: known are"),
    (lambda: data(budget=40, unreadable="pass"), SettingError, "unreadable='pass': known are 'raise', 'skip'."),
    (lambda: data(budget=40, subepochs=0), SettingError, "subepochs=0: a whole number from 1 on is needed."),
    (lambda: data(budget=40, repeat=1.5), SettingError, "repeat=1.5: a whole number from 1 on is needed."),
    (lambda: data(budget=40, shuffle_batches=0), SettingError, "shuffle_batches=0: a whole number from 1 on"),
    (lambda: data(budget=40, buckets=0), SettingError, "buckets=0: a whole number from 1 on"),
    (lambda: data(budget=40, shuffle_buffer=9), SettingError, "shuffle_buffer=9 is for what is read forward"),
    # What does not go together.
    (lambda: data(budget=40, drop_last=True), SettingError, "drop_last=True: only with"),
    (lambda: data(batch_size=lambda p: 3, drop_last=True), SettingError, "drop_last=True: only with"),
    (lambda: data(batch_size=3, order="strata", drop_last=True), SettingError, "batches of order='strata' differ"),
    (lambda: data(budget=40, buckets=2, pack=True), SettingError, "pack and buckets"),
    (lambda: data(buckets=buckets((9, 2)), budget=40), SettingError, "buckets say themselves how many"),
    (lambda: data(buckets=buckets((9, 2)), batch_size=4), SettingError, "buckets say themselves how many"),
    (lambda: data(buckets=2), SettingError, "buckets=2: how large may a batch be? Write budget=20_000 besides."),
    (lambda: data(budget=40, collate=list, pack=True), SettingError, "collate makes the batches itself"),
    (lambda: data(budget=40, collate=list, buckets=2), SettingError, "collate makes the batches itself"),
    (lambda: data(budget=40, collate=list, chunk=3), SettingError, "collate makes the batches of whole samples"),
    (lambda: data(budget=40, pool=9), SettingError, "pool=9 is for pack='first_fit'."),
    (lambda: data(batch_size=4, pack="strung"), SettingError, "pack='strung' fills batches up to a budget."),
    (lambda: data(budget=[40, packed(9)], pack="strung"), SettingError, "pack='strung' fills batches up to a budget."),
    (lambda: data(budget=packed(9), batch_size=4, pack="strung"), SettingError, "Leave batch_size out."),
    (lambda: data(budget=padding(9), pack="strung"), SettingError, "not by padding(9)."),
    (lambda: data(budget=packed(lambda p: 9), pack="first_fit"), SettingError, "needs a budget that stays the same"),
    (lambda: data(budget=packed(lambda p: 9), pack="strung"), SettingError, "needs a budget that stays the same"),
    (lambda: data(budget=padded(9), pack="first_fit").report(), SettingError, "Write budget=packed(audio=20_000)"),
    (lambda: data(budget=40, order="strata", pack=True), SettingError, "order='strata' makes batches of alike"),
    (lambda: data(budget=padding(9), order="strata"), SettingError, "order='strata' makes batches of alike"),
    (lambda: data(batch_size=4, order="side_by_side:3"), SettingError, "every batch has one sample of each stream"),
    # What needs lengths that are not known.
    (lambda: Data(Items(), budget=40), DataError, "padded(40) needs lengths, and those of Items are not known."),
    (lambda: Data(Items(), batch_size=4, order="sorted"), DataError, "needs lengths, and those of Items are not"),
    (lambda: Data(Items(), batch_size=4, keep=length(most=3)), DataError, "length(most=3) needs lengths"),
    (lambda: Data(Items(), batch_size=4, chunk=3), DataError, "chunk(3) needs lengths"),
    (lambda: Data(Items(), buckets=buckets((9, 2))), DataError, "buckets((9, 2)) needs lengths"),
    (lambda: Data(Items(), budget=40), DataError, "Write lengths='t' if that part is a sequence"),
    # What is read forward.
    (lambda: Data(passing, lengths="x", budget=40, order="sorted"), DataError, "needs to see all samples first"),
    (lambda: Data(passing, lengths="x", budget=40, order="strata"), DataError, "needs to see all samples first"),
    (lambda: Data(passing, lengths="x", budget=40, keep=shortest(0.5)), DataError, "compares all samples"),
    (lambda: Data(passing, budget=40), DataError, "Name the streams that have them"),
]


@pytest.mark.parametrize(("make", "kind", "said"), BAD, ids=[said[:40] for _, _, said in BAD])
def test_bad_input(make: Callable[[], Any], kind: type[EtudeError], said: str) -> None:
    with pytest.raises(kind, match=re.escape(said)):
        make()


def test_filters_that_need_no_lengths_do_without() -> None:
    made = Data(Items(), batch_size=4, keep=etude.data.dropped(0.5))
    assert 0 < made.report()[0].samples < 10


def test_streams_of_unequal_numbers_of_chunks_name_the_sample() -> None:
    two = [{"x": torch.zeros(6), "y": torch.zeros(3)}, {"x": torch.zeros(8), "y": torch.zeros(1)}]
    made = Data(two, lengths=("x", "y"), budget=40, chunk=chunk({"x": 4, "y": 2}))
    with pytest.raises(DataError, match="sample 1 has unequal numbers of chunks: 2 in 'x'"):
        made.report()


def test_a_part_of_the_data_is_filtered_by_the_scores_of_its_own_samples_and_tells_what_the_data_left_out() -> None:
    whole = [{"id": f"u{number}", "x": torch.zeros(number % 5 + 1)} for number in range(40)]
    other = [{"id": f"u{number}", "y": number} for number in range(30)]
    scores = np.random.default_rng(0).permutation(30)
    data = Data(
        joined({"x": whole, "y": other}, on="id", missing="drop"),
        lengths="x",
        batch_size=4,
        keep=easiest(scores, 0.5),
    )
    part = data.assembled.only(torch.arange(10, 30))
    flow = Flow(part)
    found = sorted(number for batch in flow.batches(epochs=1) for number in batch.values["y"].tolist())
    assert found == sorted(sorted(range(10, 30), key=scores.__getitem__)[:10])
    told = flow.report(0)
    assert told is not None
    assert sorted(told.left_out.values()) == [10, 10]
