"""Builds the container's image as Debian's buildah does it, and runs it as a container engine would, without one.

Both need root: buildah runs the steps of the Dockerfile in a chroot, and a container is a process in mount and process
namespaces of its own, whose root is the image, read-only. It shares the network of this machine.
"""

import ast
import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable
from pathlib import Path

import httpx
import psutil
import pytest

from tests.support.server_process import PATIENCE, ServerProcess, eventually, needs

ROOT = Path(__file__).parents[2]

SUITE = "bookworm"
"""The Debian whose Python the base image has: 3.11, as in the image that the Dockerfile names."""

BASE = "python:3.11-slim"
BASE_PACKAGES = ("ca-certificates", "libpython3.11-dev", "python3", "python3-pip")
"""What that image has besides Debian's least: certificates, Python with its headers, and pip."""

NEEDED_BYTES = 12 * 10**9
"""buildah's simplest store copies the whole image for each state of it, and one takes 2 GB."""


def check_machine() -> None:
    """Skip the test where an image cannot be built, but fail in CI."""
    lacking = None
    if os.geteuid() != 0:
        lacking = "root"
    elif f"VERSION_CODENAME={SUITE}" not in Path("/etc/os-release").read_text().splitlines():
        lacking = f"Debian {SUITE}, whose package sources the image is made from"
    elif subprocess.run(["unshare", "--mount", "true"], check=False, stderr=subprocess.DEVNULL).returncode != 0:
        lacking = "mount namespaces"
    if lacking is not None and os.environ.get("CI") == "true":
        pytest.fail(f"building the image needs {lacking}, and CI must have it")
    if lacking is not None:
        pytest.skip(f"building the image needs {lacking}")


