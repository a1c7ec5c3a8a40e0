"""Training: one loop over steps, its settings, and what watches it."""
