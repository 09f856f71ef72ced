"""The figures that callbacks monitor."""

from lightning.pytorch.callbacks import Callback

from yinggem.common.errors import UserError
from yinggem.training.module import VALIDATED


def check_monitors(callbacks: list[Callback]) -> None:
    """Refuse to monitor a figure that no validation measures: a run would notice only at its first one.

    Raises:
        UserError: there is one. Nothing is refused if some callback is the user's own: it may measure others.
    """
    if not all(type(callback).__module__.startswith(("yinggem.", "lightning.")) for callback in callbacks):
        return
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        if monitor is not None and monitor not in VALIDATED:
            raise UserError(
                f"{type(callback).__name__} cannot monitor {monitor!r}, which no validation measures; "
                f"choose {', '.join(VALIDATED[:-1])} or {VALIDATED[-1]}."
            )
