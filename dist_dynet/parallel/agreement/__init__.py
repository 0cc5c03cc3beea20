"""What ranks must agree on before they add up: structure, message, pass_weights, negotiation."""
