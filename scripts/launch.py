"""Start processes as torchrun does, but end with the workers' own error message instead of torchrun's traceback.

python scripts/launch.py --standalone --nproc-per-node 2 caption.py ...
"""

from __future__ import annotations

import logging
import sys

from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main


def launch(words: list[str]) -> int:
    """Run torchrun with the given command line; return the exit code of the first worker that failed, else 0."""
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    try:
        main(words)
    except ChildFailedError as error:
        _, failure = error.get_first_failure()
        if failure.exitcode < 0:
            print(f"error: a worker was ended by signal {-failure.exitcode}", file=sys.stderr)
            return 1
        return failure.exitcode or 1
    return 0


if __name__ == "__main__":
    sys.exit(launch(sys.argv[1:]))
