"""Tests of what the peers' bench decides itself; they need numpy and no library that is measured."""
