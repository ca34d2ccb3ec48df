"""The parts of make_references.py: one module per kind of fixture."""
