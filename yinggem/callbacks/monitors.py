"""The figures that callbacks monitor."""

from lightning.pytorch.callbacks import Callback

from yinggem.common.errors import UserError
from yinggem.training.module import VALIDATED


def check_monitors(callbacks: list[Callback]) -> None:
    """Refuse a figure to monitor that nobody measures, before a run waits for it until its first validation.

    Raises:
        UserError: there is one. With callbacks of the user's own there may be figures of theirs, and no telling.
    """
    if not all(type(callback).__module__.startswith(("yinggem.", "lightning.")) for callback in callbacks):
        return
    for callback in callbacks:
        monitor = getattr(callback, "monitor", None)
        if monitor is not None and monitor not in VALIDATED:
            raise UserError(
                f"No figure named {monitor!r} is measured, for {type(callback).__name__} to monitor; "
                f"choose {', '.join(VALIDATED[:-1])} or {VALIDATED[-1]}."
            )
