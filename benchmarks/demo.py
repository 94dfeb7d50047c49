"""Restores a degraded photograph with a shipped workflow on a running ComfyUI; see dev.py demo."""

from __future__ import annotations

import argparse
import asyncio
import importlib
import io
import json
import sys
import time
import types
import uuid
from pathlib import Path

import aiohttp
import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

PACK_ROOT = Path(__file__).resolve().parents[1]
WORKFLOW = PACK_ROOT / "workflows" / "api" / "resshift_x4_bundled.json"
INPUTS = PACK_ROOT / "workflows" / "inputs"
SAMPLE, ORIGINAL = "restoration_raccoon.png", "restoration_raccoon_original.jpg"
DOCUMENT = PACK_ROOT / "docs" / "demo.jpg"
DETAIL = (464, 104)  # left and top of what is shown enlarged, the face
ZOOM = 2
BAR = 44
GAP = 8
REDUCED = 0.6  # of the sheet, in the documents


class DemoError(Exception):
    """The run on the server failed; the message says how."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--server", required=True, help="a running ComfyUI with this pack")
    parser.add_argument("--output", type=Path, default=PACK_ROOT / "output")
    parser.add_argument("--write-docs", action="store_true", help="also docs/demo.jpg")
    arguments = parser.parse_args()
    try:
        run_demo(arguments.server, arguments.output)
        if arguments.write_docs:
            sheet = Image.open(arguments.output / "comparison.png")
            size = (round(REDUCED * sheet.width), round(REDUCED * sheet.height))
            sheet.resize(size, Image.Resampling.LANCZOS).save(DOCUMENT, quality=85, optimize=True)
    except (DemoError, aiohttp.ClientError) as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def run_demo(server: str, output: Path) -> None:
    """Restore the sample photograph, compare it with bicubic and the original, print figures."""
    low_quality, original = (
        Image.open(INPUTS / name).convert("RGB") for name in (SAMPLE, ORIGINAL)
    )
    prompt = json.loads(WORKFLOW.read_text(encoding="utf-8"))
    print(f"Restoring {size_of(low_quality)} with {WORKFLOW.name}", flush=True)
    restored, seconds = asyncio.run(restore(server, prompt, low_quality))
    if restored.size != original.size:
        raise DemoError(f"The restored picture is {size_of(restored)}, not {size_of(original)}.")
    bicubic = low_quality.resize(original.size, Image.Resampling.BICUBIC)
    output.mkdir(parents=True, exist_ok=True)
    low_quality.save(output / "input.png")
    restored.save(output / "restored.png")
    side_by_side(bicubic, restored, original).save(output / "comparison.png")
    print(f"Written: {output / 'restored.png'}, comparison.png, input.png")
    steps = count_steps(prompt)
    print(
        f"{size_of(low_quality)} -> {size_of(restored)}, {steps} step{'s' if steps > 1 else ''},"
        f" {seconds:.1f} s; bicubic {score(bicubic, original)};"
        f" restored {score(restored, original)}"
    )


async def restore(server: str, prompt: dict, image: Image.Image) -> tuple[Image.Image, float]:
    """Run the workflow on `image`; return its saved picture and the seconds it took."""
    client = uuid.uuid4().hex
    async with aiohttp.ClientSession(server) as session:
        prompt[node_of(prompt, "LoadImage")]["inputs"]["image"] = await upload(session, image)
        # Connected before the prompt is sent, so that no event is missed.
        async with session.ws_connect("/ws", params={"clientId": client}, max_msg_size=0) as events:
            prompt_id = await submit(session, prompt, client)
            seconds = await follow(events, prompt, prompt_id)
        return await fetch_result(session, prompt_id, node_of(prompt, "SaveImage")), seconds


async def upload(session: aiohttp.ClientSession, image: Image.Image) -> str:
    """Put `image` into the server's input folder and return its name there."""
    data = io.BytesIO()
    image.save(data, "PNG")
    form = aiohttp.FormData({"overwrite": "true"})
    form.add_field("image", data.getvalue(), filename="demo.png", content_type="image/png")
    async with session.post("/upload/image", data=form) as response:
        response.raise_for_status()
        return (await response.json())["name"]


async def submit(session: aiohttp.ClientSession, prompt: dict, client: str) -> str:
    """Queue the workflow and return its id."""
    async with session.post("/prompt", json={"prompt": prompt, "client_id": client}) as response:
        answer = await response.json()
    if "prompt_id" not in answer:
        raise DemoError(f"ComfyUI refused the workflow: {json.dumps(answer, indent=1)}")
    return answer["prompt_id"]


