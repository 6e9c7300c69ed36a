"""The Oxford Flowers102 data set in PaddleClas's layout.

Source: https://www.robots.ox.ac.uk/~vgg/data/flowers/102/ (Nilsback and Zisserman, 2008). 8189 images of 102 classes;
setid.mat holds the official split, imagelabels.mat the classes 1..102, which become 0..101 in the lists.
"""

from __future__ import annotations

import gzip
import os
import shutil
import tarfile
import tempfile
import zlib
from pathlib import Path, PurePosixPath

from ppcls_ext.data.lists import class_names_text, list_text, write_list
from ppcls_ext.download import download, file_md5
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.packages import import_extra

#: The English names of the classes, in the order of the official labels 1..102.
NAMES = tuple(
    " ".join(name.split())
    for name in """
    pink primrose, hard-leaved pocket orchid, canterbury bells, sweet pea, english marigold, tiger lily, moon orchid,
    bird of paradise, monkshood, globe thistle, snapdragon, colt's foot, king protea, spear thistle, yellow iris,
    globe-flower, purple coneflower, peruvian lily, balloon flower, giant white arum lily, fire lily,
    pincushion flower, fritillary, red ginger, grape hyacinth, corn poppy, prince of wales feathers, stemless gentian,
    artichoke, sweet william, carnation, garden phlox, love in the mist, mexican aster, alpine sea holly,
    ruby-lipped cattleya, cape flower, great masterwort, siam tulip, lenten rose, barbeton daisy, daffodil,
    sword lily, poinsettia, bolero deep blue, wallflower, marigold, buttercup, oxeye daisy, common dandelion, petunia,
    wild pansy, primula, sunflower, pelargonium, bishop of llandaff, gaura, geranium, orange dahlia,
    pink-yellow dahlia, cautleya spicata, japanese anemone, black-eyed susan, silverbush, californian poppy,
    osteospermum, spring crocus, bearded iris, windflower, tree poppy, gazania, azalea, water lily, rose, thorn apple,
    morning glory, passion flower, lotus lotus, toad lily, anthurium, frangipani, clematis, hibiscus, columbine,
    desert-rose, tree mallow, magnolia, cyclamen, watercress, canna lily, hippeastrum, bee balm, ball moss, foxglove,
    bougainvillea, camellia, mallow, mexican petunia, bromelia, blanket flower, trumpet creeper, blackberry lily
    """.split(",")
)
URL = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102/"
ARCHIVE = "102flowers.tgz"
LABELS = "imagelabels.mat"
SPLIT = "setid.mat"
MD5 = {
    ARCHIVE: "52808999861908f626f3c1f4e79d11fa",
    LABELS: "e0620be6f572b9609742df49c70aed4d",
    SPLIT: "a5357ecc9cb78c4bef273ce3793fc85c",
}
IMAGES = [f"jpg/image_{number:05d}.jpg" for number in range(1, 8190)]
#: Our lists, as parts of the official split.
LISTS = {
    "train_list.txt": ("trnid",),
    "val_list.txt": ("valid",),
    "test_list.txt": ("tstid",),
    "train_extra_list.txt": ("trnid", "tstid"),
}
LABEL_LIST = "flowers102_label_list.txt"
DEFAULT_OUTPUT = Path("dataset", "flowers102")
_JPEG_MAGIC = b"\xff\xd8\xff"
_ASIDE = ".extracting."
_INSTEAD = "get the files by other means and use --source"


def prepare(output: Path, source: Path | None = None) -> bool:
    """Makes the dataset in `output`: first the image folder, complete or not at all, then the lists.

    Correct files that exist already stay; a file that differs is never overwritten.

    Args:
        output: the dataset's folder.
        source: the folder of the three official files; its archive may contain the same images at another size.
            None downloads them to `output`/download, where a later run finds them.

    Returns:
        Whether anything was missing.

    Raises:
        PpclsExtError: a file is missing, damaged or not the expected one, or `output` contains something else.
    """
    folder = source or output / "download"
    if source is None:
        for name in (LABELS, SPLIT):
            download(URL + name, folder / name, MD5[name], instead=_INSTEAD)
    else:
        _check_source(source)
    archive_md5 = file_md5(folder / ARCHIVE) if source else MD5[ARCHIVE]
    missing_lists = {name: text for name, text in _lists(folder).items() if not _is_there(output / name, text)}
    missing_images = not _images_are_there(output, archive_md5)
    if missing_images:
        if source is None:
            download(URL + ARCHIVE, folder / ARCHIVE, archive_md5, instead=_INSTEAD)
        extract(folder / ARCHIVE, output, archive_md5)
    for name, text in missing_lists.items():
        write_list(output / name, text)
    return missing_images or bool(missing_lists)


