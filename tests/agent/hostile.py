"""What hostile storage is made of: canaries outside a pool, and what is planted inside one."""

from __future__ import annotations

import os
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

SECRET = b"nobody of ours reads this\n".ljust(4096, b".")
LONG_AGO_S = 10**9  # so long that any read moves the access time on, whatever the mount's options


@dataclass(slots=True)
class Canary:
    """A folder outside every pool, with a file in it: it notices who reads or changes it."""

    folder: Path
    _before: tuple[object, ...] = ()

    @classmethod
    def at(cls, folder: Path) -> Canary:
        """Makes one."""
        folder.mkdir()
        canary = cls(folder)
        canary.file.write_bytes(SECRET)
        canary.image.mkdir()
        (canary.image / "data.raw").write_bytes(SECRET)
        (canary.image / "image.json").write_text("{}")
        canary.set()
        return canary

    @property
    def file(self) -> Path:
        """Returns the file that is not to be read."""
        return self.folder / "secret.raw"

    @property
    def image(self) -> Path:
        """Returns a folder that looks like an image's."""
        return self.folder / "image"

    def set(self) -> None:
        """Begins to listen."""
        for path in self._paths():
            os.utime(path, (LONG_AGO_S, LONG_AGO_S))
        self._before = self._look()

    @property
    def sings(self) -> bool:
        """Returns whether anybody has read or changed anything."""
        return self._look() != self._before

    def _paths(self) -> list[Path]:
        return [self.file, self.image / "data.raw", self.image / "image.json"]

    def _look(self) -> tuple[object, ...]:
        names = sorted(str(path) for path in self.folder.rglob("*"))
        stats = [path.lstat() if path.exists() else None for path in self._paths()]
        return names, [
            (one.st_atime_ns, one.st_mtime_ns, one.st_size) if one else None for one in stats
        ]


# -- qcow2 --------------------------------------------------------------------------------------


def qcow2(path: Path, *options: str, size: str = "1M") -> None:
    """Makes a qcow2 file, without looking at what it names."""
    arguments = ["qemu-img", "create", "-q", "-u", "-f", "qcow2", *options, str(path), size]
    subprocess.run(arguments, check=True)


def external_data(path: Path, canary: Canary) -> None:
    """Makes a qcow2 file whose data is in another file, and names the canary as that."""
    own = canary.folder.parent / "external.raw"
    arguments = ["qemu-img", "create", "-q", "-f", "qcow2"]
    subprocess.run([*arguments, "-o", f"data_file={own}", str(path), "1M"], check=True)
    data, old, new = path.read_bytes(), str(own).encode(), str(canary.file).encode()
    assert len(new) <= len(old) or data.count(old) == 1
    path.write_bytes(data.replace(old, new.ljust(len(old), b"\0")))
    own.unlink()


def claims_size(path: Path, size_bytes: int) -> None:
    """Writes another size into the head of a qcow2 file."""
    with path.open("r+b") as file:
        file.seek(24)
        file.write(struct.pack(">Q", size_bytes))


Plant = Callable[[Path, Canary], None]


def _emptied(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()


def _instead(path: Path) -> Path:
    path.unlink()
    return path


def _folder_is_a_link(image: Path, canary: Canary) -> None:
    _emptied(image)
    image.symlink_to(canary.image)


def _folder_is_a_fifo(image: Path, _canary: Canary) -> None:
    _emptied(image)
    os.mkfifo(image)


def _folder_is_a_file(image: Path, canary: Canary) -> None:
    _emptied(image)
    os.link(canary.file, image)
    canary.set()


def _data_is_a_link(image: Path, canary: Canary) -> None:
    _instead(image / "data.raw").symlink_to(canary.file)


def _data_is_a_relative_link(image: Path, canary: Canary) -> None:
    target = os.path.relpath(canary.file, image)
    _instead(image / "data.raw").symlink_to(target)


def _data_is_a_hard_link(image: Path, canary: Canary) -> None:
    os.link(canary.file, _instead(image / "data.raw"))
    canary.set()


def _data_is_a_fifo(image: Path, _canary: Canary) -> None:
    os.mkfifo(_instead(image / "data.raw"))


def _data_is_a_device(image: Path, _canary: Canary) -> None:
    os.mknod(_instead(image / "data.raw"), 0o600 | 0o060000, os.makedev(1, 0))


def _data_is_a_character_device(image: Path, _canary: Canary) -> None:
    os.mknod(_instead(image / "data.raw"), 0o600 | 0o020000, os.makedev(1, 5))


def _data_is_a_folder(image: Path, _canary: Canary) -> None:
    _instead(image / "data.raw").mkdir()


def _label_is_a_link(image: Path, canary: Canary) -> None:
    _instead(image / "image.json").symlink_to(canary.file)


def _label_is_a_hard_link(image: Path, canary: Canary) -> None:
    os.link(canary.file, _instead(image / "image.json"))
    canary.set()


def _label_is_a_fifo(image: Path, _canary: Canary) -> None:
    os.mkfifo(_instead(image / "image.json"))


def _label_is_endless(image: Path, _canary: Canary) -> None:
    with (image / "image.json").open("r+b") as file:
        file.truncate(2**30)


def _label_is_gone(image: Path, _canary: Canary) -> None:
    (image / "image.json").unlink()


PLANTED: dict[str, Plant] = {
    "the folder is a link": _folder_is_a_link,
    "the folder is a pipe": _folder_is_a_fifo,
    "the folder is a file": _folder_is_a_file,
    "the data is a link": _data_is_a_link,
    "the data is a relative link": _data_is_a_relative_link,
    "the data is a hard link": _data_is_a_hard_link,
    "the data is a pipe": _data_is_a_fifo,
    "the data is a block device": _data_is_a_device,
    "the data is a character device": _data_is_a_character_device,
    "the data is a folder": _data_is_a_folder,
    "the label is a link": _label_is_a_link,
    "the label is a hard link": _label_is_a_hard_link,
    "the label is a pipe": _label_is_a_fifo,
    "the label is endless": _label_is_endless,
    "there is no label": _label_is_gone,
}

# What a qcow2 image's data file may be turned into; each gets the file and the canary.
HEADERS: dict[str, Plant] = {
    "a backing file by its path": lambda path, canary: qcow2(
        path, "-b", str(canary.file), "-F", "raw"
    ),
    "a backing file by a relative path": lambda path, canary: qcow2(
        path, "-b", os.path.relpath(canary.file, path.parent), "-F", "raw"
    ),
    "a backing file as json": lambda path, canary: qcow2(
        path,
        "-b",
        f'json:{{"driver":"raw","file":{{"driver":"file","filename":"{canary.file}"}}}}',
        "-F",
        "raw",
    ),
    "a backing file over the network": lambda path, _canary: qcow2(
        path, "-b", "nbd://127.0.0.1:1/secret", "-F", "raw"
    ),
    "another image that its label does not name": lambda path, _canary: qcow2(
        path, "-b", "../plain/data.raw", "-F", "raw"
    ),
    "an external data file": external_data,
}
