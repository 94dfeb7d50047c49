"""ResShift and DiffBIR photo restoration, native in ComfyUI."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .nodes import NODES

WEB_DIRECTORY = "./web"


class RestorationExtension(ComfyExtension):
    """Lists this pack's nodes for ComfyUI."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """Return the node classes."""
        return NODES


async def comfy_entrypoint() -> ComfyExtension:
    """Return the extension; ComfyUI calls this when it loads the pack."""
    return RestorationExtension()
