"""Samples in chunks: the recorded cases of RETURNN, several streams, what is left out and counted, bad input."""

from __future__ import annotations

import json
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from etude.data.plan.chunks import Chunk, Chunks, chunk, chunking, cut_chunks
from etude.data.plan.lengths import Lengths, lengths_of
from etude.errors import DataError, SettingError

RECORDED = json.loads((Path(__file__).parent / "fixtures" / "units.json").read_text())["chunking"]


def as_given(case: dict[str, Any]) -> tuple[Chunk, Lengths]:
    """The rule and the lengths of a recorded case."""
    size, least = case["settings"]["chunking"], case["settings"]["min_chunk_size"]
    rule = chunk(*size, least=least) if isinstance(size, list) else chunk(size, least=least)
    return rule, lengths_of({name: [sample[name] for sample in case["lengths"]] for name in case["lengths"][0]})


def by_sample(made: Chunks, lengths: Lengths) -> list[list[dict[str, list[int]]]]:
    """Chunks as they are recorded; streams that come whole as windows over all of them."""
    listed: list[list[dict[str, list[int]]]] = [[] for _ in range(len(lengths))]
    for place, sample in enumerate(made.sample):
        cut = {name: [int(starts[place]), int(stops[place])] for name, (starts, stops) in made.windows.items()}
        whole = {name: [0, int(lengths[name][sample])] for name in lengths.names if name not in cut}
        listed[sample].append(cut | whole)
    return listed


def windows(made: Chunks, stream: str = "x") -> list[tuple[int, int]]:
    starts, stops = made.windows[stream]
    return list(zip(starts.tolist(), stops.tolist(), strict=True))


@pytest.mark.parametrize("case", [case for case in RECORDED if "chunks" in case["expect"]], ids=lambda case: case["id"])
def test_recorded(case: dict[str, Any]) -> None:
    rule, lengths = as_given(case)
    made = cut_chunks(rule, lengths)
    assert by_sample(made, lengths) == case["expect"]["chunks"]
    assert made.dropped == case["expect"]["chunks"].count([])
    for name, (starts, stops) in made.windows.items():
        assert made.lengths[name].tolist() == (stops - starts).tolist()


def test_unequal_ratios_are_refused_before_any_data() -> None:
    (case,) = (case for case in RECORDED if "raises" in case["expect"])
    with pytest.raises(SettingError, match=r"as 12 to 4, their steps as 6 to 1, .* Write 'classes': 2\."):
        as_given(case)


def test_the_chunks_of_a_sample_come_one_after_the_other() -> None:
    made = cut_chunks(chunk(5, step=2), lengths_of({"x": [6, 0, 11]}))
    assert [sample for sample, _ in groupby(made.sample.tolist())] == [0, 2]
    assert len(made) == len(made.sample) == 9
    assert made.sample.dtype == made.lengths.lead.dtype == np.int64


def test_streams_that_are_not_named_come_whole_with_every_chunk() -> None:
    made = cut_chunks(chunk({"x": 4}), lengths_of({"x": [6, 3], "text": [9, 2]}))
    assert list(made.windows) == ["x"]
    assert made.lengths["text"].tolist() == [9, 9, 2]
    assert made.lengths.names == ("x", "text")


def test_the_first_chunk_that_reaches_the_end_can_be_the_last() -> None:
    lengths = lengths_of({"x": [4, 5, 6, 7, 8]})
    made = cut_chunks(chunk(5, step=2, stop_at_end=True), lengths)
    assert windows(made) == [(0, 4), (0, 5), (0, 5), (2, 6), (0, 5), (2, 7), (0, 5), (2, 7), (4, 8)]
    assert made.lost == {"x": 0}
    assert windows(cut_chunks(chunk(3, step=6, stop_at_end=True), lengths_of({"x": [5, 7, 0]}))) == [
        (0, 3),
        (0, 3),
        (6, 7),
    ]


