"""A folder in VOC format and the settings that name it; a server of archives."""

import http.server
import threading
from functools import partial

import pytest

from frcnn_jax.config import DataConfig
from tests.data.voc_files import standard_folder


@pytest.fixture
def files(tmp_path):
    return standard_folder(tmp_path / "set")


@pytest.fixture
def config(tmp_path, files):
    return DataConfig(root=str(files.root), tfds_dir=str(tmp_path / "tfds"))


class Handler(http.server.SimpleHTTPRequestHandler):
    requests: list[str]

    def do_GET(self):
        self.requests.append(self.path)
        super().do_GET()

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """Serves tmp_path/www and points the builder to it; gives the paths asked for."""
    from frcnn_jax.data.prepared.builder import CheckedVoc

    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "www").mkdir()
    handler = type("Handler", (Handler,), {"requests": []})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=tmp_path / "www")) as http_server:
        thread = threading.Thread(target=http_server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        monkeypatch.setattr(CheckedVoc, "base_url", f"http://127.0.0.1:{http_server.server_port}/")
        monkeypatch.setattr(CheckedVoc, "verify_archives", False)
        yield handler.requests
        http_server.shutdown()
        thread.join()
