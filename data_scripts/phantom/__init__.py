"""Writes the phantom."""
