"""What `python -m yinggem.quantize` was; it goes on for one version and says what to type."""

from yinggem.__main__ import run_earlier

if __name__ == "__main__":
    run_earlier("quantize")
