"""From an exception to the one sentence a user can act on."""

import difflib
import errno
import re
from pathlib import Path

from yinggem.common.config_files import setting_names
from yinggem.common.errors import UserError, one_line
from yinggem.common.program import typed

CANNOT_WRITE = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG, errno.ENOTDIR}
OF_HYDRA = {  # what it says, and what that means
    r"Ambiguous value for argument '([^=]+)=([^']*)'": (
        "{0} got several values; add -m to run one job for each, or write {0}=[{1}] for a list."
    ),
    r"Sweep parameters '(.+)' requires --multirun": "{0} is for many runs from one command; add -m.",
    r"Cannot find primary config '([^']*)'": (
        "There is no configuration {0!r}; leave out --config-name, or name a file with --config-dir."
    ),
    r"Additional config directory '([^']+)' not found": (
        "--config-dir {0} does not exist; name a folder with configuration files."
    ),
    r"Multiple values for ([\w/]+)\.|([\w/]+) appears more than once": (
        "A group is chosen once, without a plus before it: write {0}{1}=CHOICE."
    ),
    r"force-add of config groups is not supported: '\+\+([^=]+)=": (
        "++ is for single settings and {0} is a group; write {0}=CHOICE."
    ),
    r"Config group override must be|group override deletion value must be": (
        "A group, such as model, takes the name of a choice, as in model=small."
    ),
    r"Environment variable '(.+)' not found": (
        "The environment variable {0} is not set; set it, or write ${{oc.env:{0},VALUE}} with a value to use instead."
    ),
}
TRACEBACK = "YINGGEM_TRACEBACK=1 shows where"


def explain(error: BaseException, conf: Path) -> str:
    """One sentence for an error of the configuration or of a run.

    Args:
        error: what was raised; its causes are searched for a sentence of ours.
        conf: the folder of configuration files, for near matches of a misspelt name.
    """
    ours = next((cause for cause in causes(error, suppressed=True) if isinstance(cause, UserError)), None)
    if ours is not None:
        return str(ours)
    return one_line(_of_the_command_line(error, conf) or _of_the_run(error, conf))


def _of_the_command_line(error: BaseException, conf: Path) -> str | None:
    """What Hydra says about names and grammar, in plain words."""
    text = str(error)
    if type(error).__name__ == "OverrideParseException":
        word = getattr(error, "override", "")
        return f"Cannot read {word!r} as a setting; write name=value, with quotes as in \"name='a, b'\" where needed."
    for pattern, sentence in OF_HYDRA.items():
        if match := re.search(pattern, text):
            return sentence.format(*match.groups(""))
    if match := re.search(r"Could not find '([^']+)'|config group '([^']+)' does not exist", text):
        return _unknown_option(match[1] or match[2], conf)
    if match := re.search(r"Could not override '([^']+)'|Could not (?:append|delete).*?'([^']+)'", text):
        name = match[1] or match[2]
        return f"There is no setting {name!r} to override{_near(name, setting_names(conf))}"
    if match := re.search(r"Key '([^']+)' is not in struct", text):
        return f"There is no setting {match[1]!r}{_near(match[1], setting_names(conf))}"
    return None


def _of_the_run(error: BaseException, conf: Path) -> str:
    """What a library says about a value it refuses: the innermost cause on one line, after the name of its group."""
    deepest = causes(error)[-1]
    group = next((match[1] for cause in causes(error) if (match := re.search(r"full_key: (\S+)", str(cause)))), "")
    if group and (match := re.search(r"got an unexpected keyword argument '(\w+)'", str(deepest))):
        name = f"{group}.{match[1]}"
        return f"There is no setting {name!r}{_near(name, setting_names(conf))}"
    if isinstance(deepest, MemoryError) or re.search(r"out of memory|can't allocate memory", str(deepest)):
        return "Out of memory; lower data.batch_size, data.context_length or the sizes of the model."
    if isinstance(deepest, BrokenPipeError):
        return "The program that read stdout has ended, and so did the run; send stdout to a file instead of a pipe."
    if isinstance(deepest, OSError) and deepest.errno in CANNOT_WRITE:
        place = deepest.filename or "a file of the run"
        return f"Cannot write {place} ({deepest.strerror}); make room there, or choose a folder with outputs=FOLDER."
    return in_short(deepest, group)


def in_short(error: BaseException, group: str = "") -> str:
    """An unforeseen error, on one line."""
    line = " ".join(str(error).split("full_key:")[0].split()) or type(error).__name__
    line = f"{group}: {line}" if group else line
    if len(line) > 300:
        line = line[:300] + " ..."
    return f"{line.rstrip('.')} ({type(error).__name__}; {TRACEBACK})."


def causes(error: BaseException, suppressed: bool = False) -> list[BaseException]:
    """The error and what caused it, outermost first; if `suppressed`, also causes hidden by `from None`."""
    chain: list[BaseException] = []
    current: BaseException | None = error
    while current is not None and current not in chain:
        chain.append(current)
        hidden = current.__suppress_context__ and not suppressed
        current = current.__cause__ or (None if hidden else current.__context__)
    return chain


def _unknown_option(name: str, conf: Path) -> str:
    group, _, option = name.rpartition("/")
    if group == "hydra/launcher" and option.startswith(("yinggem_", "submitit_")):
        return "launcher= needs submitit, which is not installed; install it with pip install 'yinggem[cluster]'."
    options = sorted(path.stem for path in (conf / group).glob("*.yaml")) if group else []
    if not options:
        groups = sorted(path.name for path in conf.iterdir() if path.is_dir())
        return f"There is no group {name!r}; the groups are {', '.join(groups)}."
    close = difflib.get_close_matches(option, options, n=2, cutoff=0.5)
    hint = f"; did you mean {' or '.join(close)}? The choices are" if close else "; choose from"
    return f"{group}={option} does not exist{hint} {', '.join(options)}."


def _near(name: str, known: list[str]) -> str:
    """The end of a sentence about an unknown name: which name may have been meant."""
    parent, _, last = name.rpartition(".")
    siblings = {other.rpartition(".")[2]: other for other in known if other.rpartition(".")[0] == parent}
    if name in known:
        return f" with this choice of {parent.partition('.')[0] or name}; it belongs to another."
    close = [siblings[key] for key in difflib.get_close_matches(last, siblings, n=3, cutoff=0.6)]
    if len(close) > 1 and _likeness(name, close[0]) > 0.85:
        close = [other for other in close if _likeness(name, other) > 0.85]
    close = close or difflib.get_close_matches(name, known, n=2, cutoff=0.75)
    close = close or [other for other in known if other.rpartition(".")[2] == last][:3]
    return f"; did you mean {' or '.join(close)}?" if close else f"; `{typed('train')} --cfg job` shows all there are."


def _likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()
