"""What a continued run takes from its checkpoint, and what from its configuration.

The rule: progress comes from the checkpoint (weights, moments, counts of steps), settings come from the configuration
(learning rate, betas, weight decay, schedule ...), so that every setting typed on continuing takes effect. What cannot
take effect is refused by its name.
"""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR

from yinggem.common.errors import UserError
from yinggem.training.optimizers.building import make_schedule

OF_THE_WEIGHTS = ("params", "param_names")  # in a group of parameters: which weights it has; these are not settings
Groups = list[dict[str, Any]]


def check_same_model(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on with another model than the checkpoint's.

    Args:
        saved, now: `ModelConfig.to_dict()`.

    Raises:
        UserError: names the settings that differ, and both values.
    """
    names = [name for name in {**saved, **now} if saved.get(name) != now.get(name)]
    if names:
        there = ", ".join(f"{name}={saved.get(name)}" for name in names)
        here = ", ".join(f"model.{name}={now.get(name)}" for name in names)
        raise UserError(
            f"The checkpoint holds another model: it has {there}, not {here}; "
            "continue with the settings it has, or start a new run with ckpt_path=null."
        )


def adapt_optimizer_state(checkpoint: dict[str, Any], optimizer: Optimizer) -> float | None:
    """Give the state of the optimizer in a checkpoint the groups and settings of `optimizer`, which is new.

    Returns:
        the learning rate it had come to; None where the checkpoint has no such state.

    Raises:
        UserError: it is the state of another optimizer.
    """
    states, recorded = checkpoint.get("optimizer_states"), checkpoint.get("optimizer_settings")
    if not states:
        return None
    check_same_optimizer(states[0], recorded, optimizer)
    rate = float(states[0]["param_groups"][0]["lr"])
    states[0] = with_settings_of(optimizer, states[0], recorded)
    return rate


def check_same_optimizer(saved: Mapping[str, Any], recorded: Mapping[str, Any] | None, optimizer: Optimizer) -> None:
    """Refuse to go on with an optimizer of another class, which could not use the state of this one.

    Args:
        saved: its state dict in the checkpoint.
        recorded: what `recorded_settings` kept there; None in a checkpoint of version 0.1.0.

    Raises:
        UserError: it is another.
    """
    name = type(optimizer).__name__
    if recorded:
        another = recorded["name"] != name
    else:  # another class has settings of other names, and each version of torch may add some
        old, new = _names_of_settings(saved["param_groups"]), _names_of_settings(optimizer.param_groups)
        fits = all(any(was <= now for was in old) for now in new) and all(any(was <= now for now in new) for was in old)
        another = not fits
    if another:
        raise UserError(
            f"The checkpoint holds the state of {recorded['name'] if recorded else 'another optimizer'}, which "
            f"{name} cannot go on from; continue with the optimizer it was trained with, or start a new run."
        )


def _names_of_settings(groups: Groups) -> list[set[str]]:
    return [set(group) - {"initial_lr", *OF_THE_WEIGHTS} for group in groups]


def recorded_settings(optimizer: Optimizer) -> dict[str, Any]:
    """An optimizer's class and settings as configured, before a schedule changes them: plain data for a checkpoint."""
    return {"name": type(optimizer).__name__, "groups": [_settings(group) for group in optimizer.param_groups]}


def with_settings_of(optimizer: Optimizer, saved: dict[str, Any], recorded: Mapping[str, Any] | None) -> dict[str, Any]:
    """A saved state dict with the groups and the settings of `optimizer`, which is new and has no schedule yet.

    Groups may hold other weights than before: with a weight decay there are two groups, without there is one. A value
    that no setting has changed since stays as it was saved: some optimizers count in their groups.

    Args:
        recorded: what `recorded_settings` kept when it was saved; without it every setting counts as changed.
    """
    old, new = saved["param_groups"], optimizer.state_dict()["param_groups"]
    if not all("param_names" in group for group in (*old, *new)):
        return saved if len(old) != len(new) else {**saved, "param_groups": _merged_groups(old, new, recorded)}
    place = {name: (number, i) for number, group in enumerate(old)
             for name, i in zip(group["param_names"], group["params"], strict=True)}  # fmt: skip
    names = {i: name for group in new for name, i in zip(group["param_names"], group["params"], strict=True)}
    if place.keys() != set(names.values()):
        return saved  # other weights: torch says what is wrong
    states = {i: saved["state"][place[name][1]] for i, name in names.items() if place[name][1] in saved["state"]}
    sources = [place[group["param_names"][0]][0] for group in new]
    known = recorded if recorded and len(old) == len(new) else None
    return {"state": states, "param_groups": _merged_groups([old[number] for number in sources], new, known)}


def _merged_groups(old: Groups, new: Groups, recorded: Mapping[str, Any] | None) -> Groups:
    before: list[Any] = recorded["groups"] if recorded else [None] * len(new)
    merged = []
    for was, now, kept in zip(old, new, before, strict=True):
        same = {name for name, value in _settings(now).items() if kept and name in kept and _equal(kept[name], value)}
        values = {name: was[name] if name in same and name in was and name != "lr" else now[name] for name in now}
        merged.append({name: value for name, value in was.items() if name != "initial_lr"} | values)
    return merged


def _settings(group: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in group.items() if name not in OF_THE_WEIGHTS and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool | int | float | str)


def _equal(one: Any, other: Any) -> bool:
    sequences = isinstance(one, list | tuple) and isinstance(other, list | tuple)
    return list(one) == list(other) if sequences else bool(one == other)


def schedule_after(steps: int, make: Callable[..., Any], optimizer: Optimizer, total_steps: int) -> Any:
    """A schedule as configured, `steps` steps after its beginning.

    Args:
        make: its partial constructor.
        optimizer: its groups have the configured learning rates as "initial_lr", or as "lr" if they have none.
    """
    for group in optimizer.param_groups:
        group["lr"] = group.pop("initial_lr", group["lr"])
    schedule = make_schedule(make, optimizer, total_steps)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that no optimizer step came before: they were another process's
        if steps and isinstance(schedule, LambdaLR):  # a formula of the step: there is nothing to go through
            schedule.last_epoch, schedule._step_count, steps = steps - 1, steps, 1
        for _ in range(steps):
            schedule.step()
    return schedule
