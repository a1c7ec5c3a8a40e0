"""Arrays and records to pictures. Knows neither models nor training, so that anything above may call it."""
