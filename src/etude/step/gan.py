"""A generator and a discriminator trained against each other, as one net with two losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from etude.arguments import named_class
from etude.errors import SettingError, nearest
from etude.step.update import Update

_softplus = functional.softplus

# For each game: the loss on real samples, the loss on generated ones, what the generator minimises; of logits d.
_GAMES: dict[str, tuple[Callable[[Tensor], Tensor], ...]] = {
    "js": (lambda d: _softplus(-d), lambda d: _softplus(d), lambda d: -_softplus(d)),
    "non-saturating": (lambda d: _softplus(-d), lambda d: _softplus(d), lambda d: _softplus(-d)),
    "wasserstein": (lambda d: -d, lambda d: d, lambda d: -d),
    "hinge": (lambda d: functional.relu(1 - d), lambda d: functional.relu(1 + d), lambda d: -d),
}


@named_class
class GAN(nn.Module):
    """A generator and a discriminator.

    Args:
        generator: from latents to samples.
        discriminator: from samples to one number each: a logit ("js", "non-saturating") or a score.
        loss: the game. "js": the discriminator minimises -log D(x) - log(1 - D(G(z))), the generator maximises the
            second term (Goodfellow et al., NeurIPS 2014, eq. 1); "non-saturating": the generator minimises
            -log D(G(z)) instead (section 3 there); "wasserstein": D(G(z)) - D(x) against -D(G(z)), with the
            discriminator's arrays kept within ±0.01 unless `clip_weights` says otherwise (Arjovsky et al., ICML 2017);
            "hinge": max(0, 1 - D(x)) + max(0, 1 + D(G(z))) against -D(G(z)) (Lim and Ye, 2017).
        latent: the shape of one latent (an int or a sequence), drawn from a standard normal; or a function from the
            number of samples to latents. None: the data are pairs (sample, latent).

    Without an update schedule `train` moves the discriminator and the generator in turn, a batch each.

    Raises:
        SettingError: an unknown loss, or a discriminator that ends in a sigmoid.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        loss: str = "js",
        latent: int | Sequence[int] | Callable[[int], Tensor] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(loss, str) or loss not in _GAMES:
            raise SettingError(f"GAN(loss={loss!r}): known are {', '.join(_GAMES)}.{nearest(loss, _GAMES)}")
        if isinstance(_last(discriminator), nn.Sigmoid):
            raise SettingError("GAN: the discriminator ends in a Sigmoid; the losses take its logits. Leave it out.")
        self.generator = generator
        self.discriminator = discriminator
        self.loss = loss
        self.latent = _latent(latent)

    def forward(self, values: Any) -> dict[str, Tensor]:
        """For a batch, means: "real" and "fake" (of the discriminator), "generator"; and what was "generated"."""
        sample, latent = self._split(values)
        generated = self.generator(latent)
        return {**self._judged(self.discriminator(sample), self.discriminator(generated)), "generated": generated}

    def _judged(self, on_sample: Tensor, on_generated: Tensor) -> dict[str, Tensor]:
        real, fake, fooling = _GAMES[self.loss]
        return {
            "real": real(on_sample).mean(),
            "fake": fake(on_generated).mean(),
            "generator": fooling(on_generated).mean(),
        }

    def updates(self, **options: Any) -> tuple[Update, Update]:
        """The two updates of the game; `options` (optimizer, learning_rate, ...) go to both.

        Only `clip_weights` is for the discriminator alone: it is what bounds its slope.
        """
        critic = dict(options)
        options.pop("clip_weights", None)
        if self.loss == "wasserstein":
            critic.setdefault("clip_weights", 0.01)
        return (
            Update("discriminator", loss={"real": _judge, "fake": _judge}, part="discriminator", **critic),
            Update("generator", loss={"generator": _fool}, part="generator", **options),
        )

    def _split(self, values: Any) -> tuple[Tensor, Tensor]:
        if self.latent is None:
            if not isinstance(values, tuple | list) or len(values) != 2:
                raise SettingError(
                    "GAN: the data are no pairs (sample, latent). Give pairs, or say GAN(..., latent=64)."
                )
            return values[0], values[1]
        sample = values[0] if isinstance(values, tuple | list) else values
        if callable(self.latent):
            return sample, self.latent(len(sample))
        return sample, torch.randn(len(sample), *self.latent, device=sample.device, dtype=sample.dtype)


def _last(module: nn.Module) -> nn.Module:
    """The layer in which a chain ends; a module of another kind itself, because nobody can see into its forward."""
    while isinstance(module, nn.Sequential) and len(module):
        module = module[-1]
    return module


def _latent(given: Any) -> Any:
    """The shape of one latent, a function that draws them, or None."""
    if given is None or callable(given):
        return given
    shape = (given,) if isinstance(given, int) else tuple(given) if isinstance(given, Sequence) else (None,)
    if not all(isinstance(size, int) and not isinstance(size, bool) and size > 0 for size in shape):
        raise SettingError(
            f"GAN(latent={given!r}): the shape of one latent is needed, or a function from the number of samples to "
            "latents. Write latent=64, latent=(8, 4) or latent=lambda n: torch.rand(n, 64)."
        )
    return shape


def _judge(net: GAN, batch: Any) -> dict[str, Tensor]:
    """Both terms of the discriminator, from one batch of latents."""
    return net(batch)  # type: ignore[no-any-return]


def _fool(net: GAN, batch: Any) -> Tensor:
    """What the generator minimises; the samples are not looked at."""
    _, latent = net._split(batch)
    return _GAMES[net.loss][2](net.discriminator(net.generator(latent))).mean()
