"""Runs drawn programs on the ranks that there are: run_drawn.py PROGRAMS OUT.

PROGRAMS is a pickled list of (source, arguments of drawn.run()). OUT.<rank> gets a list
of what drawn.run() gives. OUT.at names, as they begin, the programs: the last one has ended the
job.
"""

import gc
import pickle
import sys
from pathlib import Path

import drawn

from dist_dynet import parallel


def main():
    """See the module."""
    programs, out = pickle.loads(Path(sys.argv[1]).read_bytes()), sys.argv[2]
    results = []
    for number, (source, options) in enumerate(programs):
        if parallel.rank() == 0:
            Path(f"{out}.at").write_text(str(number))
        results.append(drawn.run(source, **options))
        gc.collect()
        Path(f"{out}.{parallel.rank()}").write_bytes(pickle.dumps(results))
        parallel.barrier()


if __name__ == "__main__":
    main()
