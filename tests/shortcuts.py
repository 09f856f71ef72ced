"""Imported when all else is: spares the tests, and the processes of prefork.py, work that decides nothing."""

import gc

from hydra._internal.hydra import Hydra

# Hydra composes every configuration twice, the first time only to read hydra.mode, null here (test_configs.py):
# a third of a second for each of many hundred runs. Where tests start a new interpreter, it does so all the same.
Hydra.get_mode = lambda *_, **__: None  # type: ignore[method-assign]
# What is imported by now stays: the garbage collector, which training calls often, need not walk through it.
gc.collect()
gc.freeze()
