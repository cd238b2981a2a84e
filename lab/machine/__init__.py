"""This computer: free memory, devices, cores, locks, signals and terminals."""
