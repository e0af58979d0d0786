"""First values of a net: which entry decides about which array, what they depend on, and where they came from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import etude
from etude import FROZEN, INHERIT, everything, initial, part, rules
from etude.errors import PartError, RuleError, SettingError, StateError
from etude.initial import Fresh, Initial, Load, Origins, initialize
from small import Noisy, arrays, classified, mlp, same, trained


def two_layers(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 3))


# ------------------------------------------------------------------------------------------------ which entry decides


def test_the_first_rule_that_has_an_array_decides() -> None:
    net = two_layers()
    origins = initialize(net, {"0.weight": 2, "*.bias": 0.5, everything: "orthogonal"})
    assert (net[0].weight == 2).all()
    assert all((net[place].bias == 0.5).all() for place in range(3))
    weight = net[2].weight.detach()
    assert (weight @ weight.T - torch.eye(3)).abs().max() < 1e-5
    assert [one.kind for one in origins] == ["set", "set", "as made", "set", "drawn", "set"]
    assert origins["2.weight"].how == "drawn: orthogonal()"
    assert origins["0.weight"].source == "(part('0.weight'), constant(2))"


def test_what_is_drawn_is_for_weights_and_leaves_biases_and_norms_to_other_rules() -> None:
    net = two_layers()
    before = arrays(net)
    origins = initialize(net, "kaiming_normal")
    assert origins.names("drawn") == ("0.weight", "2.weight")
    assert origins.names("as made") == ("0.bias", "1.weight", "1.bias", "2.bias")
    assert all(torch.equal(before[name], arrays(net)[name]) for name in origins.names("as made"))
    initialize(net, {nn.Linear: "normal", "*.bias": 7})
    assert (net[0].bias == 7).all()


def test_arrays_of_one_axis_that_are_meant_are_drawn() -> None:
    net = two_layers()
    assert initialize(net, {"*.bias": "uniform", "1.weight": initial.normal(0.1)}).names("drawn") == (
        *("0.bias", "1.weight", "1.bias", "2.bias"),
    )
    assert 0 < net[0].bias.min() < net[0].bias.max() < 1


def test_buffers_only_where_nothing_else_is_meant() -> None:
    net = Noisy()
    origins = initialize(net, {"body.1.running_mean": 3, "body.1.num_batches_tracked": 5, everything: 0})
    assert (net.body[1].running_mean == 3).all()
    assert net.body[1].num_batches_tracked == 5
    assert origins.names("as made") == ("body.1.running_var",)


def test_every_form_of_the_literal() -> None:
    reference = arrays(two_layers())
    forms: list[Any] = [
        {"0": 1, "2.weight": "orthogonal"},
        [("0", 1), ("2.weight", "orthogonal")],
        rules([("0", 1), ("2.weight", "orthogonal")]),
        [{"0": 1}, ("2.weight", initial.orthogonal)],
        [("0", initial.ones()), Fresh("2.weight", "orthogonal")],
        {"0": 1, "2": Fresh(part("2.weight"), "orthogonal")},
        {part("0"): 1, "2.bias": INHERIT, "2": initial.orthogonal()},
    ]
    made = []
    for literal in forms:
        net = two_layers()
        initialize(net, literal, seed=5)
        made.append(arrays(net))
    assert all(same(made[0], other) for other in made[1:])
    assert torch.equal(made[0]["2.bias"], reference["2.bias"])
    assert not torch.equal(made[0]["2.weight"], reference["2.weight"])


def test_fresh_keeps_an_array_from_later_rules() -> None:
    net = two_layers()
    before = arrays(net)
    origins = initialize(net, [Fresh("0"), (everything, 0)])
    assert torch.equal(net[0].weight, before["0.weight"])
    assert (net[2].weight == 0).all()
    assert (origins["0.weight"].kind, origins["0.weight"].source) == ("as made", "Fresh(part('0'))")


# ------------------------------------------------------------------------------------------------ what they depend on


def test_seed_and_name_alone_decide() -> None:
    small, large = two_layers(1), nn.Sequential(*two_layers(2), nn.Linear(3, 9))
    initialize(small, "glorot_uniform", seed=3)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    initialize(large, "glorot_uniform", seed=3)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(small[0].weight, large[0].weight)
    assert torch.equal(small[2].weight, large[2].weight)
    initialize(small, "glorot_uniform", seed=4)
    assert not torch.equal(small[0].weight, large[0].weight)


def test_equal_layers_get_different_numbers() -> None:
    net = nn.ModuleList([nn.Linear(3, 3), nn.Linear(3, 3)])
    initialize(net, "normal")
    assert not torch.equal(net[0].weight, net[1].weight)


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(5, 4), nn.Linear(4, 5, bias=False)
        self.head.weight = self.embed.weight


def test_an_array_that_is_shared_is_one() -> None:
    net, under_its_other_name = Tied(), Tied()
    origins = initialize(net, {"embed": "normal"})
    assert list(origins.arrays) == ["embed.weight"]
    initialize(under_its_other_name, {"head": "normal"})
    assert net.head.weight is net.embed.weight
    assert torch.equal(net.embed.weight, under_its_other_name.embed.weight)


def test_arrays_stay_the_same_objects_in_the_same_memory() -> None:
    net = two_layers()
    places = {name: (id(array), array.data_ptr()) for name, array in net.named_parameters()}
    initialize(net, {everything: "orthogonal", "*.bias": 1})
    assert places == {name: (id(array), array.data_ptr()) for name, array in net.named_parameters()}
    assert all(array.requires_grad and array.grad_fn is None for array in net.parameters())


def test_a_compiled_net_is_the_net_inside() -> None:
    net = two_layers()
    assert "0.weight" in initialize(torch.compile(net), "orthogonal").names("drawn")


# ------------------------------------------------------------------------------------------------ parametrisations


@pytest.mark.parametrize("put_on", [parametrizations.spectral_norm, parametrizations.weight_norm])
def test_what_a_parametrisation_makes_is_initialised_whole(put_on: Any) -> None:
    plain, made = nn.Linear(6, 4), put_on(nn.Linear(6, 4))
    places = {name: array.data_ptr() for name, array in made.named_parameters()}
    before = arrays(made)
    assert Initial("orthogonal").prove(made).names("drawn") == tuple(n for n in before if "original" in n)
    assert same(before, arrays(made))
    initialize(plain, "orthogonal")
    initialize(made, "orthogonal")
    assert (made.weight - plain.weight).abs().max() < 1e-4
    assert places == {name: array.data_ptr() for name, array in made.named_parameters()}


def test_the_estimates_of_a_spectral_norm_fit_the_new_weight() -> None:
    made = parametrizations.spectral_norm(nn.Linear(40, 40))
    initialize(made, {"parametrizations.weight.original": initial.normal(5.0)})
    assert torch.linalg.matrix_norm(made.weight.detach(), 2).item() == pytest.approx(1, abs=0.1)


def test_an_orthogonal_parametrisation_takes_an_orthogonal_matrix() -> None:
    made = parametrizations.orthogonal(nn.Linear(5, 5))
    plain = nn.Linear(5, 5)
    initialize(made, "orthogonal")
    initialize(plain, "orthogonal")
    assert (made.weight - plain.weight).abs().max() < 1e-4


class NoWayBack(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.abs()


class Refusing(NoWayBack):
    def right_inverse(self, x: Tensor) -> Tensor:
        if (x < 0).any():
            raise ValueError("negative")
        return x


def test_a_parametrisation_without_a_way_back_has_its_own_array_drawn() -> None:
    layer = nn.Linear(60, 40)
    nn.utils.parametrize.register_parametrization(layer, "weight", NoWayBack())
    initialize(layer, "lecun_normal")
    original = layer.parametrizations.weight.original
    assert original.min() < 0
    assert original.std().item() == pytest.approx(60**-0.5, rel=0.05)


def test_zeros_of_which_a_parametrisation_makes_nan_are_refused() -> None:
    for put_on in (parametrizations.weight_norm, parametrizations.spectral_norm):
        layer = put_on(nn.Linear(3, 2))
        before = arrays(layer)
        with pytest.raises(
            SettingError, match=r"'weight' is made by \w+, which makes of constant\(0\) numbers that are"
        ):
            initialize(layer, {everything: 0})
        assert same(arrays(layer), before)


def test_a_parametrisation_that_refuses_is_named_and_nothing_changes() -> None:
    layer = nn.Linear(6, 4)
    layer.weight.data.abs_()
    nn.utils.parametrize.register_parametrization(layer, "weight", Refusing())
    before = arrays(layer)
    made = Initial({"bias": 0, everything: "normal"})
    for call in (made.prove, made.apply):
        with pytest.raises(SettingError, match=r"'weight' is made by Refusing, which cannot be given a value: ValueE"):
            call(layer)
    assert same(before, arrays(layer))


@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
def test_the_old_weight_norm_is_refused() -> None:
    with pytest.raises(SettingError, match=r"is half of a weight: put weight_norm on by torch.nn.utils.parametriz"):
        initialize(nn.utils.weight_norm(nn.Linear(3, 3)), "orthogonal")


# ------------------------------------------------------------------------------------------------ the table


def test_the_table_of_origins() -> None:
    net = nn.Linear(3, 2)
    origins = initialize(net, {"weight": "he_normal"})
    assert str(origins).splitlines() == [
        "array   shape  origin              decided by",
        "weight  2x3    drawn: he_normal()  (part('weight'), he_normal())",
        "bias    2      as made             no entry",
    ]
    assert len(origins) == 2
    with pytest.raises(PartError, match=r"no array has that name\. Nearest: \"weight\""):
        origins["weights"]


def test_proving_tells_the_same_and_changes_nothing() -> None:
    net = Noisy()
    before = arrays(net)
    made = Initial({"head": "orthogonal", "body.0": nn.init.zeros_})
    proved = made.prove(net, 1)
    assert isinstance(proved, Origins)
    assert same(before, arrays(net))
    assert proved == made.apply(net, 1)
    assert not same(before, arrays(net))


def test_it_prints_as_what_makes_it() -> None:
    made = Initial({"*.bias": 0, nn.Linear: initial.normal(0.02)})
    names = {**vars(initial), "part": part, "nn": nn}
    assert repr(made) == "Initial([(part('*.bias'), constant(0)), (part(nn.Linear), normal(0.02))])"
    assert eval(repr(made), names) == made
    assert hash(eval(repr(made), names)) == hash(made)


# ------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("literal", "error", "told"),
    [
        ({}, SettingError, "says nothing"),
        ([], SettingError, "says nothing"),
        (None, SettingError, "None says nothing. Write Fresh"),
        ({"0": None}, SettingError, "None says nothing. Write Fresh"),
        ({"0": FROZEN}, SettingError, "FROZEN is no initialiser"),
        (["orthogonal"], SettingError, "'orthogonal' in a list is no entry"),
        ({"0": "ortogonal"}, SettingError, 'Nearest: "orthogonal"'),
        ({1.5: "orthogonal"}, PartError, "a float stands for no part"),
        ({"0": Fresh}, SettingError, "is no initialiser"),
    ],
)
def test_literals_that_stand_for_nothing(literal: Any, error: type[Exception], told: str) -> None:
    with pytest.raises(error, match=told):
        Initial(literal)


@pytest.mark.parametrize(
    ("literal", "error", "told"),
    [
        ({"1.weights": 0}, PartError, r"in \(part\('1.weights'\), constant\(0\)\).*Nearest: .*weight"),
        ({nn.Dropout: 0}, PartError, "no module is a Dropout"),
        ({"act": 0}, PartError, "selects no arrays. Name a layer"),
        ([("0", 1), Fresh("0.weight")], RuleError, r"Fresh\(part\('0.weight'\)\) never decides: earlier entries, such"),
    ],
)
def test_entries_that_cannot_act_on_a_net(literal: Any, error: type[Exception], told: str) -> None:
    net = two_layers()
    net.add_module("act", nn.ReLU())
    before = arrays(net)
    for call in (Initial(literal).prove, Initial(literal).apply):
        with pytest.raises(error, match=told):
            call(net)
    assert same(before, arrays(net))


def test_a_rule_that_earlier_ones_cover_is_told() -> None:
    with pytest.warns(UserWarning, match=r"\(part\('0.weight'\), constant\(0\)\) never decides: earlier entries"):
        initialize(two_layers(), {"0": 1, "0.weight": 0})


def test_all_that_is_wrong_is_told_at_once() -> None:
    with pytest.raises(PartError) as caught:
        initialize(two_layers(), {"7": 0, "body": 1})
    assert len(caught.value.faults) == 2


def test_nets_that_are_not_ready() -> None:
    with pytest.raises(StateError, match=r"'weight'.* have no shape as yet. Call the net once before"):
        initialize(nn.LazyLinear(3), "orthogonal")
    with pytest.raises(StateError, match=r"no memory. Write net.to_empty\(device='cpu'\)"):
        initialize(nn.Linear(2, 2, device="meta"), "orthogonal")
    with pytest.raises(SettingError, match=r"a net is needed. Write initialize\(net, 'orthogonal'\)"):
        initialize({}, "orthogonal")  # type: ignore[arg-type]
    with pytest.raises(SettingError, match="seed=-1"):
        initialize(mlp(), "orthogonal", seed=-1)


# ------------------------------------------------------------------------------------------------ in a run


def test_a_run_begins_with_these_values(tmp_path: Path) -> None:
    mine = mlp(3)
    initialize(mine, {"*.weight": "orthogonal", "*.bias": 0}, seed=7)
    initialised = trained(mlp(1), initialize={"*.weight": "orthogonal", "*.bias": 0}, seed=7)
    assert same(arrays(trained(mine, seed=7).net), arrays(initialised.net))


def test_the_plan_is_proved_without_a_change() -> None:
    net = mlp()
    before = arrays(net)
    plan = etude.Plan(loss="cross_entropy", epochs=1, initialize={"0": "orthogonal"})
    plan.check(net, classified())
    assert same(before, arrays(net))
    wrong = etude.Plan(loss="cross_entropy", epochs=1, initialize={"heda": "orthogonal"})
    with pytest.raises(PartError, match="heda"):
        wrong.check(net, classified())
    with pytest.raises(SettingError, match="ortogonal"):
        etude.Plan(loss="cross_entropy", epochs=1, initialize="ortogonal")


def test_a_run_that_goes_on_is_not_initialised_anew(tmp_path: Path) -> None:
    options = {"initialize": "orthogonal", "learning_rate": 0.1, "seed": 2}
    whole = trained(mlp(1), epochs=4, **options)
    kept = etude.Directory(tmp_path, etude.every(etude.epochs(1)))
    trained(mlp(1), epochs=4, checkpoint=kept, **options)
    again = trained(mlp(5), epochs=4, checkpoint=kept, resume=sorted(tmp_path.rglob("*.safetensors"))[1], **options)
    assert same(arrays(whole.net), arrays(again.net))


def test_lazy_nets_are_initialised_once_their_shapes_are_known() -> None:
    net = nn.Sequential(nn.LazyLinear(8), nn.ReLU(), nn.Linear(8, 3))
    trained(net, initialize={"0": 0}, learning_rate=1e-9)
    assert net[0].weight.abs().max() < 1e-6


def test_a_net_is_loaded_in_a_run(tmp_path: Path) -> None:
    source = mlp(4)
    torch.save(source.state_dict(), tmp_path / "a.pt")
    result = trained(mlp(1), initialize=Load(tmp_path / "a.pt"), learning_rate=1e-9)
    assert (arrays(result.net)["0.weight"] - source[0].weight).abs().max() < 1e-6


def test_what_the_net_held_before_is_of_no_account() -> None:
    """Not even numbers that are none: the proof tries the plan on the net as it is given."""
    literal = {"*.weight": "orthogonal", "*.bias": 0}
    empty, begun = mlp(), mlp(3)
    with torch.no_grad():
        for array in empty.parameters():
            array.fill_(float("nan"))
    initialize(begun, literal)
    options: dict[str, Any] = {"averages": etude.ema(0.9), "validation": 0.3, "learning_rate": 0.1, "epochs": 2}
    mine, reference = trained(empty, initialize=literal, **options), trained(begun, **options)
    assert same(arrays(mine.net), arrays(reference.net))
    assert same(mine.averages["ema"], reference.averages["ema"])
    assert mine.history["loss"].values == reference.history["loss"].values


def test_the_result_and_the_plan_tell_where_arrays_come_from() -> None:
    plan = etude.Plan(loss="cross_entropy", epochs=1, initialize={"0.weight": "orthogonal"})
    assert "drawn: orthogonal()" in plan.check(mlp(), classified()).show()
    assert "drawn: orthogonal()" in trained(initialize={"0.weight": "orthogonal"}).origins