async def follow(events: aiohttp.ClientWebSocketResponse, prompt: dict, prompt_id: str) -> float:
    """Print the progress until the run ends; return its seconds."""
    start = time.monotonic()
    async for message in events:
        if message.type is not aiohttp.WSMsgType.TEXT:  # a preview picture
            continue
        event = json.loads(message.data)
        kind, data = event["type"], event.get("data", {})
        if data.get("prompt_id") != prompt_id:
            continue
        seconds = time.monotonic() - start
        if kind == "executing" and data["node"] is None:  # sent once the history is written
            show_progress("")
            return seconds
        if kind == "executing":
            show_progress(f"{title_of(prompt, data['node'])} ({seconds:.0f} s)")
        elif kind == "progress":
            title = title_of(prompt, data["node"])
            show_progress(f"{title}: {data['value']}/{data['max']} ({seconds:.0f} s)")
        elif kind == "execution_error":
            node = title_of(prompt, data["node_id"])
            raise DemoError(f"{node} failed: {data['exception_type']} {data['exception_message']}")
        elif kind == "execution_interrupted":
            raise DemoError("The run was interrupted.")
    raise DemoError("ComfyUI closed the connection before the run ended.")


async def fetch_result(session: aiohttp.ClientSession, prompt_id: str, node_id: str) -> Image.Image:
    """Return the picture that a node saved in a run; others show the picture before."""
    async with session.get(f"/history/{prompt_id}") as response:
        outputs = (await response.json())[prompt_id]["outputs"]
    (saved,) = outputs[node_id]["images"]
    async with session.get("/view", params=saved) as response:
        response.raise_for_status()
        return Image.open(io.BytesIO(await response.read())).convert("RGB")


def node_of(prompt: dict, class_type: str) -> str:
    """Return the id of the only node of that class."""
    found = [key for key, node in prompt.items() if node["class_type"] == class_type]
    if len(found) != 1:
        raise DemoError(f"{WORKFLOW.name} holds {len(found)} {class_type} nodes, not one.")
    return found[0]


def title_of(prompt: dict, node_id: str) -> str:
    """Return the name a person sees on that node."""
    node = prompt.get(node_id, {})
    return node.get("_meta", {}).get("title") or node.get("class_type", f"node {node_id}")


def count_steps(prompt: dict) -> int:
    """Return the sampling steps: what the workflow sets, else what the bundled model was made for."""
    chosen = [node["inputs"].get("steps", 0) for node in prompt.values()]
    bundled = PACK_ROOT / "model_loaders" / "bundled" / "resshift_x4_photo.safetensors"
    with bundled.open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    record = json.loads(header["__metadata__"]["resshift_config"])
    return max(chosen) or record.get("sampling_steps") or record["steps"]


def show_progress(line: str) -> None:
    """Overwrite the terminal's line, or print one where output is no terminal."""
    if sys.stdout.isatty():
        print("\r" + f"  {line}"[:78].ljust(78), end="\r", flush=True)
    elif line:
        print(f"  {line}", flush=True)


def side_by_side(*pictures: Image.Image) -> Image.Image:
    """Return the pictures in a row under their names, and a detail of each, enlarged, below."""
    width, height = pictures[0].size
    left, top = DETAIL
    detail = (left, top, left + width // ZOOM, top + height // ZOOM)
    sheet = Image.new("RGB", (3 * width + 2 * GAP, BAR + 2 * height + GAP), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(30)
    for index, picture in enumerate(pictures):
        x = index * (width + GAP)
        draw.text((x + 6, 2), ("bicubic", "restored", "original")[index], "black", font)
        sheet.paste(picture, (x, BAR))
        enlarged = picture.crop(detail).resize((width, height), Image.Resampling.NEAREST)
        sheet.paste(enlarged, (x, BAR + height + GAP))
    return sheet


def score(picture: Image.Image, original: Image.Image) -> str:
    """Return PSNR and SSIM against the original as text."""
    pack = types.ModuleType("pack")  # the pack under a fixed name, whatever its folder is called
    pack.__path__ = [str(PACK_ROOT)]
    sys.modules.setdefault("pack", pack)
    metrics = importlib.import_module("pack.images.metrics")
    a, b = (
        torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255
        for image in (picture, original)
    )
    return f"PSNR {float(metrics.psnr(a, b)):.2f} dB, SSIM {float(metrics.ssim(a, b)):.3f}"


def size_of(image: Image.Image) -> str:
    """Return width x height as text."""
    return f"{image.width}x{image.height}"


if __name__ == "__main__":
    sys.exit(main())
