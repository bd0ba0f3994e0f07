"""ComfyUI's samplers, run by fastdiff. A file in ComfyUI's folder custom_nodes with one line is all it takes:

    from fastdiff.integrations.comfyui import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

Importing it registers the samplers where ComfyUI is; elsewhere it does nothing.
"""

from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS, register

try:
    register()
except ModuleNotFoundError as e:
    if e.name is None or e.name.partition(".")[0] != "comfy":
        raise

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS", "register"]
