"""Pictures of tables, drawn by matplotlib without its global state; import the module of the picture you draw."""

__all__ = ["activations", "comparison", "gelu", "gradients", "heat_map", "phase", "style"]
