"""Settings for every test."""

from hypothesis import HealthCheck, settings

# Timing says nothing on a busy machine.
settings.register_profile("steelyard", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("steelyard")
