"""Random generators as plain values and tensors, and back: those of the process, and those a program has made."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import torch

from etude.errors import warn

Generator: TypeAlias = "torch.Generator | np.random.Generator | np.random.RandomState | random.Random"


def is_generator(value: object) -> bool:
    """Whether it is a generator of torch, NumPy or Python that has a state: that of the system has none."""
    if isinstance(value, torch.Generator | np.random.Generator | np.random.RandomState):
        return True
    return type(value) is random.Random


def kind_of(generator: Generator) -> str:
    """What a generator must share with another whose state it takes over."""
    if isinstance(generator, torch.Generator):
        return f"torch.Generator on {generator.device.type}"
    if isinstance(generator, np.random.Generator):
        return f"numpy.random.Generator({type(generator.bit_generator).__name__})"
    if isinstance(generator, np.random.RandomState):
        return f"numpy.random.RandomState({state_of(generator)['bit_generator']})"
    return "random.Random"


def state_of(generator: Generator) -> Any:
    """Where a generator is: values that `plain.pack` takes."""
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, np.random.Generator):
        return dict(generator.bit_generator.state)
    if isinstance(generator, np.random.RandomState):
        return generator.get_state(legacy=False)
    return _of_python(generator.getstate())


def put(generator: Generator, state: Any) -> None:
    """Bring a generator to where `state_of` found one of its kind."""
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(state)
    else:
        generator.setstate(_to_python(state))


def of_process() -> dict[str, Any]:
    """Where the process's own generators are: torch's on the CPU and on CUDA devices in use, NumPy's, Python's."""
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if _cuda_in_use() else [],
        "numpy": _of_numpy(),
        "python": _of_python(random.getstate()),
    }


def misfit(state: Mapping[str, Any]) -> str | None:
    """Why the process cannot take over a state, as a part of a sentence; None where it can."""
    saved, here = state["numpy"]["bit_generator"], _of_numpy()["bit_generator"]
    return None if saved == here else f"NumPy's own generator is {here} here, {saved} in the file"


def put_process(state: Mapping[str, Any]) -> None:
    """Bring the process's own generators to where `of_process` found them; devices that are missing are told."""
    torch.set_rng_state(state["torch"])
    np.random.set_state(state["numpy"])
    random.setstate(_to_python(state["python"]))
    saved, here = len(state["cuda"]), torch.cuda.device_count()
    if saved > here:
        warn(f"The file has random generators of {saved} CUDA devices; there are {here}. Chance there begins anew.")
    for device, own in enumerate(state["cuda"][:here]):
        torch.cuda.set_rng_state(own, device)


def _of_numpy() -> dict[str, Any]:
    state: Any = np.random.get_state(legacy=False)
    return dict(state)


def _of_python(state: tuple[Any, ...]) -> dict[str, Any]:
    version, words, waiting = state
    return {"version": version, "words": np.array(words, np.uint32), "waiting": waiting}


def _to_python(state: Mapping[str, Any]) -> tuple[Any, ...]:
    return state["version"], tuple(state["words"].tolist()), state["waiting"]


def _cuda_in_use() -> bool:
    return torch.cuda.is_available() and bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]
