"""Say which engine generates text here, and why: yinggem doctor"""

import platform

from yinggem import __version__
from yinggem.common.command_line import Parser
from yinggem.common.processors import quota_cores
from yinggem.engine.library import chosen_kernels, library_path, library_refusal


def main(arguments: list[str] | None = None) -> None:
    """Print what is there."""
    Parser("yinggem doctor", description=__doc__, allow_abbrev=False).parse_args(arguments)
    print(f"yinggem {__version__}, Python {platform.python_version()}, {platform.system()} on {platform.machine()}")
    print(f"cores      {quota_cores()} that this process may keep busy")
    why = library_refusal()
    if why:
        print(f"engine     torch decodes: {why}.")
        return
    print(f"engine     compiled C, with the kernels for {chosen_kernels()}: {library_path()}")
