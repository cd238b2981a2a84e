"""Pictures of tables, drawn by matplotlib without its global state.

Each picture is a module: import the one you draw, since `activations` needs torch and all but `heat_map` matplotlib.
"""

__all__ = ["activations", "comparison", "gelu", "gradients", "heat_map", "phase", "style"]
