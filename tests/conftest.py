"""Settings for every test."""

from hypothesis import settings

# Timing says nothing on a busy machine.
settings.register_profile("steelyard", deadline=None)
settings.load_profile("steelyard")
