"""Building an optimizer and its schedule: which weights decay, what a constructor refuses."""

import inspect
from collections.abc import Callable
from typing import Any

from torch import nn
from torch.optim import Optimizer

from yinggem.common.errors import UserError


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices, which decay, and vectors (norms, biases), which do not; one group where nothing decays."""
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    if not weight_decay:
        return [{"params": named}]
    matrices, vectors = ([pair for pair in named if (pair[1].ndim >= 2) == wide] for wide in (True, False))
    groups: list[dict[str, Any]] = [{"params": matrices}, {"params": vectors, "weight_decay": 0.0}]
    return [group for group in groups if group["params"]]


def make_optimizer(optimizer: Callable[..., Optimizer], model: nn.Module) -> Optimizer:
    """An optimizer for the weights of a model from its partial constructor: any subclass of torch.optim.Optimizer.

    It is given groups of (name, parameter) pairs, as torch takes them; one that goes through its parameters itself and
    knows nothing of names is given the parameters alone.

    Raises:
        UserError: names the values that it refuses.
    """
    groups = parameter_groups(model, _argument(optimizer, "weight_decay") or 0.0)
    bare = [group | {"params": [parameter for _, parameter in group["params"]]} for group in groups]
    try:
        return _named("optimizer", optimizer, groups)
    except UserError:
        try:
            return _named("optimizer", optimizer, bare)
        except UserError:
            pass
        raise


def make_schedule(scheduler: Callable[..., Any], optimizer: Optimizer, total_steps: int) -> Any:
    """A schedule from its partial constructor, which is told the length of the run if it asks for it.

    Raises:
        UserError: names the values that it refuses.
    """
    length = {"total_steps": total_steps} if _accepts(scheduler, "total_steps") else {}
    return _named("scheduler", scheduler, optimizer, **length)


def _argument(make: Callable[..., Any], name: str) -> Any:
    """The value that an argument of a constructor will have; None where it has no such argument."""
    if name in getattr(make, "keywords", {}):
        return make.keywords[name]  # type: ignore[attr-defined]
    known = inspect.signature(make).parameters.get(name)
    return None if known is None or known.default is inspect.Parameter.empty else known.default


def _accepts(make: Callable[..., Any], name: str) -> bool:
    parameters = inspect.signature(make).parameters
    return name in parameters or any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())


def _named(group: str, make: Callable[..., Any], *arguments: Any, **more: Any) -> Any:
    try:
        return make(*arguments, **more)
    except Exception as error:  # the constructor may be anybody's
        if isinstance(error, UserError):
            raise
        values = ", ".join(f"{group}.{name}={value}" for name, value in _refused(make, *arguments, **more).items())
        reason = " ".join(str(error).split()).rstrip(".")
        raise UserError(f"{group} does not take {values or 'these values'}: {reason}.") from error


def _refused(make: Callable[..., Any], *arguments: Any, **more: Any) -> dict[str, Any]:
    """The value without which a constructor works; all of them where it is not one alone."""
    settings = getattr(make, "keywords", {})
    for name, value in settings.items():
        others = {other: it for other, it in settings.items() if other != name}
        try:
            make.func(*arguments, **others, **more)  # type: ignore[attr-defined]
        except Exception:
            continue
        return {name: value}
    return settings
