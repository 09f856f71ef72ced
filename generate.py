"""Generate text from a checkpoint: python generate.py --prompt 'ROMEO.' (the same as `yinggem generate`)."""

import sys

from yinggem.commands.generate import main
from yinggem.common.command_line import run

if __name__ == "__main__":
    sys.exit(run(main))
