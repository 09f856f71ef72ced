"""The words after `yinggem train`: settings and flags, and the run or the sweep that they continue."""

from collections.abc import Sequence
from pathlib import Path

from yinggem.common.errors import UserError
from yinggem.runs.overrides import flags_of, only_shows, quoted, unquoted, value_of
from yinggem.runs.record import last_of_each
from yinggem.runs.resume import Resumption, find_run, find_sweep, resumption_of
from yinggem.training.plan.text_recipe import Choice, choose


class TypedWords:
    """What was typed, tidied.

    Attributes:
        flags: those of Hydra, such as --multirun.
        typed: the settings, without what is continued, and with those that were chosen for the text.
        choice: of settings for the text, by a glance at it.
        resumption: the run that is continued, where it is one.
        to_continue: the checkpoint it goes on from; known before that is read.
        old_sweep: the folder of many jobs that are continued.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.only_show = only_shows(words)
        self.flags = flags_of(words)
        self._settings = [word for word in words if word not in self.flags]
        self.typed = [word for word in self._settings if not word.startswith("ckpt_path=")]
        self.choice = Choice()
        self.resumption: Resumption | None = None
        self.to_continue: Path | None = None
        self.old_sweep: Path | None = None

    @property
    def many(self) -> bool:
        """Whether the command runs the jobs of a sweep."""
        return "-m" in self.flags or "--multirun" in self.flags

    @property
    def sweep(self) -> Path | None:
        """The folder of the jobs, where it is typed or continued."""
        typed = value_of("hydra.sweep.dir", self.typed)
        return self.old_sweep or (Path(unquoted(typed)) if typed and self.many else None)

    def names(self, setting: str) -> bool:
        """Whether a person typed a setting, rather than that it was chosen."""
        return value_of(setting, [word for word in self.typed if word not in self.choice.words]) is not None

    def choose(self) -> None:
        """Let the text choose what nobody typed; from here on that counts as typed."""
        self.choice = choose(self.typed)
        self.typed = [*self.choice.words, *self.typed]

    def for_hydra(self) -> list[str]:
        """The words that Hydra reads; of a run with a recorded configuration the flags alone.

        Raises:
            UserError: what is to be continued is not there, or a run cannot both begin and go on.
        """
        wanted = value_of("ckpt_path", self._settings)
        if not wanted or wanted == "null":
            if not self.many:  # of a sweep every job may have another text
                self.choose()
            return [*self.flags, *self.typed]
        if begins := value_of("init_from", self._settings):
            raise UserError(f"init_from={begins} begins a new run and ckpt_path={wanted} continues one; leave one out.")
        place = value_of("outputs", self._settings)
        outputs = Path("outputs" if place is None else unquoted(place))
        return self._of_old_sweep(wanted, outputs) if self.many else self._of_old_run(wanted, outputs)

    def _of_old_sweep(self, wanted: str, outputs: Path) -> list[str]:
        self.old_sweep, old, folders = find_sweep(unquoted(wanted), outputs)
        settings = last_of_each([*old, *self.typed])
        return [*self._with_folders(folders), *settings, f"hydra.sweep.dir={quoted(self.old_sweep)}"]

    def _of_old_run(self, wanted: str, outputs: Path) -> list[str]:
        folder, self.to_continue = find_run(unquoted(wanted), outputs)
        run = self.resumption = resumption_of(folder, self.to_continue)
        if run.config is not None:
            return [flag for flag in self.flags if "--config-" not in flag]
        words = [*self._with_folders(run.config_folders), *last_of_each([*run.overrides, *self.typed])]
        # What was not recorded has no folder of its own, unless it has no checkpoint either.
        return [*words, folder_of(run)] if run.overrides or run.checkpoint is None else words

    def _with_folders(self, folders: list[str]) -> list[str]:
        """The flags, with the --config-dir that an earlier part was started with."""
        typed = any(flag.startswith("--config-dir") for flag in self.flags)
        return [*self.flags, *(f"--config-dir={folder}" for folder in ([] if typed else folders[:1]))]


def folder_of(run: Resumption) -> str:
    """The setting that lets a run go on in its folder."""
    return f"hydra.run.dir={quoted(run.folder)}"
