"""Published weights and those at an address, from a real HTTP server on the loopback interface."""

from __future__ import annotations

import functools
import http.server
import threading

import paddle
import pytest

import ppcls_ext
from ppcls_ext.errors import PpclsExtError
from ppcls_ext.weights import published
from ppcls_ext.weights.published import cache_folder, fetch, is_remote


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A folder that is served in the place of the publishers' servers; gives it and the server's address."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=folder))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(published, "APPLE", url + "/{name}_unfused.pth.tar")
    monkeypatch.setattr(published, "PADDLECLAS", url + "/{name}_pretrained.pdparams")
    yield folder, url, asked
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.mark.parametrize("pretrained", [True, "published", "address"])
def test_build(mirror, pretrained):
    folder, url, asked = mirror
    paddle.seed(3)
    state = ppcls_ext.build("FasterNet_T0").state_dict()
    paddle.save(state, str(folder / "FasterNet_T0_pretrained.pdparams"))
    if pretrained == "address":
        pretrained = f"{url}/FasterNet_T0_pretrained.pdparams"
    for _ in range(2):
        model = ppcls_ext.build("FasterNet_T0", pretrained=pretrained)
        assert all(bool((tensor == state[name]).all()) for name, tensor in model.state_dict().items())
    assert len(asked) == 1, "the second time it is there"
    assert [path.name for path in cache_folder().iterdir()] == ["FasterNet_T0_pretrained.pdparams"]


def test_offline_says_the_address_and_what_to_do(mirror):
    _, url, _ = mirror
    message = (
        rf"^{url}/mobileone_s4_unfused.pth.tar: the download did not begin \(HTTP Error 404.*\); check the network, or "
        rf"get mobileone_s4_unfused.pth.tar by other means and give its path, or put it into {cache_folder()} \(XDG"
    )
    with pytest.raises(PpclsExtError, match=message):
        ppcls_ext.build("MobileOne_S4", pretrained="published")
    assert not cache_folder().exists(), "nothing half-done"


def test_a_cache_that_cannot_be_written_is_named(mirror, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    with pytest.raises(PpclsExtError, match=r"cannot write .*file/ppcls_ext: .*or put it into .*XDG_CACHE_HOME names"):
        ppcls_ext.build("MobileOne_S4", pretrained="published")


def test_a_file_put_into_the_folder_is_found(mirror):
    cache_folder().mkdir(parents=True)
    path = cache_folder() / "mobileone_s4_unfused.pth.tar"
    path.write_bytes(b"x")
    assert fetch("published", "MobileOne_S4") == str(path)


def test_what_is_not_remote():
    assert fetch("some/file.pth", "MobileOne_S0") == "some/file.pth"
    assert not is_remote(None)
    assert not is_remote(False)
    assert not is_remote({"stem.weight": 1})
    with pytest.raises(PpclsExtError, match="no weights of RepVGG_B2g2 are published: give the path of a file instead"):
        fetch("published", "RepVGG_B2g2")
    with pytest.raises(PpclsExtError, match="names no file"):
        fetch("https://example.com/", "MobileOne_S0")
