"""The words after train.py against Hydra's own parser: what is quoted is read back, paths are taken as they are."""

import os

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st

from yinggem.common.errors import UserError
from yinggem.runs.overrides import flags_of, only_shows, quote_path, quote_text, quoted, tidy, unquoted, value_of

PRINTABLE = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=30)


def read(setting: str) -> object:
    """What Hydra takes the value of a setting to be."""
    return OverridesParser.create().parse_override(setting).value()


@given(PRINTABLE | st.text(st.sampled_from("\\'\"${}=, a"), max_size=12))
def test_what_is_quoted_is_read_back_by_hydra_and_by_us(text):
    assert read(f"prompt={quoted(text)}") == text
    assert unquoted(quoted(text)) == text


@pytest.mark.parametrize("plain", ["", "word", "a b", "it's", '"', "'", "'a"])
def test_what_is_not_in_quotes_stays(plain):
    assert unquoted(plain) == plain


@given(st.text(st.sampled_from("abc /.-_=,'\"()[]{}é日:\\1~"), min_size=1, max_size=20))
def test_a_path_is_taken_as_it_is_written(path):
    if path[0] in "'\"" or path.startswith("~"):  # typed in quotes; the home folder
        return
    assert read(quote_path(f"outputs={path}")) == path
    assert read(quote_path(f"data.path={path}")) == os.path.abspath(path)


@pytest.mark.parametrize("word", ["true", "No", "null_", "NaN", "1", "1e3", "off"])
def test_a_path_that_looks_like_a_value_is_a_path(word):
    assert read(quote_path(f"ckpt_path={word}")) == word


@pytest.mark.parametrize("setting", ["outputs=", "outputs=null", "outputs=''", "data.path=", "run_dir="])
def test_an_empty_path_is_refused(setting):
    with pytest.raises(UserError, match="needs a path"):
        quote_path(setting)


def test_what_is_no_path_or_is_quoted_or_interpolated_stays():
    for setting in ("model=tiny", "~callbacks", "data.path='a b'", "outputs=${oc.env:HOME}", "ckpt_path=null"):
        assert quote_path(setting) == setting
    assert quote_path("data.path=a.txt,b.txt", multirun=True) == "data.path=a.txt,b.txt"
    assert read(quote_path("data.path=s3://bucket/a=b")) == "s3://bucket/a=b"


@pytest.mark.parametrize("text", ["{prompt} = ", "Q: {prompt}, A:", "word", "^#+ (.*)$", ""])
def test_a_text_is_taken_as_it_is_written(text):
    assert read(quote_text(f"data.template={text}")) == text
    assert quote_text(f"data.template='{text}'") == f"data.template='{text}'"
    assert quote_text("data.separator=null") == "data.separator=null"


def test_flags_come_first_and_are_one_word_each():
    words = tidy(["model=tiny", "-m", "seed=0,1", "--config-dir", "my conf", "debug=null"])
    assert words == ["--multirun", "--config-dir=my conf", "model=tiny", "seed=0,1", "debug=[]"]
    assert flags_of(words) == words[:2]


def test_an_unknown_flag_is_one_sentence(capsys):
    with pytest.raises(SystemExit) as ended:
        tidy(["--modle=tiny"])
    told = capsys.readouterr().err
    assert ended.value.code == 2 and told.startswith("error: ") and told.count("\n") == 1 and "--modle" in told


@pytest.mark.parametrize("setting", ["sweep=search", "+sweep=search", "launcher=local", "hydra/launcher=x"])
def test_what_is_for_many_runs_needs_m(setting):
    with pytest.raises(UserError, match="-m"):
        tidy([setting])
    assert setting in tidy(["-m", setting]) and setting in tidy(["--cfg", "job", setting])


def test_the_last_value_of_a_setting_counts():
    words = ["seed=1", "seeds=3", "seed=2=x"]
    assert value_of("seed", words) == "2=x" and value_of("outputs", words) is None


@pytest.mark.parametrize(("words", "shows"), [(["--help"], True), (["--cfg", "job"], True), (["-c", "job"], True),
                                             (["-m", "seed=1,2"], False), (["model=tiny"], False)])  # fmt: skip
def test_what_only_shows_something(words, shows):
    assert only_shows(words) is shows


@pytest.mark.parametrize("flag", ["--config-dir=mine", "--config-name=other", "--config-path=/mine", "-m", "--run"])
def test_a_flag_on_where_configuration_comes_from_shows_nothing(flag):
    """Such a command trains, and so creates its folder."""
    assert not only_shows([flag, "seed=1"]) and only_shows([flag, "--cfg=job"])
