"""Which settings suit a text, chosen by a glance at it.

The rows are from docs/own_text.md, measured by benchmarks/own_text.py: whoever changes a recipe measures anew. What a
person types wins over every word of a row; with model=, experiment= or init_from= nothing is chosen.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from yinggem.common.errors import UserError
from yinggem.runs.overrides import unquoted, value_of
from yinggem.text.bpe import MIN_VOCABULARY
from yinggem.text.reading import Reading
from yinggem.text.text_look import TextLook, look_at

DECIDES = ("model", "experiment", "init_from", "ckpt_path")  # typed, they say what the rows would choose
PATIENCE = 10  # validations, all there are: a loss that has risen falls again with the rate, and the best is kept
QUICKSTART = 2048  # the vocabulary of model=tiny, with which larger texts are trained
LEAST_VOCABULARY = 264  # of a BPE, the 256 bytes among them: fewer words are not worth one


@dataclass(frozen=True)
class Row:
    """Settings for texts of up to so many bytes.

    Args:
        bytes: the largest text.
        tokenizer: byte, or the vocabulary of a BPE.
        dropout: model.dropout.
        shape: tokens of a window, windows of a step.
        steps: at most, and from one validation to the next.
        optimizer: its words.
    """

    bytes: float
    tokenizer: str | int
    dropout: float
    shape: tuple[int, int]
    steps: tuple[int, int]
    optimizer: tuple[str, ...]

    def words(self, vocabulary: int) -> list[str]:
        """As they are typed, for a text that surely has so many tokens for a vocabulary."""
        tokenizer = tokenizer_words(self.tokenizer, vocabulary)
        return [*tokenizer, *shared(self.dropout, self.shape, self.steps), *self.optimizer]


def tokenizer_words(wanted: str | int, vocabulary: int) -> list[str]:
    """The words of a tokenizer, byte or a BPE of so many ids, for a text that surely has tokens for `vocabulary`."""
    if not isinstance(wanted, int) or vocabulary < LEAST_VOCABULARY:
        return ["tokenizer=byte"]
    few = ["tokenizer.at_most=true"] if vocabulary < wanted else []
    return ["tokenizer=bpe", f"tokenizer.vocab_size={wanted}", *few]


def shared(dropout: float, shape: tuple[int, int], steps: tuple[int, int]) -> list[str]:
    """The words of a row that do not name a tokenizer."""
    return [
        f"model.dropout={dropout}",
        f"data.context_length={shape[0]}",
        f"data.batch_size={shape[1]}",
        "data.eval_context_length=1024",  # counting reads a text as it goes on
        "data.eval_batch_size=16",
        f"trainer.max_steps={steps[0]}",
        f"trainer.val_check_interval={steps[1]}",
        f"callbacks.early_stopping.patience={PATIENCE}",
    ]


MUON, MUON_DECAY = ("optimizer=muon",), ("optimizer=muon_decay",)
MUON_LESS_DECAY = (*MUON_DECAY, "optimizer.weight_decay=0.3")  # of longer runs on more text: 1.0 would hold them back
# From random weights. By characters of one byte a vocabulary pays only once there is text to learn it from; a
# character of Chinese is three bytes, and its commonest ones are worth an id each much sooner.
PLAIN = (
    Row(10e3, "byte", 0.2, (256, 4), (150, 15), MUON_DECAY),
    Row(60e3, "byte", 0.2, (256, 4), (600, 60), MUON_DECAY),
    Row(250e3, 512, 0.1, (128, 8), (1000, 100), MUON_DECAY),
    Row(500e3, 512, 0.1, (128, 8), (1600, 160), MUON_LESS_DECAY),
    Row(1.5e6, 2048, 0.1, (128, 8), (2000, 200), MUON),
)
WIDE = (
    Row(10e3, "byte", 0.2, (256, 4), (150, 15), MUON_DECAY),
    Row(60e3, 512, 0.2, (256, 4), (600, 60), MUON_DECAY),
    Row(250e3, 1024, 0.1, (128, 8), (1000, 100), MUON_DECAY),
    Row(500e3, 2048, 0.1, (128, 8), (1000, 100), MUON),
    Row(1.5e6, 2048, 0.1, (128, 8), (2000, 200), MUON),
)
# Of pairs in few words, as sums in words are: every pair is a sequence of its own, and counting knows no new answer.
PAIRS = Row(1.5e6, 512, 0.0, (64, 16), (800, 80), ("optimizer=muon_short", "optimizer.weight_decay=0.2"))
FOR_PAIRS = ["data.mask_documents=true", "memory=none"]
MEMORY = "memory=ngram"
FEW_WORDS = 500  # bytes of text to each different word, at least
# From the starter, for English: bytes, steps and those from one validation to the next, optimizer. The strong decay of
# experiment=finetune keeps a small text from being learnt by heart; a larger one is learnt better with less of it.
FINETUNED: tuple[tuple[float, tuple[int, int], tuple[str, ...]], ...] = (
    (10e3, (20, 2), ()),
    (60e3, (60, 6), ()),
    (150e3, (200, 20), ()),
    (500e3, (400, 40), ("optimizer.weight_decay=0.2",)),
    (1.5e6, (1000, 100), ("optimizer.weight_decay=0",)),
    (math.inf, (1600, 160), ("optimizer.weight_decay=0",)),
)
FINETUNED_DROPOUT = 0.1


@dataclass(frozen=True)
class Choice:
    """Settings that were chosen for a text: words as they are typed, and a line that says why."""

    words: tuple[str, ...] = ()
    line: str = ""


def choose(typed: Sequence[str]) -> Choice:
    """What a glance at the text adds to the words of a command; nothing where they say what to train.

    A text that cannot be read is left to the run, which says so.
    """
    path = value_of("data.path", list(typed))
    if value_of("data", list(typed)) != "text" or not path or path == "null" or decides(typed):
        return Choice()
    try:
        return choice_for(look_at(unquoted(path), reading_of(typed)), typed)
    except UserError:
        return Choice()


def reading_of(typed: Sequence[str]) -> Reading:
    """How the typed words say the text is read, as far as a glance at it needs to know."""
    found = {name: value_of(f"data.{name}", list(typed)) for name in ("field", "encoding", "format")}
    return Reading(**{name: unquoted(value) for name, value in found.items() if value and value != "null"})


def decides(typed: Sequence[str]) -> bool:
    """Whether words say what to train, so that nothing is left to choose."""
    return any(value_of(name, list(typed)) not in (None, "null", "[]") for name in DECIDES)


def choice_for(look: TextLook, typed: Sequence[str]) -> Choice:
    """The row for a text, without what is typed."""
    words = [word for word in row_words(look, typed) if not is_typed(word, typed)]
    what = f"{look.size} of {look.language}, {look.characters} different characters"
    if not words:
        return Choice((), "")
    how = "begins with the starter" if "experiment=finetune" in words else "begins with random weights"
    return Choice(
        tuple(words),
        f"Recipe     {what}: it {how}, with {' '.join(words)} (docs/own_text.md; type any of these to change it, "
        "or model=tiny to leave all out)",
    )


def row_words(look: TextLook, typed: Sequence[str]) -> list[str]:
    """All words of the row.

    Of a text as large as that of the quickstart, whose recipe suits it: the memory, and of few words a tokenizer.
    """
    if reading_of(typed).has_pairs and (look.vocabulary - MIN_VOCABULARY) * FEW_WORDS < look.bytes <= PAIRS.bytes:
        return [*PAIRS.words(look.vocabulary), *FOR_PAIRS]
    if look.is_english and not builds_anew(typed):
        steps, optimizer = next((steps, optimizer) for most, steps, optimizer in FINETUNED if look.bytes <= most)
        return ["experiment=finetune", *shared(FINETUNED_DROPOUT, (128, 8), steps), *optimizer, MEMORY]
    rows = WIDE if look.bytes_per_character > 1.5 else PLAIN
    few = tokenizer_words(QUICKSTART, look.vocabulary) if look.vocabulary < QUICKSTART else []
    return [*next((row.words(look.vocabulary) for row in rows if look.bytes <= row.bytes), few), MEMORY]


def builds_anew(typed: Sequence[str]) -> bool:
    """Whether a typed word asks for another tokenizer or network than the starter's."""
    names = {word.lstrip("+~").partition("=")[0] for word in typed}
    return any(name.startswith(("tokenizer", "model.")) and "dropout" not in name for name in names)


def is_typed(word: str, typed: Sequence[str]) -> bool:
    """Whether a word of a row is typed already, or belongs to a group of which another choice is typed."""
    names = {one.lstrip("+~").partition("=")[0] for one in typed} - {"data"}  # data=text asks for the row
    name = word.partition("=")[0]
    return any(name == one or name.startswith(f"{one}.") for one in names)
