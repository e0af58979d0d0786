"""One initialiser at a time: its width, the fans of torch's modules, its text, and what it refuses."""

from __future__ import annotations

import random
from collections.abc import Callable
from math import sqrt
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from etude import Plan, initial, linear, steps, times
from etude.errors import SettingError
from etude.initial import Initialiser, initialize
from etude.initial.names import NAMES, initialiser
from etude.initial.units import fans, layout_of
from small import arrays, classified, mlp, same

torch.set_num_threads(1)


def made(net: nn.Module, how: Any, name: str = "weight", seed: int = 0) -> Tensor:
    """An array of a net after it was initialised."""
    initialize(net, {name: how}, seed)
    found: Tensor = net.get_parameter(name).detach()
    return found


# ------------------------------------------------------------------------------------------------ distributions


OUT, IN = 300, 200
STDS = {
    "normal": 1.0,
    "truncated_normal": 0.87963,
    "uniform": 1 / sqrt(12),
    "variance_scaling": sqrt(1 / IN),
    "glorot_uniform": sqrt(2 / (IN + OUT)),
    "glorot_normal": sqrt(2 / (IN + OUT)),
    "xavier_uniform": sqrt(2 / (IN + OUT)),
    "xavier_normal": sqrt(2 / (IN + OUT)),
    "he_uniform": sqrt(2 / IN),
    "he_normal": sqrt(2 / IN),
    "kaiming_uniform": sqrt(2 / IN),
    "kaiming_normal": sqrt(2 / IN),
    "lecun_uniform": sqrt(1 / IN),
    "lecun_normal": sqrt(1 / IN),
    "orthogonal": sqrt(1 / OUT),
    "zeros": 0.0,
    "ones": 0.0,
}


@pytest.mark.parametrize(("name", "std"), STDS.items())
def test_names_have_the_width_that_they_promise(name: str, std: float) -> None:
    found = made(nn.Linear(IN, OUT), name)
    assert found.std().item() == pytest.approx(std, rel=0.015)
    assert found.mean().item() == pytest.approx({"uniform": 0.5, "ones": 1.0}.get(name, 0.0), abs=0.02 * std)


@pytest.mark.parametrize("name", ["glorot_normal", "he_normal", "lecun_normal", "truncated_normal"])
def test_what_is_cut_has_nothing_beyond_two_standard_deviations(name: str) -> None:
    found = made(nn.Linear(IN, OUT), name)
    assert 2.2 < (found.abs().max() / found.std()).item() <= 2 / 0.8796


@pytest.mark.parametrize("name", ["xavier_normal", "kaiming_normal", "normal"])
def test_what_is_not_cut_has(name: str) -> None:
    found = made(nn.Linear(IN, OUT), name)
    assert (found.abs().max() / found.std()).item() > 3.5


