"""One update of all ranks: gradients, pass_changes, accumulation, own_gradients, sources,
reproducible, micro_steps, sync, passes.
"""