class Image:
    """The image that the Dockerfile describes, unpacked at `root`; `config` is what it says about running it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._store = ("--root", folder / "store", "--runroot", folder / "run", "--storage-driver", "vfs")
        assert shutil.disk_usage(folder).free > NEEDED_BYTES, f"the image needs {NEEDED_BYTES} bytes in {folder}"

    def build(self, extras: str) -> None:
        """Make the base image, then follow the Dockerfile. Of this machine come the package sources and pip's.

        `extras` are further ones of the package, separated by commas.
        """
        self._make_base()
        volumes = [f"--volume={source}:{target}:ro" for source, target in self._pip_files()]
        how = ("--isolation=chroot", "--format=docker", "--pull-never", f"--build-arg=EXTRAS={extras}", *volumes)
        self._buildah("bud", *how, "--tag=paddock", ROOT)
        self.config = json.loads(self._buildah("inspect", "--type=image", "paddock"))["Docker"]["config"]
        self.root = Path(self._buildah("mount", self._buildah("from", "--pull-never", "paddock")))

    def _make_base(self) -> None:
        base = self._folder / "base"
        include = f"--include={','.join(BASE_PACKAGES)}"
        run(needs("debootstrap"), "--variant=minbase", include, SUITE, base, _mirror())
        # the image's own Python may be changed by pip, and is called `python`
        for marker in base.glob("usr/lib/python3*/EXTERNALLY-MANAGED"):
            marker.unlink()
        (base / "usr/local/bin/python").symlink_to("/usr/bin/python3")
        shutil.rmtree(base / "etc/apt")
        shutil.copytree("/etc/apt", base / "etc/apt", symlinks=True)
        container = self._buildah("from", "scratch")
        self._buildah("add", "--quiet", container, base, "/")
        self._buildah("config", "--env=PATH=/usr/local/bin:/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", container)
        self._buildah("config", "--env=LANG=C.UTF-8", container)
        self._buildah("commit", "--quiet", "--rm", container, BASE)
        shutil.rmtree(base)

    def _pip_files(self) -> Iterable[tuple[Path | str, Path | str]]:
        """The files to mount for pip: one with its configuration here, and those that this names."""
        settings: dict[str, str] = {}
        listed = run("python3", "-m", "pip", "config", "list").splitlines()
        # a variable overrides the user's file, and that the system's
        for line in sorted(listed, key=lambda line: ("global", "user", "site", ":env:").index(line.split(".")[0])):
            name, _, value = line.partition("=")
            settings[name.split(".")[-1]] = ast.literal_eval(value)
        config = self._folder / "pip.conf"
        config.write_text("\n".join(["[global]", *(f"{name} = {value}" for name, value in settings.items())]))
        yield config, "/etc/pip.conf"
        for word in dict.fromkeys(word for each in settings.values() for word in each.split()):
            # the pages of an index name files beside its folder
            path = Path(word.removeprefix("file://")).parent if word.startswith("file://") else Path(word)
            if path.is_absolute() and path.exists():
                yield path, path

    def _buildah(self, *args: object) -> str:
        return run(needs("buildah"), *self._store, *args).strip()

    def size(self, folder: str = ".") -> int:
        """Bytes of all files, or of those in one of its folders."""
        return int(run("du", "--summarize", "--bytes", "--one-file-system", self.root / folder).split()[0])

    def remove(self) -> None:
        """Remove it, with all that was stored for it."""
        if (self._folder / "store").exists():
            self._buildah("rm", "--all")
            self._buildah("rmi", "--all", "--force")
        shutil.rmtree(self._folder, ignore_errors=True)


class Container(ServerProcess):
    """A container of the demo: `ServerProcess` whose process is the first of the container.

    Its root is read-only, /tmp is its own, and /data is `data_dir`. `user` is "UID:GID" or a name in the image.
    """

    def __init__(self, image: Image, data_dir: Path, user: str | None = None, **env: str) -> None:
        super().__init__(data_dir, **env)
        self._image = image
        self._user = user or image.config["User"]
        self._env = {
            **dict(variable.split("=", 1) for variable in image.config["Env"]),
            # the root of a user whom nobody knows
            "HOME": f"/home/{self._user}" if user is None else "/",
            # as for all servers of the tests
            **{name: os.environ[name] for name in ("OMP_NUM_THREADS", "OMP_WAIT_POLICY")},
            **{name: value for name, value in self._env.items() if name != "PADDOCK_WORKER_TEMPLATE"},
            "PADDOCK_HOST": "127.0.0.1",
            "PADDOCK_PORT": str(self.port),
        }

    def _entered(self, *, is_alone: bool = False) -> list[str]:
        """The beginning of a command that runs in a new container, with this machine's network or alone in one."""
        image = self._image
        mounts = f"""
            {"ip link set lo up" if is_alone else ""}
            mount --bind {image.root} {image.root}
            mount --rbind /dev {image.root}/dev
            mount --rbind /sys {image.root}/sys
            mount -t proc proc {image.root}/proc
            mount -t tmpfs tmpfs {image.root}/tmp
            mount --bind {self.data_dir} {image.root}/data
            mount -o remount,bind,ro {image.root}
            exec chroot --userspec="$0" --groups= {image.root} sh -c 'cd "$0" && exec "$@"' "$@"
        """
        own = ["--mount", "--pid", *(["--net"] if is_alone else [])]
        return ["unshare", *own, "--fork", "sh", "-ec", mounts, self._user, image.config["WorkingDir"]]

    def start(self, wait: float = PATIENCE) -> float:
        """Start it and wait until /healthz answers."""
        config = self._image.config
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self._entered(), *config["Entrypoint"], *config["Cmd"], "--demo"],
                env=self._env,
                stdout=log,
                stderr=log,
            )
        began = time.monotonic()
        eventually(self._answers, self, wait)
        return time.monotonic() - began

    def _answers(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log_text()
        try:
            return httpx.get(f"{self.url}/healthz", timeout=1).status_code == 200
        except httpx.TransportError:
            return False

    def run_alone(self, script: str, **env: str) -> "subprocess.CompletedProcess[str]":
        """Run a shell script in a new container without a network, as `docker run --network none` does."""
        return subprocess.run(
            [*self._entered(is_alone=True), "bash", "-ec", script],
            env={**self._env, **env},
            check=False,
            capture_output=True,
            text=True,
        )

    @property
    def first(self) -> psutil.Process:
        """The container's first process, which signals are for."""
        assert self.process is not None
        (child,) = psutil.Process(self.process.pid).children()
        return child

    def execute(self, *command: str, **env: str) -> "subprocess.CompletedProcess[str]":
        """Run a command in the container, as `docker exec` does."""
        ids = (self.first.uids().real, self.first.gids().real)
        enter = ("nsenter", f"--target={self.first.pid}", "--mount", "--pid", "--root", "--wd")
        return subprocess.run(
            [*enter, f"--setuid={ids[0]}", f"--setgid={ids[1]}", "--", *command],
            env={**self._env, **env},
            check=False,
            capture_output=True,
            text=True,
        )

    def stop(self, timeout: float = PATIENCE) -> int:
        """Stop it with SIGTERM, as engines do, and return the exit status."""
        assert self.process is not None
        if self.process.poll() is None:
            self.first.send_signal(signal.SIGTERM)
        return self.process.wait(timeout)

    def kill(self) -> None:
        """End it: a kernel kills all processes of a container with the first."""
        assert self.process is not None
        for child in psutil.Process(self.process.pid).children():
            child.kill()
        self.process.wait()


def run(*command: object) -> str:
    """Run a command and return what it prints; if it fails, the test does, with the end of all output."""
    words = [str(part) for part in command]
    ended = subprocess.run(words, check=False, capture_output=True, text=True)
    if ended.returncode != 0:
        pytest.fail(f"{' '.join(words)} exited with {ended.returncode}:\n{(ended.stdout + ended.stderr)[-5000:]}")
    return ended.stdout


def _mirror() -> str:
    """Where this machine gets Debian's packages."""
    listed = run("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", f"Release: {SUITE}")
    return listed.splitlines()[0]
