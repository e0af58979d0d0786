"""Optimizers by name: ours, torch's, those of other packages, and a user's own."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import etude
import etude.optim
from etude.errors import MissingPackageError, SettingError
from etude.optim import Setting, UpdateRule, register
from etude.step.optim import registry
from etude.step.optim.adam import Adam, AdamW
from etude.step.optim.lion import Lion
from etude.step.optim.registry import OURS, by_name, known_names, preset_of, torch_classes
from etude.step.optim.rowwise import RowwiseAdagrad
from etude.step.optim.sgd import SGD
from etude.step.optim.signum import SignSGD
from nets import chain, give_gradients


@pytest.fixture(autouse=True)
def _own_registry(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test registers is known to that test alone."""
    monkeypatch.setattr(registry, "_registered", {})


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """A package of that name with one optimizer."""
    package, module = ModuleType("timm"), ModuleType("timm.optim")

    class LambHere(torch.optim.SGD):
        pass

    LambHere.__module__ = "timm.optim.lamb"
    module.Lamb = LambHere  # type: ignore[attr-defined]
    module.Optimizer = torch.optim.Optimizer  # type: ignore[attr-defined]
    module.create_optimizer = print  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "timm", package)
    monkeypatch.setitem(sys.modules, "timm.optim", module)
    return module


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("sgd", SGD),
        ("SGD", SGD),
        ("adam", Adam),
        ("Adam", Adam),
        ("adamw", AdamW),
        ("adam_w", AdamW),
        ("lion", Lion),
        ("sign_sgd", SignSGD),
        ("rowwise_adagrad", RowwiseAdagrad),
        ("RowwiseAdagrad", RowwiseAdagrad),
    ],
)
def test_ours_come_first_however_they_are_written(name: str, kind: type) -> None:
    assert type(by_name(name)) is kind


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("rmsprop", torch.optim.RMSprop),
        ("RMSProp", torch.optim.RMSprop),
        ("torch.adamw", torch.optim.AdamW),
        ("torch.optim.SGD", torch.optim.SGD),
        ("n_adam", torch.optim.NAdam),
        ("lbfgs", torch.optim.LBFGS),
        ("Muon", torch.optim.Muon),
    ],
)
def test_then_torchs(name: str, kind: type) -> None:
    assert by_name(name) is kind


def test_every_class_of_torch_and_every_rule_of_ours_has_its_name() -> None:
    assert {"sgd", "adam", "adamw", "adagrad", "lbfgs", "rmsprop"} <= set(torch_classes())
    assert "optimizer" not in torch_classes()
    assert set(torch_classes()) <= set(known_names())
    assert {rule.name for rule in OURS} <= set(known_names())
    assert len(set(known_names())) == len(known_names())
    for name in known_names():
        assert by_name(name) is not None


def test_the_public_module_has_every_rule_of_ours() -> None:
    assert {rule.__name__ for rule in OURS} <= set(etude.optim.__all__)
    assert etude.optim.__all__ == sorted(
        etude.optim.__all__, key=lambda name: (not name.isupper(), name.islower(), name)
    )
    assert all(hasattr(etude.optim, name) for name in etude.optim.__all__)


@pytest.mark.parametrize("kind", OURS)
def test_every_rule_of_ours_trains_with_what_it_has_by_default(kind: type[UpdateRule]) -> None:
    net = chain()
    trainer = etude.Trainer(net, kind)
    assert trainer.learning_rate == kind.rate
    before = [parameter.detach().clone() for parameter in net.parameters()]
    for step in range(3):
        give_gradients(net, step)
        trainer.step()
        trainer.zero_grad()
    assert all(not torch.equal(one, other) for one, other in zip(before, net.parameters(), strict=True))


@pytest.mark.parametrize(
    ("name", "near"), [("adamm", "adam"), ("rmspro", "rmsprop"), ("torch.sdg", "sgd"), ("lionn", "lion")]
)
def test_an_unknown_name_shows_the_nearest(name: str, near: str) -> None:
    with pytest.raises(
        SettingError,
        match=rf"There is no optimizer '{name}'. Known: sgd, adam, adamw, .*; and with .*Nearest: .*{near}",
    ):
        by_name(name)


