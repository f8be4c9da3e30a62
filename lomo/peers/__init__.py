"""Other ways to take the same step, one module each; lomo/methods/peers.py lists them."""
