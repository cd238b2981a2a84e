"""One configuration, trained into a folder or in memory, or predicted by theory; its modules are imported by name."""
