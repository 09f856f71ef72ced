"""Runs side by side."""

import csv
import json

import pytest

from yinggem.commands.compare import main
from yinggem.common.errors import UserError
from yinggem.runs.comparison import compare, curtailed, draw, find_runs


def make_run(folder, overrides, losses, result=None):
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "overrides.yaml").write_text(json.dumps(overrides))  # JSON is YAML
    rows = "".join(f"{step * 10},{loss}\n" for step, loss in enumerate(losses, 1))
    (folder / "metrics.csv").write_text("step,val/loss\n" + rows)
    if result:
        (folder / "result.json").write_text(json.dumps(result))


@pytest.fixture
def sweep(tmp_path):
    make_run(tmp_path / "0", ["model=tiny", "seed=1"], [3, 2.5], {"loss": 2.5, "perplexity": 12.2, "steps": 20})
    make_run(tmp_path / "1", ["model=small", "seed=1"], [3, 2.0], {"loss": 2.0, "perplexity": 7.4, "steps": 20})
    make_run(tmp_path / "2", ["model=base", "seed=1"], [2.9])
    make_run(tmp_path / "3", ["model=odd", "seed=1"], [], {"error": "model=odd does not exist."})
    return tmp_path


def test_the_table_is_sorted_by_loss_and_shows_what_differs(sweep, capsys):
    compare([sweep], sweep)
    with open(sweep / "results.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["model"] for row in rows] == ["small", "tiny", "base", "odd"]
    assert [row["state"] for row in rows] == ["finished", "finished", "unfinished", "failed"]
    assert "seed" not in rows[0] and float(rows[0]["val/loss"]) == 2.0
    assert (sweep / "comparison.png").read_bytes().startswith(b"\x89PNG")
    shown = capsys.readouterr().out
    assert shown.index("small") < shown.index("tiny") and "3 failed: model=odd does not exist." in shown


def test_runs_are_ranked_by_what_compares_across_tokenizers(tmp_path, capsys):
    """Finished, under way, and of an earlier version without bits per byte: the table, results.csv, the best mark."""
    make_run(tmp_path / "0", ["tokenizer=bpe"], [3], {"loss": 3.0, "perplexity": 20.1, "bits_per_byte": 2.0})
    make_run(tmp_path / "1", ["tokenizer=byte"], [1.5], {"loss": 1.5, "perplexity": 4.5, "bits_per_byte": 2.2})
    make_run(tmp_path / "2", ["tokenizer=char"], [])
    (tmp_path / "2" / "metrics.csv").write_text("step,val/loss,val/bits_per_byte\n10,1.4,2.3\n20,1.45,2.1\n")
    make_run(tmp_path / "3", ["tokenizer=gpt2"], [1.0])
    runs = compare([tmp_path], tmp_path)
    assert [run.folder.name for run in runs] == ["0", "2", "1", "3"]
    with open(tmp_path / "results.csv", newline="") as file:
        assert [row["bits_per_byte"] for row in csv.DictReader(file)] == ["2.0", "2.1", "2.2", ""]
    shown = capsys.readouterr().out
    assert shown.index("│ bpe") < shown.index("│ char") < shown.index("│ byte") < shown.index("│ gpt2")


def test_any_set_of_runs_can_be_compared(sweep, tmp_path, capsys):
    main([str(sweep / "0"), str(sweep / "2"), "--output", str(tmp_path)])
    assert "results.csv" in capsys.readouterr().out
    assert [run.folder.name for run in find_runs([sweep / "2", sweep / "0"])] == ["0", "2"]


def test_a_file_of_that_name_that_is_not_a_comparison_stays(sweep, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results.csv").write_text("number,text\n1,mine\n")
    with pytest.raises(UserError, match=r"results\.csv exists already"):
        main([str(sweep / "0"), str(sweep / "2")])
    assert "mine" in (tmp_path / "results.csv").read_text()
    (tmp_path / "results.csv").unlink()
    for _ in range(2):
        main([str(sweep / "0"), str(sweep / "2")])


def test_a_folder_that_is_missing_is_named(sweep):
    with pytest.raises(UserError, match="no-such is no folder"):
        main([str(sweep / "0"), str(sweep / "no-such")])


def test_no_runs_is_one_sentence(tmp_path):
    with pytest.raises(UserError, match="No run was found"):
        find_runs([tmp_path])


def test_junk_in_one_folder_spoils_no_comparison(sweep, capsys):
    (sweep / "0" / "metrics.csv").write_bytes(b"\xe4\xff,\n1,2\n")
    (sweep / "1" / "metrics.csv").write_text("step,val/loss\n10,3\n20,nan\n30," + 200_000 * "1" + "\n")
    (sweep / "1" / "result.json").write_text('{"loss": "low", "steps": null}')
    (sweep / "2" / ".hydra" / "overrides.yaml").write_text("")  # killed while it was written
    (sweep / "3" / "result.json").write_text("[1]")
    runs = compare([sweep], sweep)
    assert [(run.folder.name, run.state, run.steps) for run in runs] == [
        ("0", "finished", 20), ("2", "unfinished", 10), ("1", "unfinished", 0), ("3", "unfinished", 0),
    ]  # fmt: skip
    capsys.readouterr()


def test_settings_are_shown_as_they_were_typed(tmp_path, capsys):
    prompts = ["[default,ema]", "[/bold]:smile:", "$\\frac{$"]
    for number, prompt in enumerate(prompts):
        make_run(tmp_path / str(number), [f"prompt={prompt}"], [3 - number])
    compare([tmp_path], tmp_path)
    shown = capsys.readouterr().out
    assert all(prompt in shown for prompt in prompts)


def test_what_each_text_chose_is_not_shown_beside_the_text(tmp_path, capsys):
    for number, (text, rate) in enumerate((text, rate) for text in ("a.txt", "b.txt") for rate in ("0.1", "0.2")):
        chosen = [f"trainer.max_steps={len(text) + (text > 'b')}", f"data.path={text}", f"optimizer.lr={rate}"]
        make_run(tmp_path / str(number), chosen, [3 - number])
    compare([tmp_path], tmp_path)
    shown = capsys.readouterr().out
    assert "path" in shown and "lr" in shown and "max_steps" not in shown and "different texts" in shown
    assert "trainer.max_steps" in (tmp_path / "results.csv").read_text()
    compare([tmp_path / "0", tmp_path / "1"], tmp_path)
    assert "different texts" not in capsys.readouterr().out
    make_run(tmp_path / "4", ["data.path=a.txt", "optimizer.lr=0.1", "model.dropout=0.3"], [2])  # typed for one of them
    compare([tmp_path], tmp_path)
    assert "dropout" in capsys.readouterr().out


def test_jobs_of_several_sweeps_are_told_apart_by_their_folders(tmp_path, capsys):
    for place in ("one/0", "two/0"):
        make_run(tmp_path / place, [], [3])
    compare([tmp_path / "one", tmp_path / "two"], tmp_path / "made" / "for it")
    shown = capsys.readouterr().out
    assert "one/0" in shown and "two/0" in shown
    assert (tmp_path / "made" / "for it" / "comparison.png").exists()


def test_a_place_that_cannot_be_written_is_one_sentence_after_the_table(sweep, tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="Cannot write"):
        compare([sweep], tmp_path / "file" / "below")
    assert "small" in capsys.readouterr().out


def test_the_best_curve_is_labelled_within_the_picture(tmp_path, monkeypatch):
    """By what the run was given, with names as short as they can be; long ones used to begin left of the picture."""
    from matplotlib.figure import Figure

    prompt = 30 * "to be or not "
    make_run(tmp_path / "0", ["optimizer.lr=0.1", f"callbacks.samples.prompt={prompt}"], [3, 2])
    make_run(tmp_path / "1", ["model=small"], [3, 2.5])
    drawn: list[Figure] = []
    save = Figure.savefig

    def kept_and_saved(self, *args, **options):
        drawn.append(self)
        save(self, *args, **options)

    monkeypatch.setattr(Figure, "savefig", kept_and_saved)
    draw(find_runs([tmp_path]), tmp_path / "comparison.png")
    (legend,) = (axes.get_legend() for axes in drawn[0].axes)
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        f"best: {curtailed(f'lr=0.1 prompt={prompt}')}", "model=small",
    ]  # fmt: skip
    frame, picture = legend.get_window_extent(), drawn[0].bbox
    assert picture.x0 <= frame.x0 and frame.x1 <= picture.x1
