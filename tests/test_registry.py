"""Optimizers by name."""

from __future__ import annotations

import pytest
import torch

from etude.errors import SettingError
from etude.step.optim.adam import Adam, AdamW
from etude.step.optim.registry import by_name, known_names, torch_classes
from etude.step.optim.rule import Setting
from etude.step.optim.sgd import SGD


@pytest.mark.parametrize(
    ("name", "kind"), [("sgd", SGD), ("SGD", SGD), ("adam", Adam), ("Adam", Adam), ("adamw", AdamW), ("adam_w", AdamW)]
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
    ],
)
def test_then_torchs(name: str, kind: type) -> None:
    assert by_name(name) is kind


def test_every_class_of_torch_has_its_name() -> None:
    assert {"sgd", "adam", "adamw", "adagrad", "lbfgs", "rmsprop"} <= set(torch_classes())
    assert "optimizer" not in torch_classes()
    assert set(torch_classes()) - {"lbfgs"} <= set(known_names())
    assert len(set(known_names())) == len(known_names())
    for name in known_names():
        assert by_name(name) is not None


@pytest.mark.parametrize(("name", "near"), [("adamm", "adam"), ("rmspro", "rmsprop"), ("torch.sdg", "sgd")])
def test_an_unknown_name_shows_the_nearest(name: str, near: str) -> None:
    with pytest.raises(
        SettingError, match=rf"There is no optimizer '{name}'. Known: sgd, adam, adamw, .*Nearest: .*{near}"
    ):
        by_name(name)


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
