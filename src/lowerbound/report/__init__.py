"""From arrays and records to pictures, without any knowledge of models and training."""
