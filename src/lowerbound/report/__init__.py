"""Functions that draw arrays and records as pictures. They know nothing of models and training."""
