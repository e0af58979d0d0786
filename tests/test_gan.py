"""Two nets against each other: the games, what moves in which turn, what is drawn how often."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import etude
from etude.errors import SettingError
from etude.run.events import Stepped
from etude.step.gan import GAN
from etude.step.loss import Losses, terms
from etude.step.reading import Reader
from etude.values.part import part
from nets import alike, arrays, changed, seeded


def nets(inputs: int = 2) -> tuple[nn.Sequential, nn.Sequential]:
    """A generator of numbers from latents, and a discriminator of numbers."""
    return seeded(
        lambda: (
            nn.Sequential(nn.Linear(inputs, 8), nn.Tanh(), nn.Linear(8, 1)),
            nn.Sequential(nn.Linear(1, 8), nn.Tanh(), nn.Linear(8, 1)),
        )
    )


def gan(loss: str = "js", latent: Any = None) -> GAN:
    return GAN(*nets(), loss=loss, latent=latent)


def batch(n: int = 16) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(n, 1, generator=generator) * 0.5 + 3, torch.randn(n, 2, generator=generator)


# the games, from their formulas


def expected(net: GAN, values: tuple[Tensor, Tensor]) -> dict[str, float]:
    sample, latent = values
    real, fake = net.discriminator(sample), net.discriminator(net.generator(latent))
    minus_log = lambda p: -p.log().mean()  # noqa: E731
    games = {
        "js": (minus_log(real.sigmoid()), minus_log(1 - fake.sigmoid()), -minus_log(1 - fake.sigmoid())),
        "non-saturating": (minus_log(real.sigmoid()), minus_log(1 - fake.sigmoid()), minus_log(fake.sigmoid())),
        "wasserstein": (-real.mean(), fake.mean(), -fake.mean()),
        "hinge": ((1 - real).clamp(min=0).mean(), (1 + fake).clamp(min=0).mean(), -fake.mean()),
    }
    return dict(zip(("real", "fake", "generator"), (one.item() for one in games[net.loss]), strict=True))


@pytest.mark.parametrize("loss", ["js", "non-saturating", "wasserstein", "hinge"])
def test_the_games_are_their_formulas(loss: str) -> None:
    net, values = gan(loss), batch()
    found = net(values)
    for name, value in expected(net, values).items():
        assert found[name].item() == pytest.approx(value, rel=1e-5)
    assert torch.equal(found["generated"], net.generator(values[1]))


def test_the_games_do_not_overflow() -> None:
    net = gan()
    with torch.no_grad():
        net.discriminator[2].weight.mul_(1e6)
    assert all(math.isfinite(value.item()) for name, value in net(batch()).items() if name != "generated")


@pytest.mark.parametrize("loss", ["js", "non-saturating", "wasserstein", "hinge"])
def test_the_updates_minimise_what_the_game_says(loss: str) -> None:
    net, values = gan(loss), batch()
    critic, generator = net.updates(optimizer="sgd")
    of = expected(net, values)
    for update, names in ((critic, ("real", "fake")), (generator, ("generator",))):
        made = Losses(terms(update.loss))
        total, each, _, _ = made.measure(net, Reader(net), values, made.weights(etude.Progress()))
        assert [term.name for term in made.terms] == list(names)
        assert [one.mean.item() for one in each] == pytest.approx([of[name] for name in names], rel=1e-5)
        assert total.item() == pytest.approx(sum(of[name] for name in names), rel=1e-5)
        assert [float(one.count) for one in each] == [16] * len(names)


def test_one_forward_of_each_net_serves_both_terms_of_the_discriminator() -> None:
    net = gan(latent=2)
    calls = {"generator": 0, "discriminator": 0}

    def counting(name: str) -> Any:
        return lambda *_: calls.__setitem__(name, calls[name] + 1)

    net.generator.register_forward_hook(counting("generator"))
    net.discriminator.register_forward_hook(counting("discriminator"))
    critic, generator = net.updates()
    for update, expected_calls in (
        (critic, {"generator": 1, "discriminator": 2}),
        (generator, dict.fromkeys(calls, 1)),
    ):
        calls.update(generator=0, discriminator=0)
        made = Losses(terms(update.loss))
        made.measure(net, Reader(net), batch()[0], made.weights(etude.Progress()))
        assert calls == expected_calls


# latents


def test_latents_come_with_the_data_from_a_shape_or_from_a_function() -> None:
    sample, latent = batch()
    assert torch.equal(gan()((sample, latent))["generated"], gan().generator(latent))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = torch.randn(16, 2)
        torch.manual_seed(0)
        assert torch.equal(gan(latent=2)(sample)["generated"], gan().generator(drawn))
        torch.manual_seed(0)
        assert torch.equal(gan(latent=(2,))((sample,))["generated"], gan().generator(drawn))
    assert torch.equal(gan(latent=lambda n: latent[:n])(sample)["generated"], gan().generator(latent))


@pytest.mark.parametrize("latent", [0, -1, True, "64", 2.5, (2, 0), (2.5,)])
def test_what_is_no_shape_of_a_latent(latent: Any) -> None:
    with pytest.raises(SettingError, match=r"GAN\(latent=.*the shape of one latent is needed.* Write latent=64"):
        gan(latent=latent)


def test_data_without_latents_are_told() -> None:
    with pytest.raises(SettingError, match=r"the data are no pairs \(sample, latent\). Give pairs, or say GAN"):
        gan()(batch()[0])


# construction


def test_unknown_games_show_the_nearest() -> None:
    with pytest.raises(SettingError, match=r"GAN\(loss='wassertein'\): known are js, .*Nearest: \"wasserstein\""):
        gan("wassertein")


def test_the_losses_take_logits() -> None:
    generator, discriminator = nets()
    with pytest.raises(SettingError, match="ends in a Sigmoid; the losses take its logits"):
        GAN(generator, nn.Sequential(discriminator, nn.Sequential(nn.Sigmoid())))

    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = discriminator
            self.gate = nn.Sigmoid()

        def forward(self, x: Tensor) -> Tensor:
            gated: Tensor = self.body(self.gate(x))
            return gated

    GAN(generator, Gated())


def test_the_discriminator_of_wasserstein_is_kept_small() -> None:
    assert gan("wasserstein").updates()[0].settings == {"clip_weights": 0.01}
    assert gan("wasserstein").updates(clip_weights=0.1)[0].settings == {"clip_weights": 0.1}
    assert gan("wasserstein").updates()[1].settings == {}
    assert gan("hinge").updates()[0].settings == {}


# training


def moved(net: GAN, count: int = 6, **options: Any) -> list[set[str]]:
    """What changed in each step of a run."""
    found = []
    before = arrays(net)
    run = etude.Run(etude.Plan(**{"steps": count, "batch_size": 8, "optimizer": "sgd", **options}), net, batch(32))
    for event in run:
        if isinstance(event, Stepped):
            found.append({name.split(".")[0] for name in changed(before, net)})
            before = arrays(net)
    return found


def test_without_a_schedule_the_two_take_turns() -> None:
    assert moved(gan()) == [{"discriminator"}, {"generator"}] * 3


def test_a_schedule_says_who_moves() -> None:
    five = [part("discriminator") * 2, "generator"]
    assert moved(gan(), update_schedule=five) == [{"discriminator"}, {"discriminator"}, {"generator"}] * 2
    both = part("discriminator") | "generator"
    assert moved(gan(), update_schedule=both) == [{"discriminator", "generator"}] * 6


def test_the_history_has_the_terms_of_both() -> None:
    result = etude.train(gan(latent=2), batch(32)[0], steps=4, batch_size=8, progress=False)
    assert {"discriminator.real", "discriminator.fake", "discriminator.loss", "generator.loss"} <= set(result.history)
    assert result.history["discriminator.loss"].steps == [1, 3]
    assert result.history["generator.loss"].steps == [2, 4]


def test_weights_of_the_discriminator_stay_small_in_a_run() -> None:
    net = gan("wasserstein")
    moved(net, learning_rate=1.0, update_schedule=["discriminator"])
    assert max(p.abs().max() for p in net.discriminator.parameters()) <= 0.01
    assert max(p.abs().max() for p in net.generator.parameters()) > 0.01


def test_what_moves_gets_the_gradients_of_a_hand_written_loop() -> None:
    net, plain = gan("non-saturating"), gan("non-saturating")
    moved(net, 4, learning_rate=0.1, shuffle=False, batch_size=32)
    whole = batch(32)
    optimizers = [torch.optim.SGD(part_.parameters(), lr=0.1) for part_ in (plain.discriminator, plain.generator)]
    for step in range(4):
        optimizers[0].zero_grad()
        optimizers[1].zero_grad()
        fake = plain.discriminator(plain.generator(whole[1]))
        if step % 2 == 0:
            real = plain.discriminator(whole[0])
            (functional.softplus(-real).mean() + functional.softplus(fake).mean()).backward()
        else:
            functional.softplus(-fake).mean().backward()
        optimizers[step % 2].step()
    for one, other in zip(net.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(one, other, atol=1e-6)


def test_a_run_repeats_to_the_bit() -> None:
    nets_ = [gan(latent=2) for _ in range(2)]
    for net in nets_:
        etude.train(net, batch(32)[0], steps=6, batch_size=8, seed=5, progress=False)
    assert all(alike(one, other) for one, other in zip(*(net.parameters() for net in nets_), strict=True))


def test_clipped_weights_are_those_of_the_discriminator() -> None:
    net = etude.GAN(nn.Linear(2, 1), nn.Linear(1, 1), loss="wasserstein", latent=2)
    with torch.no_grad():
        net.generator.weight.fill_(1.0)
    options = {"steps": 4, "batch_size": 4, "clip_weights": 0.05, "learning_rate": 0.01, "progress": False}
    etude.train(net, torch.randn(8, 1), **options)
    # 0.05 itself is no number of float32.
    assert all(float(array.detach().abs().max()) < 0.0501 for array in net.discriminator.parameters())
    assert float(net.generator.weight.abs().max()) > 0.5
