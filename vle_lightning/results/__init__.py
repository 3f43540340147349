"""The results of all runs that exist, gathered into one page."""
