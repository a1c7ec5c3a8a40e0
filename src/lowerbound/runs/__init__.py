"""The results of a training: run directories, saved models, and :class:`Run`."""
