"""The results of training: run directories, saved models, and :class:`Run`."""