@pytest.mark.parametrize(
    ("ours", "torchs"),
    [
        (initial.xavier_uniform(2.0), lambda w: nn.init.xavier_uniform_(w, 2.0)),
        (initial.xavier_normal(0.5), lambda w: nn.init.xavier_normal_(w, 0.5)),
        (initial.kaiming_uniform(0.2, "fan_out"), lambda w: nn.init.kaiming_uniform_(w, 0.2, "fan_out")),
        (initial.kaiming_normal(nonlinearity="tanh"), lambda w: nn.init.kaiming_normal_(w, nonlinearity="tanh")),
        (initial.kaiming_normal(5.0, nonlinearity="relu"), lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu")),
        (initial.normal(0.3, 1.0), lambda w: nn.init.normal_(w, 1.0, 0.3)),
        (initial.truncated_normal(), lambda w: nn.init.trunc_normal_(w)),
        (initial.uniform(-1.0, 3.0), lambda w: nn.init.uniform_(w, -1.0, 3.0)),
        (initial.orthogonal(2.0), lambda w: nn.init.orthogonal_(w, 2.0)),
        (initial.sparse(0.9, 0.5), lambda w: nn.init.sparse_(w, 0.9, 0.5)),
    ],
    ids=lambda how: repr(how) if isinstance(how, Initialiser) else "",
)
def test_as_wide_as_in_torch(ours: Initialiser, torchs: Callable[[Tensor], Tensor]) -> None:
    found, reference = made(nn.Linear(IN, OUT), ours), torchs(torch.empty(OUT, IN))
    assert found.std().item() == pytest.approx(reference.std().item(), rel=0.03)
    assert found.mean().item() == pytest.approx(reference.mean().item(), abs=0.03 * reference.std().item())


def test_zeros_among_the_inputs() -> None:
    found = made(nn.Linear(20, 10), initial.sparse(0.8))
    assert ((found == 0).sum(0) == 8).all()


def test_identity_and_dirac_pass_their_input_on() -> None:
    layer, x = nn.Linear(3, 3, bias=False), torch.randn(2, 3)
    made(layer, "identity")
    assert torch.equal(layer(x), x)
    assert torch.equal(made(nn.Linear(3, 2), initial.identity(2.0)), 2 * torch.eye(2, 3))
    kernel, image = nn.Conv2d(4, 4, 3, padding=1, bias=False, groups=2), torch.randn(1, 4, 5, 5)
    made(kernel, "dirac")
    assert torch.equal(kernel(image), image)
    back = nn.ConvTranspose2d(4, 4, 3, padding=1, bias=False, groups=2)
    made(back, initial.dirac())
    assert torch.equal(back(image), image)


# ------------------------------------------------------------------------------------------------ fans and blocks


@pytest.mark.parametrize(
    ("module", "name", "expected"),
    [
        (nn.Linear(3, 5), "weight", (3, 5)),
        (nn.Linear(3, 5), "bias", (5, 5)),
        (nn.Conv1d(4, 6, 5), "weight", (20, 30)),
        (nn.Conv2d(4, 6, (3, 2)), "weight", (24, 36)),
        (nn.Conv2d(4, 8, 3, groups=4), "weight", (9, 18)),
        (nn.ConvTranspose1d(4, 6, 5), "weight", (20, 30)),
        (nn.ConvTranspose2d(4, 8, 3, groups=4), "weight", (9, 18)),
        (nn.Embedding(10, 4), "weight", (4, 10)),
        (nn.Bilinear(2, 3, 4), "weight", (6, 12)),
        (nn.PReLU(), "weight", (1, 1)),
    ],
)
def test_fans_of_torchs_modules(module: nn.Module, name: str, expected: tuple[int, int]) -> None:
    shape = tuple(module.get_parameter(name).shape)
    assert fans(shape, layout_of(module, name)) == expected


def test_fans_of_plain_convolutions_are_torchs() -> None:
    for weight in (nn.Conv3d(2, 5, 3).weight, nn.Linear(7, 2).weight, nn.Bilinear(2, 3, 4).weight):
        assert fans(tuple(weight.shape)) == nn.init._calculate_fan_in_and_fan_out(weight)


@pytest.mark.parametrize(
    ("module", "blocks"),
    [
        (nn.LSTM(40, 40, 2, bidirectional=True), 4),
        (nn.GRU(40, 40), 3),
        (nn.RNN(40, 40), 1),
        (nn.LSTMCell(40, 40), 4),
        (nn.GRUCell(40, 40), 3),
        (nn.MultiheadAttention(40, 2), 3),
    ],
)
def test_every_block_is_an_array_of_its_own(module: nn.Module, blocks: int) -> None:
    initialize(module, "orthogonal")
    names = [name for name, array in module.named_parameters() if array.ndim == 2 and "out_proj" not in name]
    for name in names:
        pieces = module.get_parameter(name).detach().chunk(blocks)
        for piece in pieces:
            side = piece.shape[0]
            assert (piece @ piece.T - torch.eye(side)).abs().max() < 1e-5
        assert blocks == 1 or not torch.equal(pieces[0], pieces[1])


def test_gates_have_fans_of_their_own() -> None:
    lstm = nn.LSTM(300, 100, proj_size=50)
    initialize(lstm, "glorot_uniform")
    assert lstm.weight_ih_l0.std().item() == pytest.approx(sqrt(2 / 400), rel=0.02)
    assert lstm.weight_hr_l0.std().item() == pytest.approx(sqrt(2 / 150), rel=0.05)


def test_blocks_and_orders_of_axes_can_be_said() -> None:
    fused = nn.Linear(50, 150)
    initialize(fused, {"weight": initial.blocks(3, "orthogonal")})
    for piece in fused.weight.detach().chunk(3):
        assert (piece @ piece.T - torch.eye(50)).abs().max() < 1e-5
    kept = nn.ParameterDict({"w": torch.empty(20, 500)})
    found = made(kept, initial.transposed("lecun_normal"), "w")
    assert found.std().item() == pytest.approx(sqrt(1 / 20), rel=0.03)
    assert made(kept, "lecun_normal", "w").std().item() == pytest.approx(sqrt(1 / 500), rel=0.03)


def test_half_and_double_precision() -> None:
    single, double = made(nn.Linear(9, 9), "he_normal"), made(nn.Linear(9, 9).double(), "he_normal")
    assert torch.equal(made(nn.Linear(9, 9).bfloat16(), "he_normal"), single.bfloat16())
    assert double.dtype == torch.float64
    assert not torch.equal(double, double.float().double())


MODULES: list[Callable[[], nn.Module]] = [
    lambda: nn.Linear(4, 6),
    lambda: nn.Conv2d(4, 4, 3, groups=2),
    lambda: nn.ConvTranspose1d(4, 6, 3, groups=2),
    lambda: nn.LSTM(4, 4, 2, bidirectional=True, proj_size=2),
    lambda: nn.GRUCell(4, 4),
    lambda: nn.MultiheadAttention(4, 2, add_bias_kv=True),
    lambda: nn.TransformerEncoderLayer(4, 2, 8),
    lambda: nn.EmbeddingBag(5, 4),
    lambda: nn.utils.parametrizations.weight_norm(nn.Linear(4, 6)),
]


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("constant", "sparse", "dirac", "identity")])
@pytest.mark.parametrize("module", MODULES, ids=lambda make: type(make()).__name__)
def test_a_seed_decides_every_bit_whatever_was_there_before(module: Callable[[], nn.Module], name: str) -> None:
    one, two = module(), module()
    with torch.no_grad():
        for array in two.parameters():
            array.add_(1)
    if name == "zeros" and nn.utils.parametrize.is_parametrized(one):
        with pytest.raises(SettingError, match="zeros have no direction"):
            initialize(one, name)
        return
    weights = {key for key, array in one.named_parameters() if array.ndim > 1}
    before = torch.get_rng_state()
    assert set(initialize(one, name, seed=2).names("as made")).isdisjoint(weights)
    initialize(two, name, seed=2)
    for key in weights:
        assert torch.equal(one.get_parameter(key), two.get_parameter(key))
        assert one.get_parameter(key).isfinite().all()
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("how", ["normal", "glorot_uniform", initial.transposed("orthogonal")])
@pytest.mark.parametrize("make", [nn.Embedding, nn.EmbeddingBag])
def test_the_row_for_padding_stays_0(make: Any, how: Any) -> None:
    padded, whole = (made(make(6, 4, padding_idx=place), how) for place in (2, None))
    assert (padded[2] == 0).all()
    rest = [0, 1, 3, 4, 5]
    assert torch.equal(padded[rest], whole[rest])
    assert (whole[2] != 0).all()
    assert (made(make(6, 4, padding_idx=2), 3)[2] == 3).all(), "a number is for every element"


