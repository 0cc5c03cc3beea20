"""What ranks must agree on before they add gradients up: structure, message, pass_weights, negotiation.
"""