@pytest.mark.parametrize("stop_at_end", [False, True])
@pytest.mark.parametrize("jitter", [False, True])
def test_targets_divided_rounding_up_fit_at_every_length(stop_at_end: bool, jitter: bool) -> None:
    frames = np.arange(400)
    rule = chunk(
        {"audio": 12, "labels": 4}, {"audio": 6, "labels": 2}, stop_at_end=stop_at_end, jitter=jitter, variance=0.4
    )
    made = cut_chunks(rule, lengths_of({"audio": frames, "labels": -(-frames // 3)}), epoch=3, seed=1)
    starts, stops = made.windows["audio"]
    label_starts, label_stops = made.windows["labels"]
    assert (starts == 3 * label_starts).all()
    assert (-(-stops // 3) == label_stops).all()


def test_least_as_a_number_means_the_first_stream_that_is_cut() -> None:
    lengths = lengths_of({"audio": [14, 18], "labels": [5, 6]})
    rule = chunk({"audio": 12, "labels": 4}, least=3)
    assert cut_chunks(rule, lengths).lengths["labels"].tolist() == [4, 4, 2]
    by_name = chunk({"audio": 12, "labels": 4}, least={"labels": 3})
    assert cut_chunks(by_name, lengths).lengths["labels"].tolist() == [4, 4]


def test_least_by_stream_goes_with_one_size_for_all() -> None:
    lengths = lengths_of({"x": [7], "y": [7]})
    assert windows(cut_chunks(chunk(4, least={"y": 4}), lengths)) == [(0, 4)]


def test_what_is_left_out_is_counted() -> None:
    made = cut_chunks(chunk(4, step=6, least=2), lengths_of({"x": [1, 7, 12, 0]}))
    assert windows(made) == [(0, 4), (0, 4), (6, 10)]
    assert (made.dropped, made.short, made.unlabelled) == (2, 2, 0)
    assert made.lost == {"x": 1 + 3 + 4}


def test_frames_in_several_chunks_are_lost_once() -> None:
    made = cut_chunks(chunk(4, step=2, least=4), lengths_of({"x": [9]}))
    assert windows(made) == [(0, 4), (2, 6), (4, 8)]
    assert made.lost == {"x": 1}


def test_unequal_numbers_of_chunks_name_the_sample() -> None:
    lengths = lengths_of({"audio": [12, 13], "labels": [3, 3]})
    said = r"sample 1 has unequal numbers of chunks: 2 in 'audio' \(length 13\) and 1 in 'labels' \(length 3\)\."
    with pytest.raises(DataError, match=said + r" Lengths must be divided rounding up; unlabelled='skip'"):
        cut_chunks(chunk({"audio": 12, "labels": 3}), lengths)
    with pytest.raises(DataError, match=r"sample 1 .* name only one: chunk\(\{'audio': 4\}\)"):
        cut_chunks(chunk(4), lengths_of({"audio": [4, 9], "labels": [4, 1]}))


def test_the_sample_is_named_as_it_is_called() -> None:
    lengths = lengths_of({"audio": [13], "labels": [3]})
    with pytest.raises(DataError, match="sequence 70 has unequal"):
        cut_chunks(chunk({"audio": 12, "labels": 3}), lengths, samples=np.array([70]), called=lambda n: f"sequence {n}")


def test_samples_keep_their_numbers() -> None:
    made = cut_chunks(chunk(4), lengths_of({"x": [3, 5]}), samples=np.array([70, 3]))
    assert made.sample.tolist() == [70, 3, 3]


def test_chunks_without_labels_can_be_left_out() -> None:
    # 13 frames divided rounding down are 3 labels, none of which is in the chunk from frame 12 on.
    lengths = lengths_of({"audio": [13, 9, 30], "labels": [3, 2, 0]})
    made = cut_chunks(chunk({"audio": 12, "labels": 3}, unlabelled="skip"), lengths)
    assert windows(made, "audio") == [(0, 12), (0, 9)]
    assert (made.unlabelled, made.dropped, made.short) == (1 + 3, 1, 0)
    assert made.lost == {"audio": 1 + 30, "labels": 0}


def test_a_stream_that_misses_more_than_its_end_is_no_slip_of_rounding() -> None:
    lengths = lengths_of({"audio": [60], "labels": [6]})
    with pytest.raises(DataError, match=r"5 in 'audio' \(length 60\) and 2 in 'labels'"):
        cut_chunks(chunk({"audio": 12, "labels": 3}, unlabelled="skip"), lengths)


def test_single_labels_can_come_with_every_chunk_of_their_sample() -> None:
    lengths = lengths_of({"x": [9, 8, 1], "class": [1, 8, 1]})
    made = cut_chunks(chunk(4, unlabelled="whole"), lengths)
    assert windows(made) == [(0, 4), (4, 8), (8, 9), (0, 4), (4, 8), (0, 1)]
    assert windows(made, "class") == [(0, 1)] * 3 + [(0, 4), (4, 8), (0, 1)]
    with pytest.raises(DataError, match="sample 0 has unequal"):
        cut_chunks(chunk(4, unlabelled="whole"), lengths_of({"x": [9], "class": [2]}))


def test_jitter_shifts_every_epoch_anew_and_loses_nothing() -> None:
    lengths, rule = lengths_of({"x": [50] * 200}), chunk(10, jitter=True)
    epochs = [cut_chunks(rule, lengths, epoch=epoch, seed=1) for epoch in (0, 1, 0)]
    assert windows(epochs[0]) == windows(epochs[2]) != windows(epochs[1])
    assert all(made.lost == {"x": 0} and made.dropped == 0 for made in epochs)
    ends = epochs[0].windows["x"][1][np.flatnonzero(epochs[0].windows["x"][0] == 0)]
    assert set(ends.tolist()) == set(range(1, 11))


def test_jitter_over_gaps_has_no_empty_chunks() -> None:
    made = cut_chunks(chunk(2, step=8, jitter=True), lengths_of({"x": [20] * 300}), seed=1)
    assert made.lengths.lead.min() >= 1
    assert made.short == 0


def test_variance_scales_size_and_step_alike() -> None:
    rule = chunk({"x": 100, "y": 25}, variance=0.3)
    made = cut_chunks(rule, lengths_of({"x": [100] * 500, "y": [25] * 500}), seed=2)
    first = made.windows["y"][0] == 0
    sizes = made.lengths["y"][first]
    assert sizes.min() == 17
    assert 24 <= sizes.max() <= 25
    assert (made.lengths["x"][first] == 4 * sizes).all()
    assert made.lost == {"x": 0, "y": 0}


def test_chance_of_a_sample_does_not_depend_on_what_is_cut_with_it() -> None:
    lengths, rule = lengths_of({"x": np.arange(30, 90)}), chunk(10, step=7, jitter=True, variance=0.5)
    whole = cut_chunks(rule, lengths, epoch=2, seed=3)
    ends = [0, 1, 8, 60]
    apart = [cut_chunks(rule, lengths.take(np.arange(a, b)), epoch=2, seed=3, first=a) for a, b in pairwise(ends)]
    assert windows(whole) == [window for made in apart for window in windows(made)]


def test_what_changes_from_epoch_to_epoch_says_so() -> None:
    assert [chunk(5).changes, chunk(5, jitter=True).changes, chunk(5, variance=0.1).changes] == [False, True, True]


def test_literals() -> None:
    assert chunking(None) is None
    assert chunking(chunk(5)) == chunking(5) == chunking("5") == chunk(5, step=5)
    assert chunking("5:2") == chunking((5, 2)) == chunking([np.int64(5), 2]) == chunk(5, step=2)
    assert chunking({"x": 6}) == chunk({"x": 6}) == chunk({"x": 6}, step=6)
    assert chunking(({"x": 6, "y": 2}, {"x": 3, "y": 1})) == chunk({"x": 6, "y": 2}, {"y": 1, "x": 3})


@pytest.mark.parametrize(
    "text",
    [
        "chunk(5)",
        "chunk(5, step=2, least=3, stop_at_end=True)",
        "chunk({'x': 12, 'y': 4}, step={'x': 6, 'y': 2}, least={'y': 1}, unlabelled='skip')",
        "chunk(9, jitter=True, variance=0.2)",
    ],
)
def test_prints_as_what_makes_it(text: str) -> None:
    made = eval(text, {"chunk": chunk})
    assert repr(made) == text
    assert hash(made) == hash(eval(text, {"chunk": chunk}))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"size": 0}, r"size is 0\. Write a whole number of frames from 1 on"),
        ({"size": {"x": -4}}, r"size of 'x' is -4"),
        ({"size": {}}, r"size is \{\}"),
        ({"size": 2.5}, r"size is 2\.5"),
        ({"size": True}, r"size is True"),
        ({"size": "5,2"}, r"""chunk\('5,2'\): text is a size, .* Write "5:2"\."""),
        ({"size": "5:2", "step": 3}, r"chunk\('5:2', step=3\)"),
        ({"size": 5, "step": 0}, r"step is 0"),
        ({"size": 5, "least": -1}, r"least is -1\. Write a whole number of frames from 0 on"),
        ({"size": 5, "least": 6}, r"least=6 is above the size 5, so that no chunk would be left"),
        ({"size": {"x": 8, "y": 2}, "least": {"y": 3}}, r"least=3 is above the size 2"),
        ({"size": {"audio": 8}, "step": {"audo": 4}}, r"""step names the stream 'audo', .* Nearest: "audio"\."""),
        ({"size": {"audio": 8}, "least": {"text": 4}}, r"Streams with a size: 'audio'"),
        ({"size": {"x": 8, "y": 2}, "step": 4}, r"one is by stream, the other not\. Write step=\{'x': \.\.\., 'y'"),
        ({"size": 8, "step": {"x": 4}}, r"Write both by stream"),
        ({"size": {"x": 9, "y": 4}, "step": {"x": 3, "y": 1}}, r"such that step \* 4 / 9 is whole"),
        ({"size": 5, "unlabelled": "skp"}, r"""unlabelled='skp' is not known\. Nearest: "skip"\."""),
        ({"size": 5, "stop_at_end": 1}, r"stop_at_end=1 is no yes or no"),
        ({"size": 5, "jitter": 3}, r"jitter=3 is no yes or no"),
        ({"size": 5, "variance": 1}, r"variance=1\. Write a number from 0 to below 1"),
        ({"size": 5, "variance": float("nan")}, r"variance=nan"),
        ({"size": 5, "steps": 2}, r"""There is no argument 'steps'\. Nearest: "step"\."""),
    ],
)
def test_bad_options(options: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        chunk(**options)


@pytest.mark.parametrize("literal", [2.5, (1, 2, 3), True, int])
def test_what_is_no_chunking(literal: Any) -> None:
    with pytest.raises(SettingError, match=r"no size of a chunk\. Write 500, \(500, 250\) for size and step"):
        chunking(literal)


def test_streams_that_the_data_lack() -> None:
    lengths = lengths_of({"audio": [4], "labels": [2]})
    with pytest.raises(
        DataError, match=r"""no stream 'label'\. Nearest: "labels"\. Streams with lengths: 'audio', 'labels'"""
    ):
        cut_chunks(chunk({"audio": 4, "label": 2}), lengths)
    with pytest.raises(DataError, match="no stream 'text'"):
        cut_chunks(chunk(4, least={"text": 2}), lengths)


def test_no_samples_have_no_chunks() -> None:
    made = cut_chunks(chunk(4), lengths_of({"x": np.zeros(0, np.int64)}))
    assert (len(made), made.dropped, made.lost) == (0, 0, {"x": 0})