# ------------------------------------------------------------------------------------------------ numbers, functions


def test_a_number_is_every_element() -> None:
    net = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    initialize(net, {"0": 0.25, "1.weight": times(3), "*.bias": 7})
    assert (net[0].weight == 0.25).all()
    assert (net[0].bias == 0.25).all()
    assert (net[1].weight == 3).all()
    assert (net[1].bias == 7).all()


def test_functions_in_place_and_functions_that_return() -> None:
    net = nn.Linear(3, 2)
    before = net.weight.detach().clone()
    assert torch.equal(made(net, lambda array: array + 1), before + 1)
    assert torch.equal(made(net, lambda array: array.mul_(0)), torch.zeros(2, 3))

    def nothing(array: Tensor) -> None:
        array.fill_(4)

    assert (made(net, nothing) == 4).all()


def test_functions_of_torch_draw_from_the_seed() -> None:
    for function in (nn.init.xavier_uniform_, nn.init.orthogonal_):
        one, two = made(nn.Linear(3, 2), function, seed=3), made(nn.Linear(3, 2), function, seed=3)
        assert torch.equal(one, two)
        assert not torch.equal(one, made(nn.Linear(3, 2), function, seed=4))


def test_functions_that_draw_for_themselves_repeat_and_leave_the_process_as_it_was() -> None:
    def own(array: Tensor) -> Tensor:
        return torch.rand(array.shape) + float(np.random.rand()) + random.random()

    def given(array: Tensor, generator: torch.Generator) -> Tensor:
        return torch.rand(array.shape, generator=generator)

    for function in (own, given):
        torch.manual_seed(1)
        one, after = made(nn.Linear(3, 2), function), torch.rand(1)
        torch.manual_seed(1)
        nn.Linear(3, 2)
        assert torch.equal(after, torch.rand(1))
        assert torch.equal(one, made(nn.Linear(3, 2), function))


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda array: 3.0, r"'weight', of shape \(2, 3\): it gave a float; a tensor of \(2, 3\) or None is needed"),
        (lambda array: array[:1], r"it gave shape \(1, 3\)"),
        (lambda array: array @ array, "RuntimeError: .*Write a part that has only arrays"),
    ],
)
def test_functions_that_fail_are_named_and_change_nothing(function: Any, told: str) -> None:
    net = nn.Linear(3, 2)
    before = arrays(net)
    for call in (initialize, lambda net, how: initial.Initial(how).prove(net)):
        with pytest.raises(SettingError, match=told):
            call(net, [("bias", 0), ("weight", function)])
        assert same(before, arrays(net))


