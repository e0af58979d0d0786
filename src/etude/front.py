"""The front door: one call, one result. It stands above the run and the listeners, and knows both."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from functools import partial
from typing import Any

from torch import nn

from etude.arguments import Faults, named
from etude.errors import Interrupted, SettingError, StateError, nearest
from etude.hints import not_there
from etude.listen.bar import Bar
from etude.run.events import Began, Event, Listener
from etude.run.leaving import at_a_prompt
from etude.run.plan import OF_TRAIN, Plan, check_time
from etude.run.result import Result
from etude.run.resuming import Accept, Resume, check_accept, check_resume
from etude.run.run import Run
from etude.values.spans import Span


@named
def train(
    net: nn.Module,
    data: Any,
    plan: Plan | None = None,
    *,
    progress: bool | str = "auto",
    listeners: Iterable[Listener] = (),
    resume: Resume = None,
    accept: Accept = (),
    until: Span | None = None,
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
        resume: "auto": go on from the newest good checkpoint in the places that `checkpoint` names, or begin where
            there is none; a file: go on from exactly that one. A run that had ended gives its result at once.
        accept: differences between checkpoint and program that are meant: their names, or True for all.
        until: save the run and leave after so much time in this process, hours(11.5).

    Returns:
        The result: net, history, rates, timings and everything that was chosen.

    Raises:
        EtudeError: the plan cannot be carried out on this net with these data; nothing is changed then. CheckpointError
            where a checkpoint is damaged or is none of this run; StateError where another process writes there.
        Interrupted: a SIGTERM, SIGINT or SIGUSR1 came, or `until` was reached, and the state was saved. Not caught, it
            ends the process with exit code 75: run again to go on. Without `checkpoint` signals do what they always do;
            at a Python prompt Ctrl-C is a KeyboardInterrupt, once the state is saved.
    """
    if plan is not None and not isinstance(plan, Plan):
        raise SettingError(f"train(net, data, {plan!r}): the third is a Plan. Write loss={plan!r} if that is the loss.")
    if plan is not None and options:
        near = not_there([name for name in options if nearest(name, OF_TRAIN)], OF_TRAIN)
        raise SettingError(
            f"train(): a plan and options ({', '.join(options)}) are both given. {near or 'Write them into the plan.'}"
        )
    faults = Faults()
    made = plan if plan is not None else faults.take(partial(Plan, **options))
    told = faults.take(_told, listeners)
    bar = faults.take(_bar, progress)
    for check, given in ((check_resume, resume), (check_accept, accept), (partial(check_time, "until"), until)):
        faults.take(check, given)
    faults.tell()
    run = Run(made, net, data, resume=resume, accept=accept, until=until)
    result = run.to(_tell_resumed, bar, *told).result()
    if result.stop_reason == "interrupted":
        path, step = run.newest_checkpoint
        if step != result.steps:
            there = f"the newest checkpoint is {path}, of step {step}" if path else "no checkpoint is there"
            raise StateError(
                f"{result.stop_message}: the run left, and its state after step {result.steps} could not be saved; "
                f"{there}."
            )
        left = Interrupted(path, step, result.stop_message)
        if result.stop_message == "SIGINT" and at_a_prompt():
            # Ending the process would cost whoever types there all that is in it.
            raise KeyboardInterrupt(str(left))
        print(f"etude: {left}", file=sys.stderr, flush=True)
        raise left
    return result


def _told(listeners: Iterable[Listener]) -> tuple[Listener, ...]:
    made = tuple(listeners) if isinstance(listeners, Iterable) else ()
    if not isinstance(listeners, Iterable) or not all(callable(each) for each in made):
        raise SettingError(f"listeners={listeners!r}: a list of callables is needed. Write listeners=[...].")
    return made


def _tell_resumed(event: Event, /) -> None:
    """Whoever reads the log of a job that was started again should see where it goes on."""
    if isinstance(event, Began) and event.summary["resumed"]:
        said = f"going on after step {int(event.progress.step):,}, from {event.summary['resumed']}"
        print(f"etude: {said}", file=sys.stderr, flush=True)


def _bar(progress: bool | str) -> Listener | None:
    if progress == "auto":
        return Bar.auto()
    if not isinstance(progress, bool):
        raise SettingError(f'progress={progress!r}: True, False or "auto" is needed.')
    return Bar() if progress else None
