"""Where documents end in a text, and where completions begin: characters that no text has, and the ids of tokenizers.

Half a surrogate pair is no character: no file that is decoded, and no row that is read, holds one.
"""

END = "\ud800"  # behind every document
TURN = "\ud801"  # between a prompt and its completion
EITHER = f"[{END}{TURN}]"  # a regular expression
PLACE, MOST_TEMPLATE = "{prompt}", 1 << 12  # where a prompt stands in a template, and its characters at most


def is_template(value: object) -> bool:
    """Whether a value is the template of a prompt: a text with one place for it."""
    return isinstance(value, str) and value.count(PLACE) == 1 and len(value) <= MOST_TEMPLATE
