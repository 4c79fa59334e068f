"""Self-training from simple to complex images (METHODS §4)."""
