"""Containers: from a spec (frozen data) over a plan (flat steps) to processes that run it."""
