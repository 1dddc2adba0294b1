"""Run `python -m ham.datasets verify | template | crop | pack`."""

import sys

from ham.datasets.cli import main
from ham.runtime import exit_code_of

if __name__ == "__main__":
    sys.exit(exit_code_of(main))
