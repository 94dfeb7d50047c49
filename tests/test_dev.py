"""What dev.py decides without the network: where ComfyUI is, what it says, what it skips."""

from __future__ import annotations

import errno
import io
import os
import re
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from pack import dev


def make_comfyui(root: Path, version: str = "0.30.0") -> Path:
    for name, text in {
        "main.py": "",
        "comfy/model_base.py": "",
        "comfyui_version.py": f'__version__ = "{version}"\n',
        "requirements.txt": "einops\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root.resolve()


def make_archive(path: Path, files: dict[str, str]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
    return path


@pytest.fixture
def no_processes(monkeypatch):
    """Makes every set-up step end the test."""

    def refuse(title, *_):
        raise AssertionError(f"{title} was started")

    monkeypatch.setattr(dev, "run_logged", refuse)


def test_comfyui_path_wins_over_the_folder_around_the_clone(tmp_path):
    around = make_comfyui(tmp_path / "around")
    chosen = make_comfyui(tmp_path / "chosen")
    pack = around / "custom_nodes" / "some-pack"
    assert dev.find_comfyui({"COMFYUI_PATH": str(chosen)}, pack) == chosen
    assert dev.find_comfyui({"COMFYUI_PATH": ""}, pack) == around
    assert dev.find_comfyui({}, pack) == around


def test_a_clone_elsewhere_finds_no_comfyui_and_takes_the_pinned_one(tmp_path):
    (tmp_path / "custom_nodes" / "pack").mkdir(parents=True)
    assert dev.find_comfyui({}, tmp_path / "custom_nodes" / "pack") is None


def test_a_wrong_comfyui_path_is_named(tmp_path):
    with pytest.raises(dev.DevError, match=r"COMFYUI_PATH is .* main\.py"):
        dev.find_comfyui({"COMFYUI_PATH": str(tmp_path)}, tmp_path)


def test_a_download_with_another_sha256_is_refused_with_both_sums(tmp_path):
    archive = tmp_path / "comfy.tar.gz"
    archive.write_bytes(b"something else")
    with pytest.raises(dev.DevError) as error:
        dev.check_sha256(archive, dev.NEWEST.sha256)
    assert dev.NEWEST.sha256 in str(error.value)
    assert "COMFYUI_PATH" in str(error.value)


def test_unpacking_writes_comfyui_alone(tmp_path):
    files = {"x-1/vendor/ComfyUI/comfy/a.py": "a", "x-1/vendor/other.py": "b", "x-1/c.py": "c"}
    archive = make_archive(tmp_path / "x.tar.gz", files)
    dev.unpack_comfyui(archive, tmp_path / "out")
    written = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert written == [tmp_path / "out" / "comfy" / "a.py"]


def test_unpacking_refuses_a_path_that_leads_out(tmp_path):
    archive = make_archive(tmp_path / "x.tar.gz", {"x-1/vendor/ComfyUI/../../../evil.py": "a"})
    with pytest.raises(dev.DevError, match="leads out"):
        dev.unpack_comfyui(archive, tmp_path / "a" / "b" / "out")
    assert not list(tmp_path.rglob("evil.py"))


@pytest.mark.usefixtures("no_processes")
def test_an_unpacked_comfyui_is_not_downloaded_again(tmp_path, monkeypatch):
    monkeypatch.setattr(dev, "ROOT", tmp_path)
    there = make_comfyui(tmp_path / ".comfyui" / dev.LOWEST.comfyui)
    assert dev.fetch_comfyui(dev.LOWEST).resolve() == there
    with pytest.raises(AssertionError, match=re.escape(f"ComfyUI {dev.NEWEST.comfyui}")):
        dev.fetch_comfyui(dev.NEWEST)


def test_requirements_are_installed_once_and_again_when_they_change(tmp_path, monkeypatch):
    comfyui = make_comfyui(tmp_path / "ComfyUI")
    for name in ("requirements.txt", "requirements-dev.txt"):
        (tmp_path / name).write_text("numpy\n")
    monkeypatch.setattr(dev, "ROOT", tmp_path)
    monkeypatch.setattr(dev, "STAMP", tmp_path / "stamp")
    runs = []
    monkeypatch.setattr(dev, "run_logged", lambda title, command, log: runs.append(command))
    dev.install_requirements(comfyui)
    dev.install_requirements(comfyui)
    assert len(runs) == 1
    (comfyui / "requirements.txt").write_text("einops\nav\n")
    dev.install_requirements(comfyui)
    assert len(runs) == 2
    assert set(dev.TORCH) < set(runs[1])


def install_package(venv: Path, name: str, files: dict[str, str]) -> Path:
    """Return the record folder of a package as pip leaves it."""
    site = venv / "lib" / "python3.11" / "site-packages"
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    rows = []
    for path, text in files.items():
        (site / path).parent.mkdir(parents=True, exist_ok=True)
        (site / path).write_text(text)
        rows.append(f"{path},sha256=x,{len(text)}")
    (info / "RECORD").write_text("\n".join([*rows, f"{info.name}/RECORD,,", "a.pyc,,"]) + "\n")
    return info


@pytest.mark.parametrize("damage", ["nothing", "a cut file", "a missing file", "no record"])
def test_a_package_that_is_not_whole_is_found(tmp_path, damage):
    install_package(tmp_path, "good", {"good/a.py": "a = 1\n"})
    info = install_package(tmp_path, "bad", {"bad/lib.so": "long content", "bad/b.py": ""})
    library = info.parent / "bad" / "lib.so"
    if damage == "a cut file":
        library.write_text("long")
    elif damage == "a missing file":
        library.unlink()
    elif damage == "no record":
        (info / "RECORD").unlink()
    assert dev.broken_packages(tmp_path) == ([] if damage == "nothing" else [info])


def test_the_packages_of_this_environment_are_whole():
    assert dev.broken_packages(Path(sys.prefix)) == []


def test_a_broken_package_is_installed_again_at_the_next_start(tmp_path, monkeypatch, capsys):
    comfyui = make_comfyui(tmp_path / "ComfyUI")
    for name in ("requirements.txt", "requirements-dev.txt"):
        (tmp_path / name).write_text("numpy\n")
    monkeypatch.setattr(dev, "ROOT", tmp_path)
    monkeypatch.setattr(dev, "VENV", tmp_path / ".venv")
    monkeypatch.setattr(dev, "STAMP", tmp_path / "stamp")
    info = install_package(dev.VENV, "torch", {"torch/lib.so": "library"})
    runs = []
    monkeypatch.setattr(dev, "run_logged", lambda title, command, log: runs.append(info.exists()))
    dev.install_requirements(comfyui)
    (info.parent / "torch" / "lib.so").write_text("lib")
    dev.install_requirements(comfyui)
    assert runs == [True, False]  # pip is to take it for missing
    assert "torch-1.0 is not whole; it is installed again" in capsys.readouterr().out


HOLDS = """
import importlib.util, sys
from pathlib import Path
spec = importlib.util.spec_from_file_location("dev", sys.argv[1])
dev = sys.modules["dev"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(dev)
dev.WORK = Path(sys.argv[2])
with dev.alone():
    print("in", flush=True)
    sys.stdin.read()
"""


@pytest.mark.parametrize("end", ["finished", "killed"])
def test_two_commands_set_up_one_after_the_other(tmp_path, monkeypatch, capsys, end):
    monkeypatch.setattr(dev, "WORK", tmp_path)
    command = [sys.executable, "-c", HOLDS, str(dev.ROOT / "dev.py"), str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as other:
        assert other.stdout.readline() == "in\n"
        with (tmp_path / "setup.lock").open("a+b") as file:
            assert not dev.takes_lock(file)
        if end == "killed":
            other.kill()
        else:
            other.stdin.close()
        with dev.alone():
            assert other.wait(10) == (0 if end == "finished" else other.returncode)


STARTS = """
import subprocess, sys
command = [sys.executable, sys.argv[1], sys.executable, "-c", sys.argv[2]]
server = subprocess.Popen(command, stdin=subprocess.PIPE)
print("started", flush=True)
server.wait()
"""
SERVES = "import os, sys, time; print(os.getpid(), flush=True); time.sleep(300)"


def test_a_server_ends_with_the_run_that_started_it_also_if_that_is_killed():
    leash = dev.ROOT / "tests" / "support" / "leash.py"
    command = [sys.executable, "-c", STARTS, str(leash), SERVES]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert {run.stdout.readline(), run.stdout.readline()} > {"started\n"}
        run.kill()
        run.stdout.read()  # ends when the last process that holds it has ended


def test_a_full_disk_is_explained(tmp_path, monkeypatch, capsys):
    log = tmp_path / "install.log"
    log.write_text(
        "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n"
    )
    assert "The disk is full" in dev.explain_failure("Installing", 1, log)

    def fill(arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(dev, "run_demo", fill)
    monkeypatch.setattr(dev.signal, "signal", lambda *_: None)
    assert dev.main(["demo"]) == 1
    assert "run the same command again" in capsys.readouterr().err


def test_a_failed_install_is_not_stamped(tmp_path, monkeypatch):
    comfyui = make_comfyui(tmp_path)
    (tmp_path / "requirements-dev.txt").write_text("")
    monkeypatch.setattr(dev, "ROOT", tmp_path)
    monkeypatch.setattr(dev, "WORK", tmp_path)
    monkeypatch.setattr(dev, "STAMP", tmp_path / "stamp")
    monkeypatch.setattr(dev, "PYTHON", Path(sys.executable))
    monkeypatch.setattr(dev, "TORCH", ("--no-such-option",))
    with pytest.raises(dev.DevError, match=r"failed with exit status 2. End of .*install.log"):
        dev.install_requirements(comfyui)
    assert not (tmp_path / "stamp").exists()


def test_being_offline_is_explained(tmp_path):
    log = tmp_path / "install.log"
    log.write_text(
        "WARNING: Retrying after connection broken by 'NewConnectionError(...)'\nERROR\n"
    )
    message = dev.explain_failure("Installing", 1, log)
    assert str(log) in message
    assert "Go online" in message
    assert "COMFYUI_PATH" in message
    log.write_text("ERROR: ResolutionImpossible\n")
    assert "Go online" not in dev.explain_failure("Installing", 1, log)


def test_a_python_without_venv_is_told_the_debian_package(monkeypatch):
    monkeypatch.setattr(dev, "PYTHON", Path("nowhere"))
    monkeypatch.setattr(dev.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(dev.DevError, match=r"apt install python3\.\d+-venv"):
        dev.make_venv()


def test_a_child_is_stopped_when_the_work_fails():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    with pytest.raises(ValueError, match="in between"), dev.stopping(child):
        raise ValueError("in between")
    assert child.poll() is not None


@pytest.mark.parametrize(
    ("line", "command", "extra"),
    [
        ("test --all -- -k eta --pdb", dev.run_tests, ["-k", "eta", "--pdb"]),
        ("bench --quality -- x", dev.run_bench, ["--quality", "x"]),
        ("bench --device --tiny", dev.run_bench, ["--device", "--tiny"]),
        ("serve --port 9000 -- --cpu", dev.run_serve, ["--cpu"]),
        (
            "models get v2 --folder x --convert",
            dev.run_models,
            ["get", "v2", "--folder", "x", "--convert"],
        ),
        (
            "folder w.json in out --limit 3 -- --cpu",
            dev.run_folder,
            ["w.json", "in", "out", "--limit", "3", "--cpu"],
        ),
        ("demo", dev.run_demo, []),
    ],
)
def test_what_dev_does_not_know_is_passed_on(line, command, extra):
    arguments = dev.parse_arguments(line.split())
    assert arguments.command is command
    assert arguments.extra == extra


def test_workers_take_test_files_in_the_order_of_the_collection(tmp_path, monkeypatch):
    """By default the files of fewest tests come last, among them the heavy ones."""
    log = tmp_path / "log"
    for name, count in {"a": 1, "b": 4, "c": 4}.items():
        tests = (
            f"def test_{n}():\n    with open({str(log)!r}, 'a') as log:\n        log.write('{name}')\n"
            for n in range(count)
        )
        (tmp_path / f"test_{name}.py").write_text("".join(tests))
    settings = tmp_path / "pytest.ini"
    settings.write_text("[pytest]\n")
    monkeypatch.setattr(dev, "PYTHON", sys.executable)
    monkeypatch.setattr(dev, "comfyui_version", lambda _: "of no import here")
    assert dev.run_pytest(tmp_path, ["-q", "-c", str(settings), str(tmp_path)], workers=2) == 0
    order = log.read_text()
    assert sorted(order) == sorted("abbbbcccc")
    assert "a" in order[:5], "the file of one test came last"


@pytest.mark.skipif(not os.environ.get("COMFYUI_PATH"), reason="the heavy tests need ComfyUI")
def test_heavy_tests_come_first():
    chosen = ["tests/images/test_dirt.py", "tests/integration/test_full_size.py"]
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *chosen]
    listed = subprocess.run(command, cwd=dev.ROOT, capture_output=True, text=True, check=True)
    assert listed.stdout.startswith(chosen[1])
    assert chosen[0] in listed.stdout


def test_a_folders_options_and_comfyuis_are_told_apart():
    arguments = dev.parse_arguments(
        ["folder", "w.json", "in", "out", "--set", "5.steps=4", "--", "--cpu"]
    )
    assert arguments.unknown == ["w.json", "in", "out", "--set", "5.steps=4"]
    assert arguments.passed_on == ["--cpu"]


def test_models_are_looked_for_in_the_comfyui_found_or_the_folder_named(tmp_path):
    comfyui = make_comfyui(tmp_path / "comfy ui")
    (tmp_path / "mine").mkdir()
    environment = {**os.environ, "COMFYUI_PATH": str(comfyui)}
    command = [sys.executable, str(dev.ROOT / "dev.py"), "models"]
    for arguments, folder in (([], comfyui / "models"), (["--folder", "mine"], Path("mine"))):
        listed = subprocess.run(
            [*command, *arguments], cwd=tmp_path, env=environment, capture_output=True, text=True
        )
        assert (listed.returncode, listed.stderr) == (0, "")
        assert listed.stdout.splitlines()[0] == f"Models folder: {folder}"


def test_unknown_arguments_of_other_commands_are_refused(capsys):
    with pytest.raises(SystemExit):
        dev.parse_arguments(["demo", "--fast"])
    assert "--fast" in capsys.readouterr().err


def test_pyproject_requires_what_requirements_txt_lists():
    text = (dev.ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"^dependencies = \[(.*)\]$", text, re.MULTILINE).group(1)
    required = (dev.ROOT / "requirements.txt").read_text(encoding="utf-8").split()
    assert [name.strip(' "') for name in listed.split(",")] == required