def test_a_function_of_weights_that_meets_a_bias() -> None:
    with pytest.raises(SettingError, match=r"xavier_uniform_ of 'bias', of shape \(2,\): ValueError: Fan in"):
        initialize(nn.Linear(3, 2), nn.init.xavier_uniform_)


# ------------------------------------------------------------------------------------------------ text and bad input


@pytest.mark.parametrize("name", [name for name in NAMES if name not in ("constant", "sparse")])
def test_it_prints_as_what_makes_it(name: str) -> None:
    one = initialiser(name)
    assert eval(repr(one), {key: getattr(initial, key) for key in initial.__all__}) == one
    assert one == NAMES[name]() == initialiser(NAMES[name])


@pytest.mark.parametrize(
    "one",
    [
        initial.constant(0.1),
        initial.sparse(0.5),
        initial.normal(0.02, mean=1.0),
        initial.kaiming_uniform(a=sqrt(5)),
        initial.variance_scaling(0.5, "fan_out", "normal"),
        initial.blocks(3, initial.transposed("orthogonal")),
        initial.identity(2.0),
    ],
    ids=repr,
)
def test_options_are_printed(one: Initialiser) -> None:
    assert eval(repr(one), {key: getattr(initial, key) for key in initial.__all__}) == one


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: initialiser("kaimin_normal"), 'no initialiser .kaimin_normal.*Nearest: "kaiming_normal"'),
        (lambda: initialiser("glorot_uniform_initializer"), 'Nearest: "glorot_uniform"'),
        (lambda: initialiser("xavier_normal_"), 'Nearest: "xavier_normal"'),
        (lambda: initialiser("uniform(-1, 1)"), r"text is not evaluated.*Write a call .*initial\.uniform"),
        (lambda: initialiser("runs/net.safetensors"), r"looks like a file. Write Load\('runs/net"),
        (lambda: initialiser("sparse"), r"'sparse' needs a number. Write initial\.sparse\(0\.9\)"),
        (lambda: initialiser("constant"), r"Write initial\.constant\(0\.1\)"),
        (lambda: initialiser(float("nan")), "a finite number is needed, not nan"),
        (lambda: initialiser(True), "True is no initialiser"),
        (lambda: initialiser(linear(0, 1).within(steps(3))), "is a schedule, and an array gets its first values once"),
        (lambda: initialiser(times(linear(0, 1))), "a finite number is needed"),
        (lambda: initialiser(torch.ones(2)), r"a tensor of \(2,\). Write a function"),
        (lambda: initialiser(nn.Linear), "is no initialiser"),  # type: ignore[arg-type]
        (lambda: initial.normal(-1), "a number of at least 0 is needed, not -1"),
        (lambda: initial.normal(1, truncated=2), "truncated=2. Write True or False"),  # type: ignore[arg-type]
        (lambda: initial.normal(stddev=1), "There is no argument 'stddev'"),  # type: ignore[call-arg]
        (lambda: initial.uniform(1, -1), r"low is above high. Write uniform\(-1, 1\)"),
        (lambda: initial.glorot_uniform(0), "a number above 0 is needed, not 0"),
        (lambda: initial.variance_scaling(1, "fan_inn"), 'mode=.fan_inn. is not known.*Nearest: "fan_in"'),
        (lambda: initial.variance_scaling(distribution="untruncated_normal"), 'Nearest: "normal"'),
        (lambda: initial.kaiming_normal(mode="fan_avg"), "There are: fan_in, fan_out"),
        (lambda: initial.kaiming_normal(nonlinearity="rely"), 'Nearest: "relu"'),
        (lambda: initial.sparse(1.5), "a share is from 0 to 1"),
        (lambda: initial.blocks(0, "orthogonal"), "a whole number of at least 1 is needed"),
        (lambda: initial.blocks(2, 0.5), "does not go by what the axes mean. Leave blocks out"),
    ],
)
def test_what_is_no_initialiser_is_an_error_with_the_nearest(make: Callable[[], object], told: str) -> None:
    with pytest.raises(SettingError, match=told):
        make()


