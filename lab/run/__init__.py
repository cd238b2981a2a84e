"""One configuration, trained into a folder or in memory."""
