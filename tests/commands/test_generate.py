"""generate.py as a user meets it: a process, its output, its exit status."""

import io
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from running import sized

from yinggem.commands.generate import parse_generation
from yinggem.common.errors import UserError
from yinggem.inference.checkpoint import load_model, save_model
from yinggem.inference.completion import complete_text
from yinggem.inference.networks.torch_network import TorchNetwork
from yinggem.inference.sampling import Sampling
from yinggem.model.config import ModelConfig
from yinggem.model.transformer import Transformer
from yinggem.text.tokenizer import BPETokenizer, ByteTokenizer, CharTokenizer, Tokenizer

ROOT = Path(__file__).parents[2]
TEXT = "ROMEO:\nBut soft, what light through yonder window breaks?\n"


def make(path: Path, tokenizer: Tokenizer) -> Path:
    tokenizer.fit(lambda: [TEXT * 5])
    torch.manual_seed(0)
    config = ModelConfig(tokenizer.vocab_size, 32, 2, 4, None, 48, attention_window=16, initializer_range=0.1)
    save_model(path, Transformer(config), tokenizer)
    return path


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Models this small only wait for a second thread, for very long when the machine is shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("checkpoints")
    kinds = {"byte": ByteTokenizer(), "char": CharTokenizer(), "bpe": BPETokenizer(270)}
    return {name: make(folder / f"{name}.ckpt", tokenizer) for name, tokenizer in kinds.items()}


def command(*arguments: object) -> list[str]:
    return [sys.executable, str(ROOT / "generate.py"), *map(str, arguments)]


def run_process(*arguments: object, **options) -> subprocess.CompletedProcess:
    options = {"env": os.environ | {"OMP_NUM_THREADS": "1"}} | options
    return subprocess.run(command(*arguments), capture_output=True, timeout=600, **options)


def run_here(*arguments: object) -> tuple[int, str, str]:
    """The same main function in this process: status, output, complaint."""
    sys.path.insert(0, str(ROOT))
    import generate
    from yinggem.common.command_line import run

    before, sys.argv = sys.argv, ["generate.py", *map(str, arguments)]
    out, err = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            status = run(generate.main)
    except SystemExit as ended:
        status = int(ended.code or 0)
    finally:
        sys.argv = before
        sys.path.remove(str(ROOT))
    return status, out.getvalue(), err.getvalue()


def assert_one_sentence(status: int, err: str, match: str = "") -> None:
    assert status == 2, err
    assert err.startswith("error: ") and err.count("\n") == 1 and err.endswith(".\n") and match in err, err


