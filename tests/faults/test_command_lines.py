"""Command lines nobody would type, hundreds of them in `make soak`, each answered by a run or by one sentence."""

import random
import signal
from collections.abc import Iterator

import pytest
import yaml
from running import SMALL, TEXT, Done, here, sized

from yinggem.commands.train import CONF
from yinggem.common.config_files import values

pytestmark = pytest.mark.slow
ROUNDS, EACH, SECONDS = sized(1, 20), sized(16, 25), 600
SLOW = {"model": ("base",), "experiment": ("yinggem_t1", "nanogpt_char")}  # minutes each; test_configs builds them
NOT_HERE = ("compile", "trainer.devices", "trainer.num_nodes", "outputs", "run_dir", "trainer.accelerator",
            "trainer.strategy")  # compilers, other processes, other places  # fmt: skip
LAST = ["compile=false", "trainer.accelerator=cpu", "trainer.devices=1", "trainer.fast_dev_run=true"]
ODD = ["", "0", "-1", "1", "2", "3.5", "1e9", "-1e-9", "1e400", "nan", "inf", "null", "true", "False", "word", "[]",
       "[1,2]", "{a:1}", "'a b'", "é中🙂", "\x00", "a=b", "${seed}", "${nothing}", "${", "a,b", "../x", "'", '"', "1_0",
       "0x10", "99999999999999999999", "[null]", "~", "!!python/object", "@", " ", "\\"]  # fmt: skip


def tree() -> tuple[dict[str, list[str]], dict[str, list[str]]]:
    """Every group with its choices, every setting with the values it has in conf/."""
    groups: dict[str, list[str]] = {}
    for path in sorted(CONF.glob("*/*.yaml")):
        groups.setdefault(path.parent.name, []).append(path.stem)
    settings: dict[str, list[str]] = {}
    for name, value in values(CONF):
        if not isinstance(value, dict) and name not in NOT_HERE:
            settings.setdefault(name, []).append(yaml.safe_dump(value, default_flow_style=True).split("\n")[0])
    return groups, settings


def mutated(word: str, rng: random.Random) -> str:
    """One or two characters less, more, or others."""
    letters = list(word)
    for _ in range(rng.choice((1, 1, 2))):
        place = rng.randrange(len(letters) + 1)
        letters[place : place + rng.randrange(2)] = rng.choice(["", "x", "=", ".", "-", "9", " ", "é", "/", ","])
    return "".join(letters)


def command_lines(seed: int) -> Iterator[list[str]]:
    rng, (groups, settings) = random.Random(seed), tree()
    for _ in range(EACH):
        words = []
        for _ in range(rng.choice((1, 1, 1, 2, 3))):
            if rng.random() < 0.2:
                group = rng.choice(sorted(groups))
                choice = rng.choice([name for name in groups[group] if name not in SLOW.get(group, ())])
                word = f"{group}={choice}"
            else:
                name = rng.choice(sorted(settings))
                word = f"{name}={rng.choice(ODD) if rng.random() < 0.6 else rng.choice(settings[name])}"
            if rng.random() < 0.15:
                word = mutated(word, rng)
            elif rng.random() < 0.1:
                word = rng.choice("+~") + word
            words.append(word)
        if rng.random() < 0.05:
            words.insert(0, rng.choice(["-m", "--cfg", "--nonsense", "-x", "--info", "--resolve", ""]))
        yield words


def too_long(*_) -> None:
    raise AssertionError(f"no answer in {SECONDS} s")


@pytest.mark.parametrize("seed", range(ROUNDS))
def test_success_or_one_sentence(seed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.txt").write_text(TEXT)
    bad: list[tuple[list[str], Done | str]] = []
    signal.signal(signal.SIGALRM, too_long)
    for words in command_lines(seed):
        signal.alarm(SECONDS)
        try:
            done = here(*SMALL, "data.path=own.txt", *words, *LAST)
        except BaseException as error:
            bad.append((words, repr(error)))
            continue
        finally:
            signal.alarm(0)
        complaints = [line for line in done.err.splitlines() if line.startswith("error")]
        swept = "-m" in words and len(complaints) > 1  # one for every job and one at the end
        refused = done.status == 2 and (len(complaints) == 1 or swept) and complaints[0].endswith((".", "?"))
        if "Traceback" in done.err + done.out or not (refused or (done.status == 0 and not complaints)):
            bad.append((words, done))
    assert not bad, "\n\n".join(map(str, bad))
