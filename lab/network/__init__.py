"""The lab's own networks: R replicas side by side."""
