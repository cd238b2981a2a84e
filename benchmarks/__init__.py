"""Speed, measured against what a user would otherwise do and against the hardware's floor."""
