"""What is measured of (output, target, mask): right, of how many; differences; and how shapes belong together."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

IGNORED = -100
"""A class index that stands for nothing, as in torch's losses; every other below 0 is taken as that."""


def accuracy(output: Tensor, target: Tensor, true: Tensor | None = None) -> tuple[Tensor, Tensor | int]:
    """How many predictions are right, of how many.

    Args:
        output: scores of shape (n, classes, ...), of which the largest is the prediction; or one logit for each target.
        target: class indices of shape (n, ...), those below 0 left out; floats of the shape of an output of several
            classes, of which the largest is the class meant; or 0 and 1 for each logit. Padded sequences of such floats
            have time second, (n, longest, classes).
        true: which targets are no padding, bool, shape (n, longest) or (n,); None: all.

    Raises:
        ValueError: shapes that do not belong together.
    """
    predicted, meant, counted, _ = classes(output, target, true, "accuracy")
    return _shared(predicted == meant, counted, true)


def error_rate(output: Tensor, target: Tensor, true: Tensor | None = None) -> tuple[Tensor, Tensor | int]:
    """How many predictions are wrong, of how many; see `accuracy`."""
    right, count = accuracy(output, target, true)
    return count - right, count


def mean_squared_error(output: Tensor, target: Tensor, true: Tensor | None = None) -> Tensor:
    """The squared difference of each true element; shapes must be equal."""
    return difference(output, target, true) ** 2


def mean_absolute_error(output: Tensor, target: Tensor, true: Tensor | None = None) -> Tensor:
    """The absolute difference of each true element; shapes must be equal."""
    return difference(output, target, true).abs()


@dataclass(frozen=True, slots=True)
class TopK:
    """How many targets are among the `k` largest scores, of how many; shapes as for class indices in `accuracy`."""

    k: int

    def __call__(self, output: Tensor, target: Tensor, true: Tensor | None = None) -> tuple[Tensor, Tensor | int]:
        _check_indices(output, target, f"top_{self.k}")
        if not 1 <= self.k <= output.shape[1]:
            raise ValueError(f"top_{self.k} of {output.shape[1]} classes")
        found = (output.topk(self.k, dim=1).indices == target.unsqueeze(1)).any(1)
        return _shared(found, target >= 0, true)


def cross_entropies(output: Tensor, target: Tensor, true: Tensor | None = None) -> tuple[Tensor, Tensor | int]:
    """The sum of the negative log probabilities of the targets, and their number; scores are logits."""
    _check_indices(output, target, "perplexity")
    known = target >= 0
    meant = target.where(known, IGNORED)
    each = F.cross_entropy(output.double(), meant, reduction="none", ignore_index=IGNORED)
    inside = known if true is None else known & over(true, target)
    return each.masked_fill(~inside, 0).sum(), inside.sum()


def classes(
    output: Tensor, target: Tensor, true: Tensor | None, said: str
) -> tuple[Tensor, Tensor, Tensor | None, int]:
    """The classes predicted and meant, which of them count (None: all), and how many classes there are."""
    several = output.dim() > 1 and output.shape[1] > 1
    if several and output.dim() == target.dim() + 1:
        return output.argmax(1), target, target >= 0, output.shape[1]
    meant = _classes_second(output, target, true) if several and target.is_floating_point() else None
    if meant is not None:
        return output.argmax(1), meant.argmax(1), None, output.shape[1]
    if output.numel() != target.numel():
        raise ValueError(f"{said} of an output of shape {_shape(output)} and targets of shape {_shape(target)}")
    return output.reshape(target.shape) > 0, target > 0.5, None, 2


def _classes_second(output: Tensor, target: Tensor, true: Tensor | None) -> Tensor | None:
    """Floats of the shape of an output of several classes; None where these are logits, one for each target."""
    if true is not None and true.dim() > 1:
        # Padded sequences have time there.
        target = target.movedim(1, -1) if target.dim() > 2 else target[:0]
    return target if output.shape == target.shape else None


def _shared(right: Tensor, counted: Tensor | None, true: Tensor | None) -> tuple[Tensor, Tensor | int]:
    """How many are right of those that count."""
    if true is not None:
        inside = over(true, right)
        counted = inside if counted is None else counted & inside
    if counted is None:
        return right.sum(), right.numel()
    return (right & counted).sum(), counted.sum()


def over(true: Tensor, like: Tensor) -> Tensor:
    """A mask of the first dimensions as one of all."""
    return true.reshape(*true.shape, *(1,) * (like.dim() - true.dim())).expand_as(like)


def difference(output: Tensor, target: Tensor, true: Tensor | None) -> Tensor:
    """Output less target, of each true element. Raises ValueError where shapes differ."""
    # (n, 1) against (n,) would be all pairs: a number that looks like an error and is none.
    if output.shape != target.shape:
        raise ValueError(f"the output has shape {_shape(output)}, the targets have {_shape(target)}")
    return output - target if true is None else (output - target)[true]


def _check_indices(output: Tensor, target: Tensor, said: str) -> None:
    fits = output.dim() == target.dim() + 1 and not target.is_floating_point()
    if not fits or output.shape[:1] + output.shape[2:] != target.shape:
        raise ValueError(
            f"{said} of an output of shape {_shape(output)} and targets of shape {_shape(target)} ({target.dtype}): "
            "scores of shape (n, classes, ...) and class indices of shape (n, ...) are needed"
        )


def _shape(tensor: Tensor) -> tuple[int, ...]:
    return tuple(tensor.shape)