# other packages


def test_names_with_the_prefix_of_a_package_are_its_classes(timm: ModuleType) -> None:
    for name in ("timm.lamb", "timm.Lamb", "TIMM.LAMB", "timm.optim.lamb"):
        assert by_name(name) is timm.Lamb
    net = chain()
    assert etude.Trainer(net, "timm.lamb", momentum=0.5).name == "LambHere"
    with pytest.raises(SettingError, match=r"There is no optimizer 'lam' in timm. It has: lamb. Nearest: \"lamb\""):
        by_name("timm.lam")


def test_the_name_of_a_package_may_end_its_classes(monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("schedulefree")
    kind = type("AdamWScheduleFree", (torch.optim.AdamW,), {})
    module.AdamWScheduleFree = kind  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "schedulefree", module)
    assert by_name("schedulefree.adamw") is kind
    assert by_name("schedulefree.AdamWScheduleFree") is kind


@pytest.mark.parametrize(
    ("name", "extra"),
    [("timm.lamb", "timm"), ("pytorch_optimizer.lion", "optimizers"), ("schedulefree.adamw", "optimizers")],
)
def test_a_package_that_is_missing_is_told_with_how_to_install_it(
    name: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = name.partition(".")[0]
    for key in [key for key in sys.modules if key.partition(".")[0] == package]:
        monkeypatch.delitem(sys.modules, key)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError, match=rf"optimizer=\"{name}\" needs .*pip install 'etude\[{extra}\]'"):
        etude.Trainer(chain(), name)


def test_other_packages_are_not_imported_with_the_library() -> None:
    packages = sorted(registry.PACKAGES)
    code = f"import sys, etude, etude.optim; print([name for name in {packages} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# a user's own


class Tiger(UpdateRule):
    """Su, "Tiger: A tight-fisted optimizer", 2023, in small."""

    name = "tiger"
    settings = {"momentum": Setting(0.965, 0.0, 1.0)}  # noqa: RUF012
    memories = ("mean",)
    rate = 0.25

    def formula(self, array: Tensor, gradient: Tensor, memory: Any, count: Any, settings: Any, climb: bool) -> None:
        mean = memory["mean"].lerp_(gradient, 1 - settings["momentum"])
        array.sub_(mean.sign() * (-1 if climb else 1) * settings["learning_rate"])


def test_a_rule_of_the_users_own_is_known_by_name() -> None:
    assert register(Tiger) is Tiger
    assert "tiger" in known_names()
    for name in ("tiger", "TIGER", "ti_ger"):
        assert type(by_name(name)) is Tiger
    net = chain()
    trainer = etude.Trainer(net, "tiger", momentum=0.5, learning_rate_multipliers={2: -2})
    assert trainer.learning_rate == 0.25
    before = {name: parameter.detach().clone() for name, parameter in net.named_parameters()}
    give_gradients(net, 0)
    trainer.step()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None
        step = 0.25 * (-2 if name.startswith("2") else 1)
        assert torch.allclose(parameter, before[name] - step * parameter.grad.sign())


def test_a_rule_may_be_registered_as_a_decorator_or_an_instance_under_any_name() -> None:
    register(Tiger(), name="one_tiger")
    assert isinstance(by_name("onetiger"), Tiger)

    @register(name="lynx")
    class Cat(Tiger):
        pass

    assert type(by_name("lynx")) is Cat
    result = etude.train(chain(), (torch.randn(8, 3), torch.randn(8, 2)), loss="mse", optimizer="lynx", epochs=1)
    assert len(result.history)


def test_a_class_of_torchs_shape_and_a_function_may_be_registered() -> None:
    register(torch.optim.RMSprop, name="mine")

    @register(name="slow")
    def slow(groups: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups, lr=0.5)

    assert etude.Trainer(chain(), "mine", alpha=0.9).learning_rate == 0.01
    trainer = etude.Trainer(chain(), "slow", learning_rate=0.1)
    assert trainer.name == "slow"


