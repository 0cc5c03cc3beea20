"""The table of exchanges: for each name that DIST_DYNET_EXCHANGE takes, layouts of ranks on hosts
in which it is tried.

A layout has a letter for each rank, the same for ranks of one host: "aab" are two hosts. A new
engine gets a row here; from it come the tests of test_exchanges.py, which compare its sums with
NumPy's (mpi/exchanges.py).
"""

LAYOUTS = {
    "auto": ("aa", "aaa", "ab", "aab", "abc", "aabb"),
    "mpi": ("aa", "aab"),
    "reference": ("aab",),
}
