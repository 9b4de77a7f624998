"""What class weights leave in probabilities, and what taking them out gives; see ``benchmarks/undo.py``."""
