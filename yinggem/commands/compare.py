"""Compare runs: yinggem compare FOLDER..."""

from pathlib import Path

from yinggem.common.command_line import Parser
from yinggem.runs.comparison import compare


def main(arguments: list[str] | None = None) -> None:
    """Compare the runs in the folders named."""
    parser = Parser("yinggem compare", description="Compare runs.", allow_abbrev=False)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="run or sweep folders")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="for results.csv and comparison.png")
    options = parser.parse_args(arguments)
    target = options.output or (options.folders[0] if len(options.folders) == 1 else Path())
    compare(options.folders, target)
    print(f"Written: {target / 'results.csv'}, {target / 'comparison.png'}")
