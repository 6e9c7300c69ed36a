"""What is read from /proc/cpuinfo, of x86 and of Arm, and where there is no such file."""

from __future__ import annotations

import platform

import pytest

from ppcls_ext import cpu

X86 = """processor\t: 0
vendor_id\t: AuthenticAMD
model name\t: AMD EPYC 9B45
flags\t\t: fpu sse2 fma avx avx2 {more}
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU implementer\t: 0x41\n"


@pytest.fixture
def information(tmp_path, monkeypatch):
    monkeypatch.setattr(cpu, "INFORMATION", tmp_path / "cpuinfo")
    return tmp_path / "cpuinfo"


def test_x86(information):
    information.write_text(X86.format(more="avx512f avx512_vnni"))
    assert cpu.name() == "AMD EPYC 9B45"
    assert cpu.features() == ["avx2", "fma", "avx512f", "avx512_vnni"]
    assert cpu.is_amd_with_avx2()
    assert cpu.multiplies_bytes() is True


def test_x86_without_int8(information):
    information.write_text(X86.format(more=""))
    assert cpu.multiplies_bytes() is False
    information.write_text(X86.format(more="").replace("AMD", "Intel"))
    assert not cpu.is_amd_with_avx2()


def test_arm(information):
    information.write_text(ARM)
    assert cpu.features() == ["asimd", "asimddp"]
    assert cpu.multiplies_bytes() is True
    assert cpu.name() == (platform.processor() or platform.machine())


@pytest.mark.parametrize(("machine", "expected"), [("arm64", True), ("AMD64", None)])
def test_another_system(information, monkeypatch, machine, expected):
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert cpu.features() == []
    assert cpu.multiplies_bytes() is expected
    assert not cpu.is_amd_with_avx2()
    assert cpu.usable_cores() >= 1
