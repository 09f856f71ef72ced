"""How a command is typed, for the sentences that say what to type next."""

from pathlib import Path

CHECKOUT = Path(__file__).parents[2]


def typed(command: str) -> str:
    """`python train.py` in a checkout, which has that file; `yinggem train` where the package was installed."""
    script = f"{command}.py"
    return f"python {script}" if (CHECKOUT / script).is_file() else f"yinggem {command}"
