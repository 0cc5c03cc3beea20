"""One update of all ranks: gradients, pass_changes, accumulation, own_gradients, reproducible,
sync; and metrics of it.
"""
