"""yinggem doctor says which engine runs, and why not the other."""

import pytest

from yinggem.commands import doctor
from yinggem.engine import library


def test_it_names_the_kernels_or_the_reason_for_torch(capsys):
    doctor.main([])
    out = capsys.readouterr().out
    why = library.library_refusal()
    assert (f"torch decodes: {why}" if why else f"kernels for {library.chosen_kernels()}") in out


@pytest.mark.skipif(isinstance(library.open_library(), str), reason="there is no compiled engine")
def test_kernels_that_are_missing_are_the_reason(capsys, monkeypatch):
    monkeypatch.setenv(library.KERNELS, "altivec")
    doctor.main([])
    assert "torch decodes" in (out := capsys.readouterr().out) and "altivec" in out
