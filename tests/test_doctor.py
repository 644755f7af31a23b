"""The doctor: what it finds, what it advises, and that it survives whatever is broken."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from click.testing import CliRunner, Result

from fabricated import fabricate
from tlbench.cli import main
from tlbench.doctor import advice
from tlbench.evaluation import hardware, hub


def doctor(*arguments: str) -> Result:
    result = CliRunner().invoke(main, ["doctor", *arguments])
    assert result.exit_code == 0, result.output
    return result


def findings() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(doctor("--json").stdout)
    return found


def test_everything_is_found_and_shown() -> None:
    found = findings()
    assert found["versions"].keys() >= {"tlbench", "python", "torch", "torchvision", "timm", "transformers", "peft",
                                        "optuna", "ray", "pandas"}  # fmt: skip
    assert found["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["cpu"]["cores"] == len(os.sched_getaffinity(0))
    assert found["cpu"]["memory_mib"] > 100
    assert found["threads"]["OMP_NUM_THREADS"] == "1"
    assert found["folders"]["cache"]["free_bytes"] > 0
    assert found["hugging_face_hub"] == {"reachable": False, "reason": "HF_HUB_OFFLINE is set"}
    assert {"basic", "timm", "transformers"} <= set(found["plugins"]["active"])
    assert found["plugins"]["observers"].keys() >= {"mlflow", "optuna-dashboard", "tensorboard", "wandb"}
    assert found["plugins"]["observers"]["optuna-dashboard"] == "ready"
    text = doctor().stdout
    assert "offline: HF_HUB_OFFLINE is set" in text
    assert "observer   optuna-dashboard: ready" in text


def test_a_plugin_set_aside_and_an_observer_that_lacks_something_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    source = "from tlbench.hookspecs import hookimpl\n@hookimpl\ndef trial_finished(measurement):\n    pass\n"
    fabricate(tmp_path, "broken", "import no_such_module")
    fabricate(tmp_path, "lacking", source, requires=["no-such-library; extra == 'lacking'"])
    monkeypatch.setenv("TLBENCH_DISABLE_PLUGINS", "timm")
    text = doctor().stdout
    assert "observer   lacking: needs no-such-library: pip install 'lacking[lacking]'" in text
    assert "set aside  timm: left out by TLBENCH_DISABLE_PLUGINS" in text
    _, told = text.split("what would make this better\n")
    assert "plugin 'broken' is set aside: its import raised ModuleNotFoundError" in told
    assert "timm" not in told, "that was a choice"


# Whatever is broken


@pytest.mark.parametrize("library", ["torch", "torchvision"])
@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("raise ImportError('libcudart.so: no such file')", "ImportError: libcudart.so"),
        ("raise RuntimeError('operator torchvision::nms does not exist')", "RuntimeError: operator torchvision::nms"),
        ("raise SystemExit(1)", "SystemExit: 1"),
        ("import os; os.abort()", "it ends the process with status -6"),
    ],
)
def test_a_library_that_cannot_be_imported_is_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, source: str, expected: str
) -> None:
    (tmp_path / f"{library}.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    _, told = doctor().stdout.split("what would make this better\n")
    (line,) = [line for line in told.splitlines() if "torch" in line]
    assert expected in line
    assert line.endswith("pip install --force-reinstall torch torchvision")


def test_every_section_may_break(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise OSError("broken")

    for module, names in {
        "doctor": ("version", "discover"),
        "caches": ("root",),
        "evaluation.hardware": ("seen_by_torch", "driver", "cpu"),
        "evaluation.hub": ("reachable",),
    }.items():
        for name in names:
            monkeypatch.setattr(f"tlbench.{module}.{name}", broken)
    text = doctor().stdout
    assert text.count("unknown: OSError: broken") == 8
    told = [line.split()[0] for line in text.splitlines() if line.endswith("cannot be examined: OSError: broken")]
    assert told == ["versions", "cpu", "imports", "folders", "hugging_face_hub", "plugins"]
    doctor("--json")


def test_a_wrong_variable_is_a_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TLBENCH_PLUGIN_TIMEOUT", "soon")
    assert "plugins cannot be examined: PluginError: TLBENCH_PLUGIN_TIMEOUT=soon" in doctor().stdout


def test_a_working_directory_that_is_gone_is_a_line(tmp_path: Path) -> None:
    imports = "import os; import tlbench.doctor; from tlbench.cli import main"  # Python 3.13.0 cannot import there
    code = f"{imports}; os.rmdir(os.getcwd()); main(['doctor'])"
    gone = tmp_path / "gone"
    gone.mkdir()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=gone)
    assert (done.returncode, done.stderr) == (0, "")
    assert "folders cannot be examined: FileNotFoundError" in done.stdout


# Advice


FOLDER = {"path": "/c", "writable": True, "free_bytes": 2**40}


def well(**changes: Any) -> dict[str, Any]:
    """Findings in which nothing is wrong, but for the changes."""
    return {
        "versions": {"torch": "2.9", "torchvision": "0.20"},
        "imports": {},
        "cpu": {"cores": 4, "quota_cores": None},
        "gpus": [],
        "cuda": {"torch_cuda": "13.0", "driver": None, "visible": None},
        "folders": {"hub_cache": FOLDER},
        "plugins": {"set_aside": []},
        **changes,
    }


def test_where_nothing_is_wrong_nothing_is_said() -> None:
    assert list(advice(well())) == []
    gpu, driver = [{"name": "a GPU"}], {"torch_cuda": "13.0", "driver": "580", "visible": "0"}
    assert list(advice(well(gpus=gpu, cuda=driver))) == []
    assert list(advice(well(cpu={"cores": 4, "quota_cores": 4.0}))) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"imports": {"torchvision": "no nms"}}, "torchvision 0.20 does not fit torch 2.9 (no nms): pip install"),
        ({"cuda": {"torch_cuda": None, "driver": "580", "visible": None}}, "torch is built for CPUs only"),
        ({"cuda": {"torch_cuda": "13.0", "driver": "470", "visible": None}}, "driver 470 is there: torch's CUDA 13.0"),
        ({"cuda": {"torch_cuda": "13.0", "driver": "580", "visible": "-1"}}, "CUDA_VISIBLE_DEVICES=-1 hides the GPU"),
        ({"cpu": {"cores": 8, "quota_cores": 1.5}}, "a quota allows 1.5 of 8 cores: set device.threads = 1"),
        ({"folders": {"cache": {**FOLDER, "free_bytes": 2**30}}}, "1.0 GiB are left on the disk of /c (cache)"),
        ({"folders": {"cache": {**FOLDER, "writable": False}}}, "/c (cache) cannot be written"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_line(changes: dict[str, Any], expected: str) -> None:
    (line,) = advice(well(**changes))
    assert expected in line


def test_the_driver_s_version_is_asked_and_no_answer_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    answers: dict[str, Callable[..., Any]] = {
        "580.65": lambda *_, **__: SimpleNamespace(returncode=0, stdout="580.65\n580.65\n"),
        "failed": lambda *_, **__: SimpleNamespace(returncode=9, stdout="NVIDIA-SMI has failed"),
        "silent": lambda *_, **__: SimpleNamespace(returncode=0, stdout=""),
        "hangs": lambda command, timeout, **_: (_ for _ in ()).throw(subprocess.TimeoutExpired(command, timeout)),
    }
    monkeypatch.setattr("shutil.which", lambda _: "/usr/bin/nvidia-smi")
    for expected, answer in answers.items():
        monkeypatch.setattr("subprocess.run", answer)
        assert hardware.driver() == (expected if expected == "580.65" else None)
    monkeypatch.setattr("shutil.which", lambda _: None)
    assert hardware.driver() is None


# The hub, on this machine


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Lets the hub be at an address; no proxy in between."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    return lambda address: monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)


def server(status: int) -> tuple[HTTPServer, str]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    serving = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    return serving, f"http://127.0.0.1:{serving.server_port}"


@pytest.mark.parametrize(("status", "reason"), [(200, ""), (404, ""), (401, ""), (503, "answers 503")])
def test_a_hub_that_answers_is_reachable(endpoint: Callable[[str], None], status: int, reason: str) -> None:
    serving, address = server(status)
    endpoint(address)
    said = hub.reachable()
    assert reason in said
    assert bool(said) == bool(reason)
    serving.shutdown()
    serving.server_close()


def test_one_that_is_not_there_or_does_not_answer_is_not(
    endpoint: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint(f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert hub.reachable(0.2).endswith("did not answer within 0.2 s")
    assert "Connection refused" in hub.reachable()
    endpoint("ftp://hub")
    assert hub.reachable() == "HF_ENDPOINT is 'ftp://hub', which is no address of a web server"
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert hub.reachable() == "HF_HUB_OFFLINE is set"


def test_a_proxy_is_used(endpoint: Callable[[str], None], monkeypatch: pytest.MonkeyPatch) -> None:
    serving, address = server(200)
    endpoint("http://hub.invalid")
    monkeypatch.setenv("http_proxy", address)
    monkeypatch.delenv("no_proxy", raising=False)
    assert hub.reachable() == ""
    serving.shutdown()
    serving.server_close()
