"""Reading weights into modules that are given, with a report of what landed where."""
