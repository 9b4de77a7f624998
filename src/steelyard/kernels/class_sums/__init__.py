"""Sums by class of what rows of logits give: a plan of the folds, code that adds, and who takes what."""
