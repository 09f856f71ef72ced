"""Loggers that create nothing before a run is sure to go on."""

from typing import TYPE_CHECKING, Any

from lightning.fabric.loggers.logger import _DummyExperiment

if TYPE_CHECKING:
    from lightning.pytorch.loggers.logger import Logger as Base
else:
    Base = object


class LateLogger(Base):
    """Mixed into a logger of Lightning's: its experiment begins with the first thing that is logged.

    Lightning asks every logger for its experiment before it restores a checkpoint, when the run can still be refused,
    and before the logger knows where the run goes on.
    """

    begun = False

    @property
    def experiment(self) -> Any:
        """What Lightning's logger writes to; until something is logged, an object that takes everything."""
        return super().experiment if self.begun else _DummyExperiment()  # type: ignore[misc]

    def log_metrics(self, *args: Any, **kwargs: Any) -> None:
        """Begin, and log."""
        self.begun = True
        super().log_metrics(*args, **kwargs)  # type: ignore[safe-super]

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Begin, and log."""
        self.begun = True
        super().log_hyperparams(*args, **kwargs)  # type: ignore[safe-super]
