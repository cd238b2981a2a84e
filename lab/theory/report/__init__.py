"""What theory says of a configuration, as values and in sentences."""
