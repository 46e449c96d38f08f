"""`python -m memoa_jax` is the command line `memoa`."""

import sys

from memoa_jax.cli import main

if __name__ == "__main__":
    sys.exit(main())
