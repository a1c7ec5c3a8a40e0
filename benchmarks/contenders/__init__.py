"""What each library does with a task."""
