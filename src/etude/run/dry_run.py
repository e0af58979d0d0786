"""Computing everything once without moving anything: what cannot be computed is found before the first step."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from etude.data.assembled import Assembled
from etude.data.batch import each, outline
from etude.data.source import Arrays, Source
from etude.errors import EtudeError, PlanError, SettingError
from etude.run.evaluate import Evaluator
from etude.step.looking import looking
from etude.step.loss_batch import check_measured
from etude.step.reading import Reader, samples_in
from etude.step.splitting import halves, is_out_of_memory
from etude.step.work import Work
from etude.values.progress import Extent, Progress
from etude.values.tree import has_shape

_LOOKED_AT = 1 << 24
"""Targets that are looked at before the first step, beside samples of different lengths."""

_CASTS = {"float32": "float", "float64": "double", "float16": "half", "bfloat16": "bfloat16"}


def dry_run(works: tuple[Work, ...], net: nn.Module, batch: Any, training: Source, extent: Extent) -> None:
    """Compute every loss once, in evaluation mode, so that nothing of the net changes."""
    whole = in_memory(training)
    for work in works:
        try:
            with looking(net):
                if work.losses.needs_output:
                    among = _among_sequences(training, batch, work.read) if whole is None else None
                    work.losses.check_output(net, work.read, batch, whole if among is None else among)
                    if among is not None:
                        work.losses.count_ignored()  # rows may still come that only fill up
                with torch.enable_grad():
                    loss, measured, *_ = work.measure(Progress(extent=extent), batch)
                check_measured(work.losses.terms, measured)
        except EtudeError:
            raise
        except Exception as error:
            raise PlanError(_explained(error, net, batch, work.name)) from error
        if loss.is_complex():
            raise PlanError(f"The loss {work.name!r} is complex: a real number is needed. Take abs() or .real of it.")
        if not loss.requires_grad and work.stepper.table.ever_moving():
            raise PlanError(
                f"The loss {work.name!r} does not depend on any trainable array: no gradient can reach one. The net or "
                "the loss leaves the graph (detach(), no_grad(), argmax, numpy)."
            )
        work.check_left_out(loss, extent)


def try_single(net: nn.Module, works: tuple[Work, ...], batch: Any, extent: Extent) -> None:
    """Where a batch of one sample will come: batch norm cannot normalise one number, and says so only in training."""
    if not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in net.modules()):
        return
    if isinstance(batch, Mapping) and any(name.endswith("_offsets") for name in batch):
        return  # sequences that follow one another are normalised over all their frames
    single = each(batch, lambda value: value[:1] if isinstance(value, Tensor) and value.dim() else value)
    modes = [(module, module.training) for module in net.modules()]
    for work in works:
        try:
            if not net.training:
                net.train()
            with torch.no_grad():
                work.stepper.begin_forward()
                work.measure(Progress(extent=extent), single)
        except ValueError as error:
            raise PlanError(
                f"The last batch of an epoch has one sample, and batch norm cannot be trained on it: {error} "
                "Choose another batch_size, so that more than one is left."
            ) from error
        finally:
            for module, mode in modes:
                module.training = mode


def materialise(net: nn.Module, batch: Any) -> None:
    """Lazy modules get their shapes from the first batch, before rules meet arrays."""
    if all(has_shape(array) for array in (*net.parameters(), *net.buffers())):
        return
    args, kwargs, _ = Reader(net)(batch)
    try:
        with looking(net):
            net(*args, **kwargs)
    except Exception as error:
        raise PlanError(_explained(error, net, batch, "loss")) from error


def _explained(error: Exception, net: nn.Module, batch: Any, name: str) -> str:
    text = str(error).splitlines()[0] if str(error) else type(error).__name__
    floats = {str(array.dtype).removeprefix("torch.") for array in net.parameters() if array.is_floating_point()}
    hint = ""
    if "dtype" in text or ("type" in text.lower() and "expected" in text.lower()):
        hint = (
            f" The net's arrays are {', '.join(sorted(floats))}: give inputs of that type "
            f"(x.{_CASTS.get(min(floats, default='float32'), 'float')}()), and class targets as integers."
        )
    elif "out of bounds" in text or "out of range" in text:
        hint = " A target names a class that the net's output does not have: classes count from 0."
    end = "" if text.endswith(".") else "."
    return f"The loss {name!r} cannot be computed on the first batch, {outline(batch)}: {text}{end}{hint}"


def in_memory(training: Source) -> Any:
    """All data, shaped as a batch, where they are arrays in memory."""
    if not isinstance(training, Arrays):
        return None
    if training.form == "dict":
        return dict(zip(training.names, training.arrays, strict=True))
    return training.arrays if training.form == "tuple" else training.arrays[0]


def _among_sequences(training: Source, batch: Any, read: Reader) -> Any:
    """All data, shaped as a batch, where samples in memory have sequences and one target each; else None."""
    columns = training.stock.columns if isinstance(training, Assembled) else None
    if columns is None or not isinstance(batch, Mapping):
        return None
    target = read(batch)[2]
    wanted = [name for name, column in columns.items() if isinstance(column, Tensor) and batch.get(name) is target]
    if not wanted or columns[wanted[0]].numel() > _LOOKED_AT:  # type: ignore[union-attr]
        return None
    return {**batch, wanted[0]: columns[wanted[0]]}


def _check_output(work: Work, net: nn.Module, batch: Any, whole: Any, splits: bool) -> None:
    """Hold what the net gives for a batch against its targets; where memory is not enough, for a part of it."""
    while True:
        try:
            return work.losses.check_output(net, work.read, batch, whole, also=True)
        except (RuntimeError, MemoryError) as error:
            if not splits or not is_out_of_memory(error) or samples_in(batch) < 2:
                raise
        batch = halves(batch)[0]


def _check_looked(work: Work, batch: Any) -> None:
    """Terms that validation data alone are measured by were not computed yet."""
    looked = work.losses.evaluation
    if looked is work.losses:
        return
    if not looked.terms:
        raise SettingError(
            f"The loss {work.name!r}: every term is of training alone (only='training'), and nothing is left to "
            "measure. Leave only= out of one, or add losses.term(..., only='evaluation')."
        )
    with torch.enable_grad():  # a loss may be of derivatives of the net
        check_measured(looked.terms, work.measure(work.stepper.progress, batch, looking=True)[1])


def prove_validation(
    evaluator: Evaluator,
    works: tuple[Work, ...],
    net: nn.Module,
    data: Mapping[str, Source],
    batches: Mapping[str, Any],
) -> None:
    """Measure one batch of the validation data, and look at all class targets, before the first step.

    Args:
        data: what is looked at, by name; the first is called "". batches: the first batch of each.
    """
    for name, batch in batches.items():
        with _in_validation(name, net, batch):
            whole = in_memory(data[name])
            with looking(net):
                for work in works:
                    if whole is None:
                        work.losses.count_ignored()
                    if work.losses.needs_output:
                        _check_output(work, net, batch, whole, evaluator.splits)
                    _check_looked(work, batch)
    others = {name: batch for name, batch in batches.items() if name}
    try:
        evaluator.prove(batches[""], others)
    except Exception:
        with _in_validation(evaluator.at, net, batches[evaluator.at]):
            raise


@contextmanager
def _in_validation(name: str, net: nn.Module, batch: Any) -> Iterator[None]:
    """Errors within it are told of the validation data."""
    where = f"In the validation data {name!r}: " if name else "In the validation data: "
    try:
        yield
    except EtudeError as error:
        raise type(error)(f"{where}{error}") from error
    except Exception as error:
        raise PlanError(where + _explained(error, net, batch, "loss")) from error


@contextmanager
def restored_on_error(net: nn.Module) -> Iterator[None]:
    """On an error the net goes back to the devices and types it had."""
    had = [(array, array.data) for array in net.parameters() if has_shape(array)]
    # Moving a net gives its parameters new data, and puts new tensors in the place of its buffers.
    buffers = [(module, dict(module._buffers.items())) for module in net.modules()]
    try:
        yield
    except BaseException:
        for array, data in had:
            if has_shape(array) and (data.device, data.dtype) != (array.device, array.dtype):
                array.data = data
        for module, before in buffers:
            # A scripted module keeps its buffers elsewhere, and cannot be given others.
            if isinstance(module._buffers, dict):
                module._buffers.update(before)
        raise
