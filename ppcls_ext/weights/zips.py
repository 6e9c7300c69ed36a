"""Members of ZIP archives, read within a file's allowance."""

from __future__ import annotations

import zipfile

from ppcls_ext.errors import PpclsExtError
from ppcls_ext.weights.bounded import BoundedFile


def read_member(archive: zipfile.ZipFile, member: zipfile.ZipInfo, file: BoundedFile) -> bytes:
    """Returns a member's content, checked against its checksum.

    Args:
        archive: opened on `file`.
        member: one of `archive`.
        file: the archive's file, whose allowance pays.
    """
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or member.flag_bits & 1:
        raise PpclsExtError("refused: it is packed or encrypted in a way that no program for weights uses; unpack it")
    file.spend(member.file_size)
    with archive.open(member) as stream:
        # The count matters: without one, whatever was packed is unpacked, whatever size was declared
        content = stream.read(member.file_size)
    if len(content) != member.file_size:
        raise ValueError(f"member {member.filename!a} ends early")
    return content
