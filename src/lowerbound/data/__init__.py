"""Arrays, image folders and named data sets, as examples that a model can take."""
