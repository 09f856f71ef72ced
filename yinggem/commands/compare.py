"""Compare runs: yinggem compare FOLDER..."""

from pathlib import Path

from yinggem.common.command_line import Parser
from yinggem.common.files import check_file_replaceable
from yinggem.runs.comparison import LAST_COLUMNS, compare


def main(arguments: list[str] | None = None) -> None:
    """Compare the runs in the folders named.

    Raises:
        UserError: as `compare`; the folder to write into has another results.csv.
    """
    parser = Parser("yinggem compare", description="Compare runs.", allow_abbrev=False)
    parser.add_argument("folders", nargs="+", type=Path, metavar="FOLDER", help="run or sweep folders")
    parser.add_argument("--output", type=Path, metavar="FOLDER", help="for results.csv and comparison.png")
    options = parser.parse_args(arguments)
    target = options.output or (options.folders[0] if len(options.folders) == 1 else Path())
    check_file_replaceable(target / "results.csv", ",".join(LAST_COLUMNS).encode(), "yinggem compare")
    compare(options.folders, target)
    print(f"Written: {target / 'results.csv'}, {target / 'comparison.png'}")
