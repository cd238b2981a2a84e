"""Speed, compared with the alternatives of a user and with the lower bound of the hardware."""
