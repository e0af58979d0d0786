"""A table as text: columns, rules, steps of moving, and why an array is as it is."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from etude.bind.resolve import resolve
from etude.bind.show import progress_at
from etude.bind.table import Table
from etude.errors import PartError
from etude.step.trainer import Trainer
from etude.values.curves import cosine, linear, warmup
from etude.values.marks import FROZEN
from etude.values.part import everything, part
from etude.values.progress import Extent, Progress
from etude.values.rules import rules, times
from etude.values.schedule import pieces, schedule, update_schedule
from etude.values.spans import steps
from etude.values.tree import Tree
from nets import chain, graph, tied


def table(net: nn.Module, literal: Any = None, moves: Any = None, base: Any = 0.1, decay: Any = None) -> Table:
    bases = {"learning_rate": schedule(base), "weight_decay": schedule(0.01)}
    made = {
        "learning_rate": rules(literal, setting="learning_rate"),
        "weight_decay": rules(decay, setting="weight_decay"),
    }
    return resolve(Tree(net), bases, made, update_schedule(moves))


def cells(made: Table, extent: Extent | None = None) -> list[list[str]]:
    """The lines of the table, cut where two spaces or more are."""
    return [[cell.strip() for cell in line.split("  ") if cell.strip()] for line in made.show(extent).splitlines()]


def test_a_line_for_each_array_with_shape_rates_rule_and_steps() -> None:
    assert cells(table(chain(), {0: times(0.5), "2.bias": FROZEN})) == [
        ["array", "shape", "learning_rate now/peak/end", "decided by", "moves"],
        ["0.weight", "5x3", "0.05", "part(0): times(0.5)", "every step"],
        ["0.bias", "5", "0.05", "part(0): times(0.5)", "every step"],
        ["2.weight", "2x5", "0.1", "no rule", "every step"],
        ["2.bias", "2", "frozen", "part('2.bias'): FROZEN", "never"],
    ]


def test_a_scheduled_rate_is_shown_now_at_its_peak_and_at_its_end() -> None:
    made = table(chain(), {0: times(-2)}, base=warmup(steps(2)) * linear(1, 0))
    shown = cells(made, Extent(steps=10))
    assert shown[1][2] == "-1/-1.8/-0.2"
    assert shown[3][2] == "0.5/0.9/0.1"


def test_held_for_a_while_is_said() -> None:
    made = table(chain(), {0: times(pieces(FROZEN, (steps(3), 1)))})
    assert cells(made, Extent(steps=9))[1][2:] == [
        "held/0.1/0.1",
        "part(0): times(pieces(FROZEN, (steps(3), 1)))",
        "4-9 (6 of 9)",
    ]


def test_the_steps_at_which_an_array_moves_are_counted_from_one() -> None:
    made = table(graph(), moves=[part("a") * 3, "b"])
    shown = {line[0]: line[-1] for line in cells(made, Extent(steps=16))}
    assert shown["a.weight"] == "1-3, 5-7, 9-11, ... (12 of 16)"
    assert shown["b.weight"] == "4, 8, 12, ... (4 of 16)"
    assert shown["out.weight"] == "never"


def test_settings_that_a_rule_decides_or_that_change_have_a_column() -> None:
    made = table(chain(), {0: 0.3}, decay={"*.bias": 0})
    assert cells(made)[0][3] == "weight_decay now/peak/end"
    assert cells(made)[2][2:5] == ["0.3", "0", "part(0): 0.3; part('*.bias'): 0"]
    assert all("weight_decay" not in cell for cell in cells(table(chain()))[0])
    changing = Trainer(chain(), "adamw", weight_decay=cosine(0.1), total=steps(10)).table
    assert "weight_decay now/peak/end" in changing.show(Extent(steps=10))


def test_frozen_statistics_and_covered_rules_are_noted() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    assert table(net, {1: 0}).show().splitlines()[-1].startswith("frozen statistics: 1.running_mean, 1.running_var")
    with pytest.warns(UserWarning, match="never decides"):
        made = table(net, [(everything, 1), (0, 2)])
    assert made.show().splitlines()[-1] == "never decides (covered by earlier rules): learning_rate: part(0): 2"


def test_why_names_the_rule_of_every_setting_under_any_name() -> None:
    made = table(tied(), {"out": times(0.5)}, decay={"emb": 0})
    text = made.why("out.weight")
    assert text == made.why("emb.weight")
    assert text.splitlines() == [
        "emb.weight 3x3, shared as out.weight",
        "  learning_rate = 0.1 * 0.5    (part('out'): times(0.5))",
        "  weight_decay = 0    (part('emb'): 0)",
        "  moves: every step",
    ]


def test_why_tells_frozen_scheduled_and_left() -> None:
    net = graph()
    made = table(net, {"b.bias": 0, "a": times(linear(1, 0, over=steps(3)))}, moves=["a", "b"])
    assert "learning_rate = FROZEN    (part('b.bias'): FROZEN)\n" in made.why("b.bias")
    assert made.why("b.bias").endswith("moves: never (frozen)")
    assert "0.1 * linear(1, 0, over=steps(3))" in made.why("a.bias")
    assert made.why("a.bias").endswith("moves: as the update schedule says: cycle(part('a'), part('b'))")
    assert "(no rule)" in made.why("out.bias")


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("1.wieght", r"There are: '0.weight', '0.bias', '1.weight', '1.bias'\. Nearest: .*\"1.weight\""),
        ("1", r"It stands for several: ask why\('1.weight'\), of '1.weight', '1.bias'"),
        ("1.running_mean", "What has it is a buffer"),
    ],
)
def test_why_of_what_is_not_there(name: str, instead: str) -> None:
    made = table(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)))
    with pytest.raises(PartError, match=rf"why\('{name}'\): no trainable array has that name. {instead}"):
        made.why(name)


def test_arrays_without_a_shape_say_so() -> None:
    net = nn.Sequential(nn.LazyLinear(2))
    made = table(net)
    assert cells(made)[1][:2] == ["0.weight", "not yet known"]
    assert "not yet known" in made.why("0.weight")


def test_a_scalar_has_a_shape_in_words() -> None:
    net = nn.Module()
    net.scale = nn.Parameter(nn.Linear(1, 1).bias.detach()[0].clone())
    assert cells(table(net))[1][:2] == ["scale", "scalar"]


def test_a_long_run_is_looked_at_here_and_there() -> None:
    made = table(graph(), moves=["a", "b"], base=linear(1, 0))
    shown = {line[0]: line[2:] for line in cells(made, Extent(steps=100_000))}
    assert shown["a.weight"][0].startswith("1/1/")
    assert "about" in shown["a.weight"][-1]


def test_the_clock_of_a_step_goes_at_the_mean_pace() -> None:
    extent = Extent(steps=10, epochs=2, samples=80)
    assert progress_at(extent, 5) == Progress(5, 1.0, 40, 0, extent)
    assert progress_at(Extent(), 5) == Progress(5, 0.0, 0, 0, Extent())


def test_many_rules_of_an_array_are_cut_and_why_says_them_whole() -> None:
    long = times(pieces(0.1, (steps(1), 0.2), (steps(2), 0.3), (steps(3), 0.4)))
    made = table(chain(), {0: long}, decay={0: pieces(0.1, (steps(1), 0.2), (steps(2), 0.3), (steps(3), 0.4))})
    (decided,) = (cell for cell in cells(made, Extent(steps=9))[1] if cell.startswith("part(0)"))
    assert len(decided) == 96
    assert decided.endswith("...")
    assert "(steps(3), 0.4)" in made.why("0.weight")
