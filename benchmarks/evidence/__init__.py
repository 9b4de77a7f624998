"""The parts of `audit_evidence.py`: data, models, trainings in a cache, what is said of them, and the table."""
