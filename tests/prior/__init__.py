"""Tests of `smalti.prior`."""
