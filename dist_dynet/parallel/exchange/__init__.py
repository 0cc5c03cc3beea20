"""How sums over ranks are made: exchange is what an engine offers, engines chooses one.

On one host: plan, shm_comm, shared, backoff. Between hosts: layout, wire,
recursive_halving, by_host, windows, compression, rounds, overlap, row_messages, rows_compressed,
rows, host_transport, hybrid.
"""
