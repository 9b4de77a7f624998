"""The log partition function of moved logits, and who computes it."""
