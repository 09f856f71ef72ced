"""Train a language model: python train.py model=base (the same as `yinggem train`)."""

import sys

from yinggem.commands.train import main

if __name__ == "__main__":
    sys.exit(main())
