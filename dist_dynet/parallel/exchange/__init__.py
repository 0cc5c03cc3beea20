"""How sums over ranks are made: exchange is what an engine offers, engines chooses one.

On one host: plan, shm_comm, shared. Between several: buckets, compression, hosts. The tests
compare them with reference.
"""
