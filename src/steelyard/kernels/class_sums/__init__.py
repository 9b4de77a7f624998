"""Sums by class of what rows of logits give: in torch's operations, compiled, and the choice between the two."""
