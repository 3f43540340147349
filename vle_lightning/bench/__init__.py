"""Speed beside plain alternatives, measured in turn; ``make bench`` prints it."""
