"""The log partition function of logits that were scaled and shifted, and the code that computes it."""
