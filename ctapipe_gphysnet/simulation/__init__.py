"""A fast simulation of air showers, their light, and the cameras that record it."""
