"""`python -m dist_dynet`: the same as `dist-dynet`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
