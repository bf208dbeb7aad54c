"""Importers: models of other frameworks as graphs."""
