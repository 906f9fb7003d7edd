"""Fair comparisons: a matrix of runs that differ in one thing, and a report that is read from their records."""
