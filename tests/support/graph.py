"""Prompts built node by node, whose values come from a test and go back to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import nodes as comfy_nodes

if TYPE_CHECKING:
    from pack.tests.support.running import InProcessComfy

Link = list
GIVEN: dict[str, Any] = {}
KEPT: dict[str, Any] = {}


class _Give:
    """Emits a value of a test."""

    RETURN_TYPES = ("*",)
    FUNCTION = "give"
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802 - ComfyUI's name
        return {"required": {"name": ("STRING", {})}}

    def give(self, name: str) -> tuple[Any]:
        return (GIVEN[name],)


class _Keep:
    """Hands a value to a test."""

    RETURN_TYPES = ()
    FUNCTION = "keep"
    OUTPUT_NODE = True
    CATEGORY = "test"

    @classmethod
    def INPUT_TYPES(cls) -> dict[str, Any]:  # noqa: N802
        return {"required": {"name": ("STRING", {}), "value": ("*", {})}}

    @classmethod
    def VALIDATE_INPUTS(cls, input_types: dict) -> bool:  # noqa: N802
        return True

    def keep(self, name: str, value: Any) -> dict:
        KEPT[name] = value
        return {}


class Graph:
    """A prompt of a real ComfyUI.

    Args:
        comfy: The ComfyUI that will run it.
    """

    def __init__(self, comfy: InProcessComfy):
        self.comfy = comfy
        self.prompt: dict[str, Any] = {}
        comfy_nodes.NODE_CLASS_MAPPINGS["TestKeep"] = _Keep
        GIVEN.clear()
        KEPT.clear()

    def __call__(self, node_id: str, **inputs: Any) -> Link:
        """Add a node and return its first output; `output` gives the others."""
        key = str(len(self.prompt) + 1)
        self.prompt[key] = {"class_type": node_id, "inputs": inputs}
        return [key, 0]

    def give(self, kind: str, value: Any) -> Link:
        """Return a value of the test as an output of type `kind`."""
        name = f"{kind} {len(self.prompt)}"
        GIVEN[name] = value
        node_id = f"TestGive{kind}"
        comfy_nodes.NODE_CLASS_MAPPINGS[node_id] = type(
            node_id, (_Give,), {"RETURN_TYPES": (kind,)}
        )
        return self(node_id, name=name)

    def run(self, **kept: Link) -> Any:
        """Run it and return what came through the outputs that are named.

        Raises:
            AssertionError: If a node failed; the message is what a user sees.
        """
        for name, link in kept.items():
            self("TestKeep", name=name, value=link)
        run = self.comfy.run(self.prompt)
        assert run.success, run.error
        results = [KEPT[name] for name in kept]
        return results[0] if len(results) == 1 else results


def output(link: Link, place: int) -> Link:
    """Return another output of the node of a link."""
    return [link[0], place]


def defaults(node_id: str) -> dict[str, Any]:
    """Return a node's widgets as a fresh one has them."""
    values = {}
    for name, (kind, *options) in (
        comfy_nodes.NODE_CLASS_MAPPINGS[node_id].INPUT_TYPES()["required"].items()
    ):
        details = options[0] if options else {}
        if isinstance(kind, list):
            values[name] = details.get("default", kind[0])
        elif "default" in details:
            values[name] = details["default"]
        elif details.get("options"):
            values[name] = details["options"][0]
    return values


def bundled(graph: Graph, dtype: str = "fp32") -> tuple[Link, Link]:
    """Return the bundled MODEL and VAE."""
    model = graph("ResShiftLoader", model_name="bundled: photo x4", preset="auto", dtype=dtype)
    return model, graph("ResShiftVAELoader", vae_name="bundled: pixel latent x4")


def resshift_conditioning(graph: Graph, model: Link, vae: Link, image: Any) -> Link:
    """Return positive conditioning; outputs 1 and 2 are the negative one and the latent."""
    return graph("ResShiftConditioning", model=model, vae=vae, image=graph.give("IMAGE", image))


def ksampler(graph: Graph, model: Link, conditioning: Link, **changes: Any) -> Link:
    """Return the latent of KSampler."""
    inputs = {
        **{"model": model, "positive": output(conditioning, 0)},
        **{"negative": output(conditioning, 1), "latent_image": output(conditioning, 2)},
        **{"seed": 0, "steps": 2, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple"},
        "denoise": 1.0,
    }
    return graph("KSampler", **{**inputs, **changes})


def chain(graph: Graph, model: Link, conditioning: Link, **changes: Any) -> Link:
    """Return the latent of Residual Shift Sampler."""
    inputs = {
        **{"model": model, "positive": output(conditioning, 0)},
        **{"latent_image": output(conditioning, 2), "seed": 0, "steps": 0, "randomness": 1.0},
        "batch_noise": "different per image",
    }
    return graph("ResidualShiftSampler", **{**inputs, **changes})


def train_lora(graph: Graph, model: Link, pairs: Link, **settings: Any) -> Link:
    """Return the LoRA of a short training in float32; outputs 1 and 2 are losses and steps."""
    inputs = {"training_dtype": "fp32", "lora_dtype": "fp32", "gradient_checkpointing": False}
    return graph(
        "TrainLoraNode",
        **{**defaults("TrainLoraNode"), **inputs, **settings},
        model=model,
        latents=pairs,
        positive=output(pairs, 1),
    )
