"""Averages in runs and trainers: taken after each step that was made, looked at, kept beside the net."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, load_model
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import etude
from etude import (
    FROZEN,
    GAN,
    Evaluate,
    Plan,
    Result,
    SettingError,
    StateError,
    Trainer,
    Update,
    every,
    part,
    pieces,
    steps,
)
from etude.errors import NonFiniteError, StaleGradientError
from etude.run.events import Evaluated, Stepped
from etude.step.averages import ema, swa
from nets import alike, chain, data
from small import Noisy, arrays, classified, close, condition, mlp, run, same, trained

X, Y = classified(10)
VALIDATION = classified(6, seed=5)


def seen_by(net: nn.Module, **changed: Any) -> tuple[Result, list[dict[str, Tensor]]]:
    """A run, and the arrays of the net after each step."""
    seen: list[dict[str, Tensor]] = []

    def listen(event: Any) -> None:
        if isinstance(event, Stepped):
            seen.append(arrays(net))

    return trained(net, listeners=[listen], **changed), seen


def averaged(seen: list[dict[str, Tensor]], decay: float) -> dict[str, Tensor]:
    made = seen[0]
    for now in seen[1:]:
        made = {
            name: decay * made[name] + (1 - decay) * now[name] if now[name].is_floating_point() else now[name]
            for name in now
        }
    return made


# ------------------------------------------------------------------------------------------------- in a run


@pytest.mark.parametrize("compile", [False, True])
def test_a_run_takes_the_arrays_after_each_step(compile: bool) -> None:
    result, seen = seen_by(Noisy(), epochs=3, averages=(ema(0.8), swa("head")), compile=compile)
    assert close(result.averages["ema"], averaged(seen, 0.8))
    ends = [seen[i] for i in (2, 5, 8)]
    means = {name: torch.stack([end[name] for end in ends]).mean(0) for name in ("head.weight", "head.bias")}
    assert close(result.averages["swa"], means)


def test_as_torch_does_in_a_run() -> None:
    net = Noisy()
    theirs = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(0.9), use_buffers=True)
    made = run(net, epochs=3, averages=ema(0.9))
    for event in made:
        if isinstance(event, Stepped):
            theirs.update_parameters(net)
    expected = dict(theirs.module.state_dict())
    expected["body.1.num_batches_tracked"] = net.body[1].num_batches_tracked
    assert close(made.result().averages["ema"], expected)


def test_averages_change_nothing_else() -> None:
    plain, with_them = Noisy(), Noisy()
    one = trained(plain, epochs=3, validation=VALIDATION)
    other = trained(with_them, epochs=3, validation=VALIDATION, averages=(ema(0.9), swa()))
    assert same(arrays(plain), arrays(with_them))
    assert one.history.to_dict() == {
        name: series if name != "seconds" else one.history.to_dict()[name]
        for name, series in other.history.to_dict().items()
    }
    assert condition(plain) == condition(with_them)


def test_without_averages_there_are_none() -> None:
    result = trained()
    assert dict(result.averages) == {}
    with pytest.raises(SettingError, match=r"No average is called 'ema'.*Write averages="):
        result.averaged_net("ema")


def test_a_schedule_starts_it_in_a_run() -> None:
    started = pieces(False, (steps(4), True))
    result, seen = seen_by(mlp(), epochs=3, averages=ema(0.5, when=started))
    assert close(result.averages["ema"], averaged(seen[4:], 0.5))


def test_an_average_that_never_began_is_the_net_after_the_last_step() -> None:
    started = pieces(False, (steps(100), True))
    result, seen = seen_by(mlp(), epochs=2, averages=ema(when=started), validation=VALIDATION, learning_rate=0.5)
    assert same(dict(result.averages["ema"]), seen[-1])


def test_a_step_that_is_refused_is_not_taken() -> None:
    x = X.clone()
    x[2] = torch.nan
    result, seen = seen_by(mlp(), data=(x, Y), epochs=2, averages=ema(0.5), non_finite="skip", shuffle=False)
    assert len(seen) == 4, "the first step of each epoch is refused"
    assert close(result.averages["ema"], averaged(seen, 0.5))


def test_a_step_in_which_nothing_moves_is_not_taken() -> None:
    result, seen = seen_by(mlp(), epochs=2, averages=ema(0.5), learning_rate=pieces(0.1, (steps(2), FROZEN)))
    assert len(seen) == 6
    assert close(result.averages["ema"], averaged(seen[:2], 0.5))


def test_of_several_updates_the_whole_step_is_taken_once() -> None:
    net = mlp()
    updates = [
        Update("first", "cross_entropy", part("0"), optimizer="sgd", turn=2),
        Update("second", "cross_entropy", part("2"), optimizer="sgd"),
    ]
    result, seen = seen_by(net, loss=None, epochs=2, updates=updates, averages=ema(0.5))
    assert close(result.averages["ema"], averaged(seen, 0.5))


def test_the_generator_of_a_game() -> None:
    net = GAN(nn.Linear(2, 4), nn.Linear(4, 1), latent=2)
    result = trained(net, X, loss=None, epochs=2, averages=ema(0.5, "generator"))
    assert list(result.averages["ema"]) == ["generator.weight", "generator.bias"]


def test_the_shapes_of_lazy_modules_are_known_in_a_run() -> None:
    net = nn.Sequential(nn.LazyLinear(3))
    result, seen = seen_by(net, epochs=2, averages=ema(0.5))
    assert close(result.averages["ema"], averaged(seen, 0.5))


# ------------------------------------------------------------------------------------------------- looked at


def test_validation_data_are_looked_at_with_an_average() -> None:
    net = Noisy()
    copies: list[nn.Module] = []
    made = run(net, epochs=4, validation=Evaluate(VALIDATION, "accuracy"), averages=ema(0.7), evaluate_with="ema")
    for event in made:
        if isinstance(event, Evaluated):
            theirs = copy.deepcopy(net)
            made.checked.averages.copy_to("ema", theirs)
            copies.append(theirs.eval())
    result = made.result()
    losses = [nn.functional.cross_entropy(each(VALIDATION[0]), VALIDATION[1]).item() for each in copies]
    assert result.history["val.loss"].values == pytest.approx(losses, abs=1e-6)
    best = min(range(4), key=lambda i: losses[i])
    assert result.best_step == 3 * (best + 1)
    assert same(arrays(result.net), arrays(copies[best])), "the best net is the average at its best"


def test_looking_with_an_average_leaves_the_run_as_it_is() -> None:
    mine: list[dict[str, Tensor]] = []
    for look_with in (None, "ema"):
        net = Noisy()
        made = run(net, epochs=3, validation=VALIDATION, averages=ema(0.7), evaluate_with=look_with)
        pointers = []
        for event in made:
            if isinstance(event, Evaluated):
                pointers.append((net.head.weight.data_ptr(), id(net.head.weight)))
        assert len(set(pointers)) == 1
        final = made.result().final_net
        mine.append(arrays(final))
    assert same(*mine)


def test_an_average_that_has_not_begun_is_looked_at_as_the_net() -> None:
    late = ema(0.5, when=pieces(False, (steps(6), True)))
    plain = trained(epochs=4, validation=VALIDATION)
    looked = trained(epochs=4, validation=VALIDATION, averages=late, evaluate_with="ema")
    mine, theirs = looked.history["val.loss"].values, plain.history["val.loss"].values
    assert mine[:2] == theirs[:2]
    assert mine[2:] != theirs[2:]


def test_patience_is_with_the_average() -> None:
    still = trained(epochs=9, validation=VALIDATION, averages=ema(1), evaluate_with="ema", patience=2)
    assert still.stop_reason == "patience"
    assert len(still.history["val.loss"]) == 4, "an average that stays as it is never improves"


def test_schedules_hear_the_scores_of_the_average() -> None:
    heard = ema(0.5, when=etude.when("val.loss", above=1e6))
    made = run(epochs=3, validation=VALIDATION, averages=heard)
    made.result()
    assert made.checked.averages.each["ema"].count == 3, "it stops after the first look"


# ------------------------------------------------------------------------------------------------- what came out


def test_the_averaged_net() -> None:
    net = Noisy()
    result, seen = seen_by(net, epochs=3, validation=VALIDATION, averages=ema(0.8, "head"), learning_rate=0.3)
    made = result.averaged_net("ema")
    assert made is not net
    assert not made.training
    expected = {**seen[-1], **averaged([{n: s[n] for n in ("head.weight", "head.bias")} for s in seen], 0.8)}
    assert close(arrays(made), expected)
    assert type(made) is Noisy
    assert torch.isfinite(made(X)).all()


def test_plans_tell_of_averages() -> None:
    averages = (ema(0.9), swa("head", every=steps(2)))
    plan = Plan("cross_entropy", epochs=1, averages=averages, evaluate_with="swa", validation=0.3)
    assert "averages=(ema(0.9), swa(part('head'), every=steps(2))), evaluate_with='swa'" in repr(plan)
    text = plan.check(Noisy(), (X, Y)).show()
    assert "Average 'ema': ema(0.9), of 9 arrays\n" in text
    assert "Average 'swa': swa(part('head'), every=steps(2)), of 2 arrays; validation data are looked at with" in text
    one, other = (trained(averages=ema(decay)) for decay in (0.9, 0.99))
    assert "call.averages: '(ema(0.9),)' -> '(ema(0.99),)'" in one.diff(other)
    assert one.call["averages"] == "(ema(0.9),)"


def test_one_average_and_a_list_are_a_tuple() -> None:
    assert Plan("mse", epochs=1, averages=ema()).averages == (ema(),)
    assert Plan("mse", epochs=1, averages=[ema(), swa()]).averages == (ema(), swa())
    assert "averages" not in Plan("mse", epochs=1).options()


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"averages": 0.999}, r"averages=0\.999: averages are needed\. Write averages=\(ema\(0\.999\),\)"),
    ({"averages": (ema(), ema(0.9))}, "'ema' is the name of two"),
    ({"evaluate_with": "ema", "validation": 0.3}, r"evaluate_with='ema': No average is called 'ema'\. There are none"),
    (
        {"averages": ema(), "evaluate_with": "emma", "validation": 0.3},
        "evaluate_with='emma'.*Nearest: \"ema\".*Averages: ema",
    ),
    ({"averages": ema(), "evaluate_with": "ema"}, r"evaluate_with='ema'.*none are given\. Write validation=0\.2"),
]


@pytest.mark.parametrize(("given", "said"), WRONG)
def test_options_that_cannot_be(given: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingError, match=said):
        Plan("cross_entropy", epochs=1, **given)


def test_a_part_that_is_not_there_is_found_before_the_run() -> None:
    net = mlp()
    before = arrays(net)
    with pytest.raises(etude.PartError, match="matches nothing"):
        trained(net, averages=ema(part="haed"))
    with pytest.raises(etude.ScheduleError, match="between 0 and 1"):
        trained(net, averages=ema(pieces(0.5, (steps(2), 3.0))))
    assert same(before, arrays(net))


# ------------------------------------------------------------------------------------------------- files


def both(path: Path, **changed: Any) -> Result:
    result = trained(Noisy(), epochs=2, averages=(ema(0.8), swa("head")), **changed)
    result.save(path, net=True)
    return result


def test_averages_are_saved_beside_the_net(tmp_path: Path) -> None:
    result = both(tmp_path / "run.json")
    there = load_file(tmp_path / "run.safetensors")
    assert result.net is not None
    own = {name: array for name, array in there.items() if not name.startswith("average:")}
    assert same(own, result.net.state_dict())
    assert torch.equal(there["average:swa:head.bias"], result.averages["swa"]["head.bias"])
    assert len(there) == len(own) + len(result.averages["ema"]) + 2
    net = Noisy(3)
    missing, extra = load_model(net, tmp_path / "run.safetensors", strict=False)
    assert not missing
    assert all(name.startswith("average:") for name in extra)


def test_averages_of_a_result_that_is_loaded(tmp_path: Path) -> None:
    result = both(tmp_path / "run.json")
    loaded = Result.load(tmp_path / "run.json")
    assert list(loaded.averages) == ["ema", "swa"]
    assert "ema" in loaded.averages
    assert "emma" not in loaded.averages
    assert len(loaded.averages) == 2
    assert list(loaded.averages["ema"]) == list(result.averages["ema"])
    assert all(same(loaded.averages[name], result.averages[name]) for name in ("ema", "swa"))
    net = Noisy(3)
    net.load_state_dict(loaded.averages["ema"])
    assert same(net.state_dict(), arrays(result.averaged_net("ema")))
    with pytest.raises(StateError, match=r"a result that was loaded has no net.*averages\['ema'\]"):
        loaded.averaged_net("ema")
    with pytest.raises(KeyError):
        loaded.averages["emma"]
    assert result.diff(loaded) == ""


def test_a_file_of_another_result_is_not_taken_for_its_own(tmp_path: Path) -> None:
    both(tmp_path / "run.json")
    old = (tmp_path / "run.safetensors").read_bytes()
    both(tmp_path / "run.json", seed=7)
    (tmp_path / "run.safetensors").write_bytes(old)
    loaded = Result.load(tmp_path / "run.json")
    with pytest.raises(StateError, match=r"was written with another result.*net=True again"):
        loaded.averages["ema"]
    (tmp_path / "run.safetensors").unlink()
    with pytest.raises(StateError, match=r"The average 'ema' cannot be read from .*run\.safetensors"):
        loaded.averages["ema"]
    (tmp_path / "run.safetensors").write_bytes(b"no such file")
    with pytest.raises(StateError, match="cannot be read"):
        loaded.averages["ema"]


def test_without_the_net_no_averages_are_written(tmp_path: Path) -> None:
    result = both(tmp_path / "run.json")
    result.save(tmp_path / "run.json")
    assert dict(Result.load(tmp_path / "run.json").averages) == {}
    assert "averages" not in json.loads((tmp_path / "run.json").read_text())


def test_a_damaged_entry_of_averages_is_refused(tmp_path: Path) -> None:
    both(tmp_path / "run.json")
    record = json.loads((tmp_path / "run.json").read_text())
    for damaged in ({"mark": "x"}, {"names": 3, "mark": "x"}, [1]):
        (tmp_path / "run.json").write_text(json.dumps({**record, "averages": damaged}))
        with pytest.raises(StateError, match="damaged result"):
            Result.load(tmp_path / "run.json")


def test_shared_and_complex_arrays_are_saved(tmp_path: Path) -> None:
    class Odd(nn.Module):
        """Two names of one array, and a complex one."""

        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Linear(4, 4)
            self.b = nn.Linear(4, 3)
            self.c = nn.Linear(4, 4)
            self.c.weight = self.a.weight
            self.phase = nn.Parameter(torch.ones(3, dtype=torch.complex64))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = (self.b(self.c(self.a(x))) * self.phase).real
            return out

    result = trained(Odd(), epochs=2, averages=ema(0.5))
    result.save(tmp_path / "run.json", net=True)
    again = Result.load(tmp_path / "run.json").averages["ema"]
    assert same(again, result.averages["ema"])
    assert "c.weight" not in again
    assert again["phase"].dtype == torch.complex64


# ------------------------------------------------------------------------------------------------- with a trainer


def step(net: nn.Module, trainer: Trainer, batches: Any) -> list[dict[str, Tensor]]:
    seen = []
    for x, y in batches:
        (net(x) - y).square().sum().backward()
        trainer.step(len(x))
        seen.append(arrays(net))
    return seen


def test_a_trainer_takes_the_arrays_after_each_step() -> None:
    net = chain()
    trainer = Trainer(net, averages=(ema(0.8), swa(every=steps(2), name="mean")))
    seen = step(net, trainer, data(6))
    assert close(trainer.averages["ema"].arrays, averaged(seen, 0.8))
    assert close(
        trainer.averages["mean"].arrays,
        {name: torch.stack([seen[i][name] for i in (1, 3, 5)]).mean(0) for name in seen[0]},
    )
    assert trainer.averages["ema"].count == 6


def test_a_trainer_evaluates_with_an_average() -> None:
    net = chain()
    trainer = Trainer(net, averages=ema(0.8))
    seen = step(net, trainer, data(4))
    x, y = data(1)[0]
    with trainer.averaged("ema"), torch.no_grad():
        assert close(arrays(net), averaged(seen, 0.8))
    assert same(arrays(net), seen[-1])
    other = chain(2)
    trainer.averages["ema"].copy_to(other)
    assert close(arrays(other), averaged(seen, 0.8))
    with trainer.averaged("ema"):
        (net(x) - y).square().sum().backward()
        with pytest.raises(SettingError, match="the net has the arrays of the average 'ema' now"):
            trainer.step(len(x))
    assert same(arrays(net), seen[-1])
    with pytest.raises(SettingError, match=r"No average is called 'emma'.*Nearest: .ema"), trainer.averaged("emma"):
        raise AssertionError("it is not there")


def test_steps_that_are_not_made_are_not_taken() -> None:
    net = chain()
    trainer = Trainer(net, averages=ema(0.8), non_finite="raise")
    batches = data(3)
    step(net, trainer, batches[:2])
    x, y = batches[2]
    with pytest.raises(StaleGradientError):
        trainer.step(len(x))
    (net(x) / 0 - y).square().sum().backward()
    with pytest.raises(NonFiniteError):
        trainer.step(len(x))
    assert trainer.averages["ema"].count == 2
    skipping = Trainer(chain(), averages=ema(0.8), non_finite="skip")
    net_ = skipping.net
    assert net_ is not None
    (net_(x) / 0 - y).square().sum().backward()
    assert not skipping.step(len(x))
    assert skipping.averages["ema"].count == 0


def test_a_trainer_resumes_its_averages() -> None:
    net, batches = chain(), data(8)
    averages = (ema(0.8, when=pieces(False, (steps(2), True))), swa(every=every(steps(3))))
    trainer = Trainer(net, averages=averages)
    step(net, trainer, batches[:4])
    state, kept = copy.deepcopy(trainer.state_dict()), copy.deepcopy(net.state_dict())
    step(net, trainer, batches[4:])
    again = chain(5)
    again.load_state_dict(kept)
    other = Trainer(again, averages=averages)
    other.load_state_dict(state)
    step(again, other, batches[4:])
    for name in ("ema", "swa"):
        mine, theirs = other.averages[name].arrays, trainer.averages[name].arrays
        assert all(alike(mine[key], theirs[key]) for key in theirs)
    with pytest.raises(StateError, match="there is no average 'more' in it"):
        Trainer(chain(), averages=(*averages, ema(name="more"))).load_state_dict(state)


def test_a_trainer_needs_to_count_epochs_for_an_average_of_epochs() -> None:
    with pytest.raises(etude.ScheduleError, match=r"Or write every=steps\(100\)"):
        Trainer(chain(), averages=swa())
    trainer = Trainer(chain(), averages=swa(), steps_per_epoch=2)
    assert trainer.net is not None
    step(trainer.net, trainer, data(4))
    assert trainer.averages["swa"].count == 2
