"""From any exception to one sentence: ours as it is, the library's in plain words, near matches of misspelt names."""

import errno
import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from yinggem.common.config_files import setting_names
from yinggem.common.errors import UserError
from yinggem.common.explain import causes, explain, in_short


@pytest.fixture(scope="module")
def conf(tmp_path_factory):
    folder = tmp_path_factory.mktemp("conf")
    files = {
        "train.yaml": "seed: 0\noutputs: outputs\n",
        "model/tiny.yaml": "_target_: x\nhidden_size: 8\nnum_hidden_layers: 1\n",
        "model/base.yaml": "defaults: [tiny]\nhidden_size: 768\n",
        "optimizer/adamw.yaml": "_target_: x\nlr: 0.1\nbetas: [0.9, 0.95]\n",
        "experiment/smoke.yaml": "# @package _global_\ntrainer:\n  max_steps: 20\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder


def raised(*errors: BaseException) -> BaseException:
    """The first of them, caused by the second, and so on."""
    for error, cause in itertools.pairwise(errors):
        error.__cause__ = cause
    return errors[0]


def test_our_own_sentence_is_found_however_deep_it_lies(conf):
    error = raised(RuntimeError("outside"), ValueError("in between"), UserError("Not like this."))
    assert explain(error, conf) == "Not like this."
    try:
        try:
            raise UserError("Neither.")
        except UserError:
            raise KeyError("shown instead") from None
    except KeyError as hidden:
        assert explain(hidden, conf) == "Neither."


def test_causes_are_outermost_first_and_a_circle_ends():
    one, two = ValueError(1), ValueError(2)
    one.__cause__, two.__cause__ = two, one
    assert causes(one) == [one, two]


@pytest.mark.parametrize(("text", "words"), [
    ("Ambiguous value for argument 'optimizer.lr=0.1,0.2'", ["optimizer.lr", "add -m", "[0.1,0.2]"]),
    ("Sweep parameters 'seed' requires --multirun", ["seed", "-m"]),
    ("Environment variable 'HOME_OF_TEXTS' not found", ["HOME_OF_TEXTS", "${oc.env:HOME_OF_TEXTS,VALUE}"]),
    ("Could not find 'model/bsae'", ["model=bsae", "did you mean base", "base, tiny"]),
    ("Could not find 'model/qqq'", ["choose from base, tiny"]),
    ("In 'train': Could not find 'modle/base'", ["modle", "experiment, model, optimizer"]),
    ("Could not override 'optimizer.lrr'", ["optimizer.lrr", "did you mean optimizer.lr?"]),
    ("Could not override 'model.hiden_size'", ["did you mean model.hidden_size?"]),
    ("Could not override 'trainer.qqqqq'", ["--cfg job"]),
    ("Key 'sede' is not in struct", ["did you mean seed?"]),
])  # fmt: skip
def test_what_hydra_says_becomes_a_remedy(conf, text, words):
    sentence = explain(Exception(text), conf)
    assert all(word in sentence for word in words), sentence
    assert sentence.endswith((".", "?")) and "\n" not in sentence and "YINGGEM_TRACEBACK" not in sentence


@pytest.mark.parametrize(("error", "words"), [
    (MemoryError(), "data.batch_size"),
    (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes"), "data.batch_size"),
    (OSError(errno.ENOSPC, "No space left on device", "/disk/a"), "Cannot write /disk/a (No space left on device)"),
    (OSError(errno.EROFS, "Read-only file system"), "outputs=FOLDER"),
])  # fmt: skip
def test_what_the_machine_refuses_has_a_remedy(conf, error, words):
    assert words in explain(raised(RuntimeError("outside"), error), conf)


def test_an_unknown_argument_of_a_group_is_a_setting_there_is_not(conf):
    inner = TypeError("AdamW.__init__() got an unexpected keyword argument 'beta'")
    sentence = explain(raised(RuntimeError("Error in call\nfull_key: optimizer"), inner), conf)
    assert "'optimizer.beta'" in sentence and "optimizer.betas" in sentence


@given(st.text(max_size=2000))
def test_what_nobody_foresaw_is_one_line_with_its_class(text):
    sentence = in_short(ValueError(text))
    assert sentence.count("\n") == 0 and sentence.endswith("(ValueError; YINGGEM_TRACEBACK=1 shows where).")
    assert len(sentence) < 400


def test_the_settings_are_the_dotted_names_of_conf(conf):
    assert setting_names(conf) == sorted([
        "experiment", "model", "optimizer", "seed", "outputs", "model.hidden_size", "model.num_hidden_layers",
        "optimizer.lr", "optimizer.betas", "trainer", "trainer.max_steps",
    ])  # fmt: skip


def test_an_error_of_torch_itself_is_one_sentence(conf):
    with pytest.raises(RuntimeError) as caught:
        torch.zeros(2, 3) @ torch.zeros(2, 3)
    assert "\n" not in explain(caught.value, conf) and "RuntimeError" in explain(caught.value, conf)