def test_help_is_quick_and_light():
    """It loads neither torch nor numpy, which take most of the time that anything else takes to start."""
    done = run_process("--help")
    assert done.returncode == 0 and b"--no-repeat-ngram-size" in done.stdout
    code = "import runpy, sys; runpy.run_path('generate.py', run_name='__main__')"
    loaded = "import atexit, sys; atexit.register(lambda: print(*sys.modules)); sys.argv[1:] = ['--help']; " + code
    out = subprocess.run([sys.executable, "-c", loaded], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "--no-repeat-ngram-size" in out and not {"torch", "numpy"} & set(out.splitlines()[-1].split())


def test_the_text_is_the_prompt_and_its_continuation(checkpoints):
    model, tokenizer = load_model(checkpoints["bpe"])
    expected = "ROMEO" + complete_text(TorchNetwork(model), tokenizer, "ROMEO", 30, Sampling(), seed=4) + "\n"
    for _ in range(2):
        status, out, err = run_here(
            "--checkpoint", checkpoints["bpe"], "--prompt", "ROMEO", "--max-new-tokens", 30, "--seed", 4
        )  # fmt: skip
        assert (status, out, err) == (0, expected, "")


@pytest.mark.parametrize(("kind", "penalty"), [("char", 1.0), ("byte", 1.0), ("bpe", 1.2)])
def test_defaults_are_those_of_the_reference(checkpoints, kind, penalty):
    status, out, _ = run_here("--checkpoint", checkpoints[kind], "--json", "--max-new-tokens", 3)
    used = json.loads(out)["settings"]
    assert status == 0
    assert (used["temperature"], used["top_p"], used["repetition_penalty"]) == (0.9, 0.85, penalty)
    _, out, _ = run_here(
        "--checkpoint", checkpoints[kind], "--json", "--max-new-tokens", 3, "--repetition-penalty", 1.5
    )
    assert json.loads(out)["settings"]["repetition_penalty"] == 1.5


def test_every_option_reaches_its_setting(checkpoints):
    given_ = {"temperature": 0.5, "top_k": 7, "top_p": 0.6, "min_p": 0.01, "typical_p": 0.7, "repetition_penalty": 1.1,
              "repetition_window": 9, "no_repeat_ngram_size": 3, "max_new_tokens": 6}  # fmt: skip
    arguments = [part for name, value in given_.items() for part in ("--" + name.replace("_", "-"), value)]
    _, out, err = run_here("--checkpoint", checkpoints["byte"], "--json", "--stop", "x", "--stop", "yz", *arguments)
    assert not err
    used = json.loads(out)["settings"]
    assert used.pop("stop") == ["x", "yz"] and used.pop("checkpoint") == str(checkpoints["byte"])
    assert used == given_


def test_sample_k_is_the_text_of_seed_plus_k(checkpoints):
    common = ["--checkpoint", checkpoints["byte"], "--prompt", "a", "--max-new-tokens", 40]
    records = [
        json.loads(line) for line in run_here(*common, "--json", "--num-samples", 8, "--seed", 10)[1].splitlines()
    ]
    assert [record["seed"] for record in records] == list(range(10, 18))
    printed = run_here(*common, "--num-samples", 8, "--seed", 10)[1]
    for record in records:
        alone = run_here(*common, "--seed", record["seed"])[1]
        assert alone == "a" + record["text"] + "\n" and alone in printed
        assert len(record["tokens"]) == 40 and record["finish_reason"] == "length"
    assert printed.count("--- sample") == 8


def test_stop_strings_end_the_text_and_are_not_printed(checkpoints):
    common = ["--checkpoint", checkpoints["char"], "--prompt", "light", "--max-new-tokens", 60]
    free = run_here(*common)[1].removeprefix("light")
    stop = free[20:23]  # three letters: three tokens
    assert run_here(*common, "--stop", stop, "--stop", "never")[1] == "light" + free.partition(stop)[0] + "\n"
    record = json.loads(run_here(*common, "--stop", stop, "--json")[1])
    assert record["finish_reason"] == "stop" and len(record["tokens"]) < 60


@pytest.mark.parametrize(("typed", "meant"), [
    (r"\n", "\n"), (r"\n\n", "\n\n"), (r"a\tb", "a\tb"), (r"\\n", r"\n"), (r"\\\n", "\\\n"), ("\n", "\n"), ("\\", "\\"),
    (r"\d\x41", r"\d\x41"), ("plain", "plain"),
])  # fmt: skip
def test_escapes_in_stop_strings(typed, meant):
    assert parse_generation([f"--stop={typed}"]).stop == [meant]


def test_a_typed_line_end_stops_at_the_first_line(checkpoints):
    for seed in range(50):
        common = ["--checkpoint", checkpoints["char"], "--max-new-tokens", 60, "--seed", seed]
        free = run_here(*common)[1][:-1]
        if "\n" in free:
            assert run_here(*common, "--stop", r"\n")[1] == free.partition("\n")[0] + "\n"
            return
    raise AssertionError("no sample has a line end")


def test_a_prompt_file_is_read_as_text(checkpoints, tmp_path):
    common = ["--checkpoint", checkpoints["char"], "--max-new-tokens", 5]
    for end in (b"\r\n", b"\r"):
        (tmp_path / "prompt.txt").write_bytes(b"\xef\xbb\xbfROMEO:" + end + b"But")
        told = run_here(*common, "--prompt-file", tmp_path / "prompt.txt")
        assert told == run_here(*common, "--prompt", "ROMEO:\nBut")
    (tmp_path / "bad.txt").write_bytes(b"abc\xff")
    for name, match in (("bad.txt", "byte 3"), ("missing.txt", "missing.txt"), (".", "directory")):
        status, _, err = run_here(*common, "--prompt-file", tmp_path / name)
        assert_one_sentence(status, err, match)


@pytest.mark.slow
def test_text_appears_as_it_is_made(checkpoints):
    """The first piece comes long before the last of many tokens, and every piece is whole UTF-8."""
    with subprocess.Popen(
        command("--checkpoint", checkpoints["byte"], "--max-new-tokens", 10**6, "--prompt", "é"), stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        first = os.read(process.stdout.fileno(), 2)
        assert first == "é".encode() and process.poll() is None
        text = b"".join(os.read(process.stdout.fileno(), 65536) for _ in range(50))
        process.send_signal(signal.SIGINT)
        text += process.stdout.read()
        text.decode()
        assert process.wait(300) == 130


@pytest.mark.slow
def test_a_closed_pipe_and_interrupts_are_quiet(checkpoints):
    for stop in ("close", "interrupt"):
        with subprocess.Popen(
            command("--checkpoint", checkpoints["byte"], "--max-new-tokens", 10**6),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as process:  # fmt: skip
            assert process.stdout is not None and process.stderr is not None
            process.stdout.read(5)
            if stop == "close":
                process.stdout.close()
            else:
                process.send_signal(signal.SIGINT)
            assert process.stderr.read() == b""
            assert process.wait(300) == (0 if stop == "close" else 130)


@pytest.mark.slow
def test_streams_that_are_full_or_closed_are_no_traceback(checkpoints):
    start = shlex.join(command("--checkpoint", checkpoints["byte"], "--max-new-tokens", 5))
    for end, status, match in ((">/dev/full", 2, "No space left"), (">&-", 0, ""), ("--interactive <&-", 0, "")):
        done = subprocess.run(f"{start} {end}", shell=True, capture_output=True, text=True, timeout=600)
        assert done.returncode == status and "Traceback" not in done.stderr and match in done.stderr, done
        assert done.stderr.count("\n") == (1 if status else 0)


@pytest.mark.slow
def test_interactive_continues_each_line_and_leaves_kindly(checkpoints):
    typed = "light\n~unseen\n\nROMEO\n"
    done = run_process(
        "--checkpoint", checkpoints["char"], "--interactive", "--max-new-tokens", 8, input=typed.encode()
    )
    out = done.stdout.decode()
    assert (done.returncode, done.stderr) == (0, b"")
    assert out.count("> ") == 5 and out.count("error: ") == 1 and "never saw '~'" in out
    alone = run_here("--checkpoint", checkpoints["char"], "--max-new-tokens", 8, "--prompt", "light")[1]
    assert alone.removeprefix("light") in out
    with subprocess.Popen(
        command("--checkpoint", checkpoints["char"], "--interactive"),
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None and process.stderr is not None
        process.stdout.read(2)
        time.sleep(1)  # a signal in the instant before input() begins to read waits for the next key
        process.send_signal(signal.SIGINT)
        assert process.wait(300) == 0 and process.stderr.read() == b""


@pytest.mark.slow
@pytest.mark.parametrize("environment", [{"LANG": "C", "LC_ALL": "C"}, {"PYTHONIOENCODING": "ascii"}])
def test_any_locale_prints(checkpoints, environment):
    done = run_process(
        "--checkpoint", checkpoints["byte"], "--prompt", "é", "--max-new-tokens", 9, env=os.environ | environment
    )
    assert done.returncode == 0 and done.stdout.startswith("é".encode()) and not done.stderr


@pytest.mark.slow
def test_without_a_checkpoint_the_newest_run_is_used(checkpoints, tmp_path):
    folder = tmp_path / "outputs/2026-01-01/00-00-00/checkpoints"
    folder.mkdir(parents=True)
    nothing = run_process("--checkpoint", ".", cwd=folder)
    assert_one_sentence(nothing.returncode, nothing.stderr.decode(), "python train.py")
    (folder / "best.ckpt").write_bytes(checkpoints["byte"].read_bytes())
    done = run_process("--max-new-tokens", 5, "--json", cwd=tmp_path)
    assert json.loads(done.stdout)["settings"]["checkpoint"].endswith("00-00-00/checkpoints/best.ckpt")


BAD = [
    (["--temperature", "-0.1"], "temperature"), (["--temperature", "hot"], "--temperature"),
    (["--top-p", "0"], "top_p"), (["--top-p", "1.5"], "top_p"), (["--top-k", "-1"], "--top-k"),
    (["--min-p", "2"], "min_p"), (["--typical-p", "nan"], "typical_p"), (["--max-new-tokens", "0"], "--max-new-tokens"),
    (["--max-new-tokens", "1e3"], "--max-new-tokens"), (["--repetition-penalty", "0"], "repetition_penalty"),
    (["--repetition-window", "-1"], "--repetition-window"), (["--no-repeat-ngram-size", "-1"], "--no-repeat-ngram"),
    (["--num-samples", "0"], "--num-samples"), (["--seed", "-1"], "--seed"), (["--seed", "9" * 40], "--seed"),
    (["--stop", ""], "--stop"), (["--device", "abacus"], "abacus"), (["--device", "cuda:999"], "cuda:999"),
    (["--quantize", "int3"], "int8"), (["--max-copy", "8w"], "--max-copy"), (["--stats"], "memory=ngram"),
    (["--checkpoint", "none.ckpt"], "none.ckpt"), (["--prompt", "~"], "'~'"), (["--prompt", "a\udcff"], "not UTF-8"),
    (["--prompt", "a", "--prompt-file", "b"], "--prompt"), (["--interactive", "--json"], "--interactive"),
    (["--temprature", "1"], "--temprature"), (["stray"], "stray"), (["--stop"], "--stop"),
    (["--stop", "---"], "--stop=VALUE"), (["--prompt", "-ROMEO"], "--prompt=VALUE"),
    (["--checkpoint", ""], "Cannot read the checkpoint"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "match"), BAD, ids=[" ".join(a)[:40] for a, _ in BAD])
def test_bad_arguments_are_one_sentence(checkpoints, arguments, match):
    status, out, err = run_here("--checkpoint", checkpoints["char"], *arguments)
    assert_one_sentence(status, err, match)
    assert out == ""


@pytest.mark.slow
def test_invalid_bytes_on_the_command_line_are_one_sentence(checkpoints):
    arguments = [os.fsencode(part) for part in command("--checkpoint", checkpoints["byte"], "--prompt")]
    done = subprocess.run([*arguments, b"a\xff"], capture_output=True, timeout=600)
    assert_one_sentence(done.returncode, done.stderr.decode(), "not UTF-8")


GOOD = {
    "--prompt": "light", "--max-new-tokens": "2", "--temperature": "0", "--top-k": "5", "--top-p": "1", "--json": None,
    "--typical-p": "0.9", "--stop": "e", "--repetition-penalty": "1.3", "--repetition-window": "4", "--min-p": "0.1",
    "--num-samples": "3", "--no-repeat-ngram-size": "2", "--seed": "7", "--device": "cpu", "--quantize": "int8",
}  # fmt: skip
STRANGE = [
    "--max-copy",
    "--stats",
    "--mark-copies",
    "--prompt-file",
    "--checkpoint",
    "--help",
    "--prompts",
    "-x",
    "",
    "é",
]
VALUES = ["", "0", "1", "-1", "3", "0.5", "1.0", "1e-300", "nan", "inf", "-inf", "1e400", "9" * 30, "cpu", "None", "é",
          "\u202e", "a b", "\0", "{}", "--", "0x10", "1_0", "١", None]  # fmt: skip


@pytest.mark.slow
@given(
    st.sampled_from(["byte", "char", "bpe"]),
    st.lists(st.sampled_from(sorted(GOOD)), unique=True),
    st.lists(st.tuples(st.sampled_from([*GOOD, *STRANGE]), st.sampled_from(VALUES) | st.text(max_size=5)), max_size=2),
)
@settings(max_examples=sized(100, 500), deadline=None)
def test_any_command_line_succeeds_or_is_one_sentence(checkpoints, kind, good, mutations):
    pairs = [(option, GOOD[option]) for option in good] + mutations + [("--max-new-tokens", "2")]
    arguments = [part for pair in pairs for part in pair if part is not None]
    status, _, err = run_here("--checkpoint", checkpoints[kind], *arguments)
    assert status == 0 or (status == 2 and err.startswith("error: ") and err.count("\n") == 1), err
    if not mutations:
        assert status == 0, err


@pytest.mark.slow
@given(st.text(max_size=40) | st.text(st.characters(categories=["Cs", "Cc", "So"]), max_size=10))
@settings(max_examples=sized(60, 200), deadline=None)
def test_any_prompt_succeeds_or_is_one_sentence(checkpoints, prompt):
    status, out, err = run_here("--checkpoint", checkpoints["byte"], "--max-new-tokens", 2, f"--prompt={prompt}")
    try:
        prompt.encode()
    except UnicodeEncodeError:
        assert_one_sentence(status, err, "of the text is a")
    else:
        assert status == 0 and out.startswith(prompt)


@pytest.mark.slow
def test_a_damaged_checkpoint_is_one_sentence(checkpoints, tmp_path):
    data, rng = bytearray(checkpoints["byte"].read_bytes()), random.Random(0)
    for _ in range(20):
        data[rng.randrange(len(data))] ^= 0xFF
    (tmp_path / "a.ckpt").write_bytes(data)
    done = run_process("--checkpoint", tmp_path / "a.ckpt")
    assert_one_sentence(done.returncode, done.stderr.decode(), "damaged")


def test_a_prompt_file_without_an_end_is_refused():
    with pytest.raises(UserError, match="longer than"):
        parse_generation(["--prompt-file", "/dev/zero"])


def test_log_probabilities_are_those_of_the_model_before_any_filter(checkpoints):
    path = checkpoints["byte"]
    status, out, _ = run_here("--checkpoint", path, "--prompt", "But", "--max-new-tokens", 9, "--json", "--logprobs", 2)
    record = json.loads(out)
    model, _ = load_model(path)
    ids = [*b"But", *record["tokens"]]
    with torch.no_grad():
        logs = model(torch.tensor([ids]))[0].log_softmax(-1)
    expected = [float(logs[place - 1, ids[place]]) for place in range(3, len(ids))]
    assert status == 0 and record["logprobs"] == pytest.approx(expected, abs=1e-3) and record["tokens_per_second"] > 0
    for top, before in zip(record["top_logprobs"], logs[2:], strict=False):
        assert max(top.values()) == pytest.approx(float(before.max()), abs=1e-3)
    plain = run_here("--checkpoint", path, "--prompt", "But", "--max-new-tokens", 9)[1]
    told = run_here("--checkpoint", path, "--prompt", "But", "--max-new-tokens", 9, "--logprobs", 1)[1]
    assert told.startswith(plain) and told.count(" | ") == 9
