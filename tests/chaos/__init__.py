"""Whole runs of the smoke suite under interruptions, compared with an undisturbed one; minutes each, run by hand."""
