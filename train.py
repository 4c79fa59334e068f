"""Train a model: ``python train.py model=multistyle data=sample``; ``--help`` lists the groups and their options."""

import sys
from pathlib import Path

from tezawari.cli import train

if __name__ == "__main__":
    sys.exit(train(sys.argv[1:], Path(__file__).resolve().parent))
