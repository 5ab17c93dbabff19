"""Sensors: series of rows in order of time."""
