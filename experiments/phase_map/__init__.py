"""The order-to-chaos map: its table, and real networks measured or trained on it."""
