"""Run a benchmark: ``python evaluate.py benchmark=style``; ``--help`` lists the groups and their options."""

import sys
from pathlib import Path

from tezawari.cli import evaluate

if __name__ == "__main__":
    sys.exit(evaluate(sys.argv[1:], Path(__file__).resolve().parent))
