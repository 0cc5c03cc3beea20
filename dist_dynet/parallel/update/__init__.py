"""One update of all ranks: gradients, pass_changes, accumulation, sources,
reproducible, sync, passes; and metrics of it.
"""
