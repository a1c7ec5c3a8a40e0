"""Training: one loop over steps, with its settings and observers."""
