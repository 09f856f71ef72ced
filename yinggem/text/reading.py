"""How the files of a text are read: as one long text, or as documents that begin and end."""

import re
from dataclasses import asdict, dataclass, fields
from typing import Any

from yinggem.common.errors import UserError
from yinggem.text.files.charset import checked_encoding
from yinggem.text.marks import MOST_TEMPLATE, PLACE, is_template

DOCUMENTS = ("files", "blank", "pattern", "rows")
PAIRS = "pairs"


@dataclass(frozen=True)
class Reading:
    """The settings of `data=` that decide what the text is. With the defaults all files are one long text.

    Args:
        documents: what is a document. "files": each file. "blank": what stands between blank lines. "pattern": what
            stands between matches of `separator`. "rows": each row of .jsonl, .csv and .parquet files, and each other
            file. None: there are none.
        separator: a regular expression that is searched for within every line; what it matches is left out.
        field: the column of a row that holds its text.
        encoding: of every file but .parquet.
        format: "pairs": rows with a prompt and a completion are documents, and the completion is learnt.
        template: what stands before a completion, with {prompt} in it.

    Raises:
        UserError: a setting is not one of these, or does not go with another.
    """

    documents: str | None = None
    separator: str | None = None
    field: str = "text"
    encoding: str = "utf-8"
    format: str | None = None
    template: str = PLACE

    def __post_init__(self) -> None:
        if self.documents not in (None, *DOCUMENTS):
            raise UserError(f"data.documents must be {', '.join(DOCUMENTS)} or null, not {self.documents!r}.")
        if self.format not in (None, PAIRS):
            raise UserError(f"data.format must be {PAIRS} or null, not {self.format!r}; files are known by suffixes.")
        if self.format == PAIRS and self.documents not in (None, "rows"):
            raise UserError(f"data.format={PAIRS} makes every row a document; leave out data.documents.")
        if self.format == PAIRS and self.field != "text":
            raise UserError(f"data.format={PAIRS} reads the fields prompt and completion; leave out data.field.")
        if (self.documents == "pattern") != bool(self.separator):
            raise UserError("data.documents=pattern and data.separator=REGEX belong together; set both or neither.")
        if not isinstance(self.field, str) or not self.field:
            raise UserError(f"data.field must be the name of a column, not {self.field!r}.")
        if not is_template(self.template):
            raise UserError(
                f"data.template must hold {PLACE} once, in at most {MOST_TEMPLATE} characters, "
                f"not {str(self.template)[:80]!r}."
            )
        if self.separator:
            self._check_separator()
        object.__setattr__(self, "encoding", checked_encoding(self.encoding))

    def _check_separator(self) -> None:
        pattern = str(self.separator)
        try:
            re.compile(pattern)
        except (re.error, RecursionError) as error:
            raise UserError(f"data.separator={pattern!r} is not a regular expression ({error}).") from None
        if "\n" in pattern or "\\n" in pattern:
            raise UserError(f"data.separator={pattern!r} is searched for line by line; write it without a line end.")

    @property
    def has_documents(self) -> bool:
        """Whether the text is documents."""
        return self.documents is not None or self.has_pairs

    @property
    def has_pairs(self) -> bool:
        """Whether documents are prompts with completions."""
        return self.format == PAIRS

    @property
    def needs_rows(self) -> bool:
        """Whether at least one file has to have rows."""
        return self.documents == "rows" or self.has_pairs

    def to_dict(self) -> dict[str, Any]:
        """What is not as by default."""
        return {name: value for name, value in asdict(self).items() if value != getattr(DEFAULT, name)}

    @classmethod
    def from_dict(cls, values: Any) -> "Reading":
        """The inverse of `to_dict`; UserError for anything else."""
        known = {field.name for field in fields(cls)}
        if not isinstance(values, dict) or not all(isinstance(value, str) for value in values.values()):
            raise UserError("The record of how the text was read is damaged.")
        if not values.keys() <= known:
            raise UserError(f"The text was read with settings that this version does not know: {sorted(values)}.")
        return cls(**values)


DEFAULT = Reading()
