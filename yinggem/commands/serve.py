"""Serve a checkpoint over HTTP, in OpenAI's completions protocol and as a page.

It needs the extra `serve`: pip install 'yinggem[serve]'.
"""

import argparse
import os
import signal
import socket
import sys
from pathlib import Path

from yinggem.common.command_line import Parser, number, whole_number
from yinggem.common.errors import UserError
from yinggem.model.config import QUANTIZATIONS

KEY = "YINGGEM_API_KEY"


def serving_parser() -> Parser:
    """The options of `yinggem serve`."""
    parser = Parser("yinggem serve", description="Serve a checkpoint over HTTP.", allow_abbrev=False)
    add = parser.add_argument
    # fmt: off
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--checkpoint", metavar="PLACE",
                       help="a file, a run folder, or starter; default: the newest run's best, under outputs/")
    which.add_argument("--follow", metavar="RUN", help="a run folder: take each new best checkpoint as it is written")
    add("--host", default="127.0.0.1", metavar="NAME",
        help="where to listen; 0.0.0.0 is everywhere (default: %(default)s)")
    add("--port", type=whole_number(0, 65535), default=8000, metavar="N",
        help="0 is any that is free (default: %(default)s)")
    add("--name", default="yinggem", help="of the model, for clients (default: %(default)s)")
    add("--api-key", metavar="KEY", help=f"what clients have to send (default: ${KEY}, or nothing)")
    add("--cors", action="append", default=[], metavar="ORIGIN",
        help="let web pages of this origin ask, or * for all; repeatable")
    add("--allow-host", action="append", default=[], metavar="NAME", help="another name of this server; repeatable")
    add("--rows", type=whole_number(1, 64), default=16, metavar="N",
        help="texts that go on side by side (default: %(default)s)")
    add("--queue", type=whole_number(0), default=64, metavar="N",
        help="requests that may wait for them (default: %(default)s)")
    add("--max-prompt", type=whole_number(1), default=65536, metavar="N",
        help="tokens of a prompt (default: %(default)s)")
    add("--max-tokens", type=whole_number(1), default=16384, metavar="N",
        help="tokens of a text (default: %(default)s)")
    add("--timeout", type=number, default=600.0, metavar="S",
        help="seconds that a request may take (default: %(default)g)")
    add("--quantize", choices=QUANTIZATIONS, help="weights of 8 or 4 bits: less memory, and faster on x86 processors")
    add("--device", metavar="NAME", help="cpu, cuda ... (default: the fastest there is for its size)")
    # fmt: on
    return parser


def parse_serving(arguments: list[str] | None) -> argparse.Namespace:
    """Parse and check the options.

    Raises:
        SystemExit: status 2, or 0 after --help.
        UserError: a value is out of range, or the run that is followed is no folder.
    """
    options = serving_parser().parse_args(arguments)
    if not 0 < options.timeout <= 86400:
        raise UserError(f"--timeout must be above 0 and at most 86400, not {options.timeout:g}.")
    if options.follow is not None and not Path(options.follow).is_dir():
        raise UserError(f"--follow needs the folder of a run, and {options.follow} is none.")
    if "" in options.cors or "" in options.allow_host or not options.name:
        raise UserError("--cors, --allow-host and --name must not be empty; leave them out.")
    options.api_key = os.environ.get(KEY) if options.api_key is None else options.api_key
    if options.api_key == "":
        raise UserError(f"--api-key must not be empty; leave it and ${KEY} out to ask for none.")
    return options


def main(arguments: list[str] | None = None) -> None:
    """Listen, open the model, answer until Ctrl-C or SIGTERM; then finish what was begun."""
    options = parse_serving(arguments)
    try:
        import uvicorn

        from yinggem.serving.api import Service, make_app
    except ModuleNotFoundError as error:
        raise UserError(f"yinggem serve needs {error.name}; install it with pip install 'yinggem[serve]'.") from None
    from yinggem.serving.body import Limits
    from yinggem.serving.metrics import Metrics
    from yinggem.serving.served_model import ModelSource, Opening

    path, run = what_is_served(options)
    listening, metrics = listen(options.host, options.port), Metrics()
    what = path or f"waiting for a checkpoint in {run}"
    say(f"Serving {options.name} at {address(listening)} ({what}); Ctrl-C ends it.")
    server = uvicorn.Server(
        uvicorn.Config("", log_level="warning", access_log=False, lifespan="off", server_header=False)
    )

    def opened(source: ModelSource) -> None:
        if source.failure:
            server.should_exit = True
        elif source.current:
            say(f"Ready: {source.current.about}.")

    opening = Opening(options.device, options.quantize, options.rows, options.queue, metrics.count_tokens)
    source = ModelSource(path, opening, run, say, opened)
    limits = Limits(options.max_prompt, options.max_tokens, options.timeout)
    service = Service(source, metrics, limits, options.name)
    server.config.app = make_app(service, options.host, options.allow_host, options.api_key, options.cors)
    for number_ in (signal.SIGTERM, signal.SIGINT):  # what comes before uvicorn listens for it, and is passed on after
        signal.signal(number_, lambda *_: setattr(server, "should_exit", True))
    server.run(sockets=[listening])
    source.close()
    if source.failure:
        raise source.failure


def what_is_served(options: argparse.Namespace) -> tuple[Path | None, Path | None]:
    """The checkpoint, if there is one yet, and the run that is followed."""
    from yinggem.runs.layout import BEST, checkpoint, find_model

    if options.follow is not None:
        return checkpoint(Path(options.follow), BEST), Path(options.follow)
    path, said = find_model(options.checkpoint)
    if said:
        print(f"note: {said}", file=sys.stderr)
    return path, None


def say(line: str) -> None:
    """Print it at once."""
    print(line, flush=True)


def listen(host: str, port: int) -> socket.socket:
    """A socket that takes connections.

    Raises:
        UserError: the system refuses.
    """
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(place)
        listening.listen(2048)
        return listening
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"Cannot listen on {host}:{port} ({reason}); choose others with --host and --port.") from None


def address(listening: socket.socket) -> str:
    """What a browser is given."""
    host, port = listening.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
