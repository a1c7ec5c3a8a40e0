"""Training: one loop over steps, its settings, and its observers."""
