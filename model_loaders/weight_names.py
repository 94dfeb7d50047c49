"""Names of weights in files and in the networks, where the two differ."""

from __future__ import annotations

# Released files name the position biases of windows after the attention that holds them. In the
# network they are the weight of a layer, or ComfyUI would neither merge nor patch them.
TABLE_IN_FILES = "relative_position_bias_table"
TABLE_IN_NETWORK = f"{TABLE_IN_FILES}.weight"


def key_in_network(key: str) -> str:
    """Return the name in the network of a tensor that files call `key`."""
    return f"{key}.weight" if key.endswith(TABLE_IN_FILES) else key


def key_in_files(key: str) -> str:
    """Return the name in files of a tensor that the network calls `key`."""
    return key.removesuffix(".weight") if key.endswith(TABLE_IN_NETWORK) else key
