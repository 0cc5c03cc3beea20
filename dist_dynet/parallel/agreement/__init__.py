"""What ranks must agree on before they add gradients up: structure, message, meters, pass_weights,
negotiation.
"""
