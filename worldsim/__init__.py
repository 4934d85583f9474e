"""Worlds: SUMO as the oracle of traffic, vehicle dynamics, scenarios, and the renderers that turn it into pictures."""
