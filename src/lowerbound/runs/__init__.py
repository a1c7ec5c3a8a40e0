"""What a training leaves on disk and in hand: run directories, saved models, and :class:`Run`."""