def test_a_name_is_taken_once() -> None:
    class Other(Tiger):
        pass

    register(Tiger)
    register(Tiger)
    with pytest.raises(SettingError, match=r"the name 'tiger' is taken by Tiger of test_registry. Give another"):
        register(Other)
    with pytest.raises(SettingError, match=r"the name 'lion' is taken by Lion of etude"):
        register(Tiger, name="lion")
    with pytest.raises(SettingError, match=r"the name 'R_Adam' is taken by RAdam of torch"):
        register(Tiger, name="R_Adam")
    register(Other, replace=True)
    assert type(by_name("tiger")) is Other
    register(Tiger, name="muon", replace=True)
    assert preset_of("muon") == {}
    assert etude.Trainer(chain(), "muon").name == "tiger"


class Again(UpdateRule):
    name = "again"
    settings = {}  # noqa: RUF012
    memories = ()

    def formula(self, *given: Any) -> None:
        """Nothing moves."""


def test_the_same_class_defined_again_takes_its_own_name() -> None:
    register(Again)
    fresh = type("Again", (Again,), {"__module__": __name__, "__qualname__": "Again"})
    register(fresh)
    assert type(by_name("again")) is fresh


class Formless(UpdateRule):
    name = "formless"
    settings = {}  # noqa: RUF012
    memories = ()


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        (Formless, {}, r"register: Formless cannot be made: .*A rule needs `formula`"),
        (type("A", (Tiger,), {"name": 3}), {}, r"A.name has to be a string: name = .* It is 3"),
        (type("A", (Tiger,), {"settings": {"momentum": 0.9}}), {}, r"A.settings has to be a dict of Setting"),
        (type("A", (Tiger,), {"memories": "mean"}), {}, r"A.memories has to be a tuple of names: .* It is 'mean'"),
        (
            type("A", (Tiger,), {"settings": {"learning_rate": Setting(1.0)}}),
            {},
            r"which every rule has",
        ),
        (type("A", (Tiger,), {"settings": {"l2": Setting(1.0)}}), {}, r"A.settings has 'l2', which every trainer has"),
        (nn.Linear, {}, r"the class Linear is neither an UpdateRule nor a torch.optim.Optimizer. Derive from one"),
        (3, {"name": "three"}, r"register: 3 is no subclass of UpdateRule, no optimizer class and no function"),
        (torch.optim.SGD([nn.Parameter(torch.ones(1))]), {"name": "x"}, r"is no subclass of UpdateRule"),
        (
            Tiger,
            {"name": "my.tiger"},
            r"'my.tiger' is no name. Write letters, digits and underscores: name=",
        ),
        (lambda groups: None, {}, r"'<lambda>' is no name"),
    ],
)
def test_what_is_no_optimizer_is_told(given: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingError, match=message):
        register(given, **options)


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        (Setting(0.0, 0.0, 1.0), 1.0, r"momentum=1.0: allowed is \[0, 1\)"),
        (Setting(0.0, 0.0, 1.0, closed=True), 1.1, r"allowed is \[0, 1\]"),
        (Setting(0.0), -1, r"allowed is \[0, inf\)"),
        (Setting(0.0), float("nan"), "a finite number is needed"),
        (Setting(0.0), True, "a finite number is needed"),
        (Setting(0.0), "x", "a finite number is needed"),
        (Setting(False), 1, "True or False is needed"),
    ],
)
def test_a_setting_has_values_that_it_may_have(setting: Setting, value: object, message: str) -> None:
    with pytest.raises(SettingError, match=f"momentum=.*{message}|{message}"):
        setting.check("momentum", value)


@pytest.mark.parametrize("kind", OURS)
def test_the_page_of_update_rules_lists_what_every_rule_has(kind: type[UpdateRule]) -> None:
    page = (Path(__file__).parents[1] / "docs" / "update_rules.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith(f'| `"{kind.name}"` |'))
    assert f"| {kind.rate:g} |" in row
    listed = re.findall(r"`(\w+)=([^`]+)`", row)
    assert listed == [(key, repr(setting.default)) for key, setting in kind.settings.items()]
