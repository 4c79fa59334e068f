"""Styles that a network has never seen: a style image or a style pack becomes a condition, in one pass."""
