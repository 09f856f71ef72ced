"""YingGem: an experiment framework for small decoder-only language models."""

__version__ = "0.1.0"
