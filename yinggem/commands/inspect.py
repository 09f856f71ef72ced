"""Show what each head looks at while the model reads a prompt: yinggem inspect --prompt TEXT --html FILE"""

import json
import sys

from yinggem.commands.generate import read_text
from yinggem.common.command_line import Parser
from yinggem.common.errors import UserError
from yinggem.common.files import check_file_replaceable, write_atomically
from yinggem.inference.checkpoint import load_model
from yinggem.inference.completion import prompt_ids
from yinggem.inference.pages.attention_page import MOST_TOKENS, AttentionMaps, attention_maps, attention_page
from yinggem.inference.pages.self_contained import MARK
from yinggem.runs.layout import find_model


def inspection_parser() -> Parser:
    """The options of `yinggem inspect`."""
    parser = Parser("yinggem inspect", description="Show what each head looks at while the model reads a prompt.",
                    allow_abbrev=False)  # fmt: skip
    add = parser.add_argument
    add("--checkpoint", metavar="PLACE",
        help="a file, a run folder, or starter; default: the newest run's best, under outputs/")  # fmt: skip
    prompt = parser.add_mutually_exclusive_group(required=True)
    prompt.add_argument("--prompt", metavar="TEXT", help=f"up to {MOST_TOKENS} tokens")
    prompt.add_argument("--prompt-file", metavar="FILE", help="a UTF-8 file with the text")
    add("--html", metavar="FILE", help="write the attention maps as one page, to be opened in a browser")
    add("--json", action="store_true", help="print one JSON object")
    return parser


def main(arguments: list[str] | None = None) -> None:
    """Load, read, write the page, print how far back each head looks.

    Raises:
        UserError: as `load_model`, `attention_maps` and `write_atomically`; there is no prompt.
    """
    options = inspection_parser().parse_args(arguments)
    text = read_text(options.prompt_file) if options.prompt is None else options.prompt
    if not text:
        raise UserError("The prompt is empty; write a text whose tokens can look at each other.")
    if options.html:
        check_file_replaceable(options.html, MARK, "yinggem inspect")
    path, said = find_model(options.checkpoint)
    if said:
        print(f"note: {said}", file=sys.stderr)
    model, tokenizer = load_model(path)
    ids = prompt_ids(tokenizer, text)
    maps = attention_maps(model, ids)
    if options.html:
        write_atomically(options.html, attention_page(f"How {path.name} reads", maps, tokenizer, ids).encode())
        print(f"Written: {options.html}", file=sys.stderr)
    if options.json:
        distances = maps.distances.round(4).tolist()
        about = {"checkpoint": str(path), "tokens": len(ids), "window": maps.window, "mean_distance": distances}
        print(json.dumps(about))
    else:
        print("\n".join(table(maps, len(ids))))


def table(maps: AttentionMaps, length: int) -> list[str]:
    """The average distance of every head, a line for each layer."""
    title = f"How many tokens back each head looks on average ({length} tokens, a window of {maps.window}):"
    heads = "".join(f"{f'head {head + 1}':>9}" for head in range(maps.distances.shape[1]))
    layers = [
        f"layer {layer + 1:<4}" + "".join(f"{value:9.1f}" for value in row) for layer, row in enumerate(maps.distances)
    ]
    return [title, f"{'':10}{heads}", *layers]
