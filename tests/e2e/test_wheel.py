"""The wheel, installed into a new environment and run from an empty folder."""

import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from tests.support.server_process import free_port
from tests.support.video import read_video

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT],
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return next(folder.glob("paddock-*.whl"))


def test_it_contains_the_packages_with_configurations_and_migrations_only(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()

    assert {"configs/server.toml", "configs/inspiration/styles.toml"} <= set(names)
    assert {"configs/models/wan2.1-t2v-14b.toml", "configs/models/sounds/stable-audio-3-small-sfx.toml"} <= set(names)
    assert "pipelines/demo/sound_weights/vae/diffusion_pytorch_model.safetensors" in names
    assert {f"configs/prompts/{name}.md" for name in ("text.en", "image.zh", "inspiration.en")} <= set(names)
    assert "server/storage/db/migrations/versions/0001_first_release.py" in names
    assert {"server/web/index.html", "server/web/js/main.js", "server/web/favicon.ico"} <= set(names)
    swagger_ui = "server/web/reference/swagger-ui"
    assert {f"{swagger_ui}/{name}" for name in ("swagger-ui-bundle.js", "LICENSE", "NOTICE")} <= set(names)
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {
        "configs",
        "paddock",
        "pipelines",
        "server",
    }


def test_its_demo_generates_a_video_in_an_empty_folder(wheel: Path, tmp_path: Path) -> None:
    # the libraries come from this environment, the project's own packages from the wheel only
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    libraries = Path(os.__file__).parent.name
    site = tmp_path / "env" / "lib" / libraries / "site-packages"
    zipfile.ZipFile(wheel).extractall(site)
    ours = next(Path(path) for path in sys.path if path.endswith("site-packages"))
    (site / "libraries.pth").write_text(f"{ours}\n")
    empty = tmp_path / "empty"
    empty.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"COLUMNS": "200"}

    where = subprocess.run(
        [
            python,
            "-P",
            "-c",
            "import paddock, server, pipelines; print(paddock.__file__, server.__file__, pipelines.__file__)",
        ],
        cwd=empty,
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    ).stdout
    assert all(path.startswith(str(site)) for path in where.split())
    ended = subprocess.run(
        [
            python,
            "-P",
            "-m",
            "server.cli",
            "demo",
            "--once",
            "--data-dir",
            tmp_path / "data",
            "--port",
            str(free_port()),
        ],
        cwd=empty,
        env=environment,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    assert str(empty / "demo.mp4") in ended.stdout
    assert read_video(empty / "demo.mp4").shape == (33, 240, 416, 3)
