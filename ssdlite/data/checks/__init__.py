"""Every mistake in a data set at once, where the readers stop at the first; and cleaned copies of annotations."""
