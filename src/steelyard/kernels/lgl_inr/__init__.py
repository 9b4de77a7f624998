"""LGL-INR by columns: a plan of the labels, code that computes on it, and who takes what."""