class Whole(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("table", torch.zeros(3, 4, dtype=torch.int64))


@pytest.mark.parametrize(
    ("net", "literal", "told"),
    [
        (nn.Linear(3, 2), {"bias": "orthogonal"}, r"cannot make 'bias' of shape \(2,\), which has 1 axis.*'bias': 0"),
        (nn.Conv1d(2, 2, 3), "identity", r"has 3 axes, and an identity has 2 \(dirac is for kernels\)"),
        (nn.Linear(3, 2), "dirac", r"has 2 axes, and kernels have 3 to 5 \(identity is for matrices\)"),
        (nn.Conv1d(2, 2, 3), initial.sparse(0.1), "has 3 axes, and a sparse matrix has 2"),
        (nn.Linear(3, 5), {"weight": initial.blocks(2, "orthogonal")}, "has a first axis of 5, which is not 2 equal"),
        (Whole(), "normal", "holds torch.int64, and only real numbers are drawn"),
        (Whole(), 0.5, "holds torch.int64, and 0.5 is none"),
        (Whole(), times(2), "which is not scaled"),
    ],
)
def test_arrays_that_an_initialiser_cannot_make(net: nn.Module, literal: Any, told: str) -> None:
    before = arrays(net)
    with pytest.raises(SettingError, match=told):
        initialize(net, literal)
    assert same(before, arrays(net))


def _one_nan(array: Tensor) -> None:
    array.fill_(1.0)
    array.view(-1)[3] = float("nan")


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (_one_nan, r"_one_nan of part\('0.weight'\) gives '0.weight', of shape \(8, 4\), NaN at \(0, 3\)"),
        (lambda array: array / 0, r"gives '0.weight', of shape \(8, 4\), infinity at \(0, 0\)"),
        (1e39, r"constant\(1e\+39\) of part\('0.weight'\) cannot make .* torch.float32, in which numbers up to 1e\+39"),
        (times(1e300), r"times\(1e\+300\) .* are not finite"),
        (initial.normal(1e38), r"in which numbers up to 8e\+38 are not finite"),
        (initial.uniform(-3e38, 3e38), "in which numbers up to 6e"),
        (initial.blocks(2, initial.orthogonal(1e39)), "in which numbers up to 1e"),
        (initial.kaiming_normal(), ""),
    ],
)
def test_what_is_not_finite_is_found_by_the_plan_and_nothing_changes(how: Any, said: str) -> None:
    net, before = mlp(), arrays(mlp())
    plan = Plan("cross_entropy", steps=1, initialize={"0.bias": 3, "0.weight": how})
    if not said:
        plan.check(net, classified(8))
        return
    with pytest.raises(SettingError, match=said):
        plan.check(net, classified(8))
    with pytest.raises(SettingError, match=said):
        initialize(net, {"0.bias": 3, "0.weight": how})
    assert same(arrays(net), before)


def test_masks_and_what_is_not_trained_may_hold_infinities() -> None:
    net = mlp()
    net.register_buffer("mask", torch.zeros(2))
    net.fixed = nn.Parameter(torch.zeros(2), requires_grad=False)
    initialize(net, dict.fromkeys(("mask", "fixed"), lambda array: array - torch.inf))
    assert net.get_buffer("mask").isinf().all()
    assert net.get_parameter("fixed").isinf().all()
    with torch.no_grad():
        net[0].weight.fill_(torch.nan)
    with pytest.raises(SettingError, match="holds NaN by now"):
        initialize(net, {"0.weight": times(0.5)})
