"""Measures of how far a run can be trusted: kills, damaged and hostile input, repetition, memory, workers."""
