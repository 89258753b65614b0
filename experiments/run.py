"""Train, sample and score a model; experiments/job.py says in which steps.

python experiments/run.py sde=vp sampler=pc
"""

import sys
from pathlib import Path

if __name__ == "__main__":  # run as a script, from any folder: find the packages next to this one
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scoresde.experiments import command_line
from scoresde.experiments.interruption import exit_code


def main() -> None:
    """Check the command line, then run; experiments/outcome.py lists the exit codes."""
    with exit_code():
        sys.argv[1:] = command_line.check(command_line.named(sys.argv[1:]))
        from scoresde.experiments.job import (
            run,  # torch and the toolkit, which take seconds to import
        )

        run()


if __name__ == "__main__":
    main()
