"""How each library does a task."""
