"""Searches next to each other: the same question for tlbench and for what people use instead."""
