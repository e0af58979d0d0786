"""The front door: one call, one result. It stands above the run and the listeners, and knows both."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import nn

from etude.listen.bar import Bar
from etude.run.events import Listener
from etude.run.plan import Plan
from etude.run.result import Result
from etude.run.run import Run


def train(
    net: nn.Module,
    data: Any,
    plan: Plan | None = None,
    *,
    progress: bool | str = "auto",
    listeners: Iterable[Listener] = (),
    **options: Any,
) -> Result:
    """Train `net` on `data`.

    Args:
        net: any module; it is trained in place and handed back in the result, in evaluation mode.
        data: (inputs, targets) as tensors or arrays, a dict of arrays, a list of pairs, a Dataset, an IterableDataset,
            a DataLoader, a Hugging Face dataset, or a generator function (with round_length=).
        plan: what to do; or give the options of `Plan` here as keywords (loss, epochs, optimizer, learning_rate, ...).
        progress: "auto": a bar on a terminal, nothing otherwise; True: a bar, or plain lines where there is no
            terminal; False: nothing.
        listeners: called with every event, after the bar.

    Returns:
        The result: net, history, rates, timings and everything that was chosen.

    Raises:
        EtudeError: the plan cannot be carried out on this net with these data; nothing is changed then.
    """
    if plan is not None and options:
        raise TypeError(f"train(): a plan and options ({', '.join(options)}) are both given. Write them into the plan.")
    run = Run(plan if plan is not None else Plan(**options), net, data)
    return run.to(_bar(progress), *listeners).result()


def _bar(progress: bool | str) -> Listener | None:
    if progress is False:
        return None
    return Bar.auto() if progress == "auto" else Bar()
