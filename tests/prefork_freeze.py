"""Imported last by the server of prefork.py: what it has imported is no matter of its processes' garbage collector."""

import gc

gc.collect()
gc.freeze()
