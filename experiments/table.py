"""Print a Markdown table of runs from their result.json files.

python experiments/table.py multirun/2026-01-31_12-00-00
"""

import json
import sys
from pathlib import Path

if __name__ == "__main__":  # run as a script, from any folder: find the packages next to this one
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def main(arguments: list[str]) -> int:
    """Print the table of all results under the folders given; the exit code."""
    if any(argument in ("-h", "--help") for argument in arguments):
        print(__doc__)
        return 0
    folders = [Path(folder).expanduser() for folder in arguments]
    files = [file for folder in folders for file in sorted(folder.rglob("result.json"))]
    if not files:
        places = " ".join(arguments) or "FOLDER missing"
        print(f"error: no result.json found ({places}); give run folders", file=sys.stderr)
        return 2
    results = []
    for file in files:
        try:
            results.append(json.loads(file.read_text()))
        except ValueError:
            print(f"error: {file} is not JSON; remove it or run again", file=sys.stderr)
            return 2
    from scoresde.evaluation.report import results_table  # torch comes with it, which takes seconds

    print(results_table(results), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