def _check_source(source: Path) -> None:
    missing = [name for name in MD5 if not (source / name).is_file()]
    if missing:
        raise PpclsExtError(
            f"{source}: no {', '.join(missing)}; --source takes the folder of {', '.join(MD5)} of {URL}"
        )
    for name in (LABELS, SPLIT):
        got = file_md5(source / name)
        if got != MD5[name]:
            raise PpclsExtError(
                f"{source / name}: got md5 {got}, expected {MD5[name]}; get the official file from {URL}"
            )


def _lists(source: Path) -> dict[str, str]:
    """Returns the text of every list by its file name."""
    loadmat = import_extra("scipy.io").loadmat
    labels = loadmat(source / LABELS)["labels"][0]
    split = loadmat(source / SPLIT)
    texts = {LABEL_LIST: class_names_text(NAMES)}
    for name, parts in LISTS.items():
        numbers = [int(number) for part in parts for number in split[part][0]]
        texts[name] = list_text((IMAGES[number - 1], int(labels[number - 1]) - 1) for number in numbers)
    return texts


def _is_there(path: Path, text: str) -> bool:
    if not path.exists():
        return False
    if path.read_bytes() != text.encode():
        raise PpclsExtError(f"{path} differs from the official split; move it away or choose another --output")
    return True


def origin_file(output: Path) -> Path:
    """Returns the file that says which archive the images came from."""
    return output / f"{ARCHIVE}.md5"


def _images_are_there(output: Path, archive_md5: str) -> bool:
    folder = output / "jpg"
    if not folder.exists():
        return False
    origin = (
        origin_file(output).read_text(encoding="utf-8").split()[:1] if origin_file(output).is_file() else ["unknown"]
    )
    if origin != [archive_md5]:
        raise PpclsExtError(
            f"{folder} holds images of another origin (archive md5 {' '.join(origin)}, this one is {archive_md5}); "
            "move the folder away or choose another --output"
        )
    sizes = {entry.name: entry.stat().st_size for entry in os.scandir(folder)}
    missing = [image for image in IMAGES if not sizes.get(PurePosixPath(image).name)]
    if missing:
        raise PpclsExtError(
            f"{folder}: {len(missing)} of {len(IMAGES)} images are missing or empty, the first is {missing[0]}; "
            "move the folder away and run again"
        )
    return True


def extract(archive: Path, output: Path, archive_md5: str) -> None:
    """Extracts the archive to `output`/jpg, which appears only when all 8189 images are there.

    Nothing is written under a name from the archive that is not one of the 8189 expected ones.

    Raises:
        PpclsExtError: the archive is damaged, contains anything but the images, or lacks some; or writing failed.
    """
    try:
        output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=_ASIDE, dir=output) as aside:
            _extract_images(archive, Path(aside))
            write_list(origin_file(output), f"{archive_md5}  {ARCHIVE}\n")
            (Path(aside) / "jpg").rename(output / "jpg")
    except OSError as error:
        raise PpclsExtError(f"cannot extract {archive} to {output}: {error.strerror or error}") from error
    for leftover in output.glob(f"{_ASIDE}*"):  # of killed runs
        shutil.rmtree(leftover, ignore_errors=True)


def _extract_images(archive: Path, folder: Path) -> None:
    (folder / "jpg").mkdir()
    missing = set(IMAGES)
    bar = import_extra("tqdm").tqdm(desc=archive.name, total=len(IMAGES), unit="image", disable=None)
    try:
        with bar, gzip.open(archive) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
            for member in tar:
                name = str(PurePosixPath(member.name))
                if member.isdir() and name == "jpg":
                    continue
                if not member.isfile() or name not in missing:
                    raise PpclsExtError(
                        f"{archive}: unexpected member {member.name!r}; expected each of {IMAGES[0]} … once"
                    )
                stored = tar.extractfile(member)
                content = stored.read() if stored else b""
                if not content.startswith(_JPEG_MAGIC):
                    raise PpclsExtError(f"{archive}: {name} is not a JPEG image; get the archive again from {URL}")
                (folder / name).write_bytes(content)
                missing.remove(name)
                bar.update()
            while stream.read(1 << 20):  # to the end, where gzip verifies its checksum
                pass
    except (tarfile.TarError, gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise PpclsExtError(f"{archive} is damaged ({error}); get it again from {URL}") from error
    if missing:
        raise PpclsExtError(
            f"{archive}: {len(missing)} of {len(IMAGES)} images are missing, the first is {min(missing)}; "
            f"get the archive again from {URL}"
        )
