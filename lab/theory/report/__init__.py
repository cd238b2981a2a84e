"""The theory of a configuration as a report: numbers, reasons for missing ones, and advice in words."""
