"""Downloads against a server on the loopback address: caching, refusals, messages."""

import hashlib
import http.server
import re
import sys
import threading

import numpy as np
import pooch
import pytest

from memoa_jax import download, series
from memoa_jax.download import DownloadError, RemoteFile, fetch

CONTENT = b"date,y\n1,2.0\n2,3.0\n"
FILE = RemoteFile("small.csv", "http://127.0.0.1:9/unused", hashlib.sha256(CONTENT).hexdigest())


class Web:
    """A server of bytes by path that counts its visits."""

    def __init__(self):
        self.pages = {"/small.csv": CONTENT, "/other.csv": b"something else"}
        self.visits = 0
        web = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                web.visits += 1
                body = web.pages.get(self.path)
                self.send_response(404 if body is None else 200)
                self.send_header("Content-Length", str(len(body or b"")))
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def url(self, path):
        return f"http://127.0.0.1:{self.server.server_port}{path}"

    def close(self):
        if self.thread.is_alive():
            self.server.shutdown()
            self.server.server_close()
            self.thread.join()


@pytest.fixture
def web(monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    web = Web()
    yield web
    web.close()


def test_a_good_file_is_cached_and_used_offline(web, tmp_path):
    url = web.url("/small.csv")
    path = fetch(FILE, url=url, cache=tmp_path / "new" / "folder")
    assert path == tmp_path / "new" / "folder" / "small.csv"
    assert path.read_bytes() == CONTENT
    assert web.visits == 1
    assert fetch(FILE, url=url, cache=path.parent) == path
    assert web.visits == 1
    web.close()
    assert fetch(FILE, url=url, cache=path.parent) == path


def test_a_damaged_cached_file_is_downloaded_again(web, tmp_path):
    (tmp_path / "small.csv").write_bytes(b"damaged")
    path = fetch(FILE, url=web.url("/small.csv"), cache=tmp_path)
    assert path.read_bytes() == CONTENT


def test_another_file_is_refused_and_not_kept(web, tmp_path):
    url = web.url("/other.csv")
    message = (
        f"small.csv: {url} serves another file, nothing was kept: allowed is "
        f"SHA-256 {FILE.sha256}; pass path= to a copy of the file"
    )
    with pytest.raises(DownloadError, match=f"^{re.escape(message)}$"):
        fetch(FILE, url=url, cache=tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_page_and_a_server_that_is_down(web, tmp_path):
    url = web.url("/none.csv")
    with pytest.raises(DownloadError) as caught:
        fetch(FILE, url=url, cache=tmp_path)
    assert f"small.csv: cannot be downloaded from {url} into {tmp_path}: 404" in str(caught.value)
    web.close()
    url = web.url("/small.csv")
    with pytest.raises(DownloadError) as caught:
        fetch(FILE, url=url, cache=tmp_path)
    assert str(caught.value).startswith(f"small.csv: cannot be downloaded from {url} into")
    assert str(caught.value).endswith("; pass path= to a copy of the file")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_cache_that_is_no_folder(web, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DownloadError, match=r"^small.csv: cannot be downloaded from .*file"):
        fetch(FILE, url=web.url("/small.csv"), cache=tmp_path / "file" / "below")


def test_only_web_addresses(tmp_path):
    message = "small.csv: url = 'file:///a.csv': allowed is http:// or https://"
    with pytest.raises(DownloadError, match=f"^{re.escape(message)}$"):
        fetch(FILE, url="file:///a.csv", cache=tmp_path)


@pytest.mark.parametrize("build", [series.boc, series.ett])
def test_without_pooch_the_message_says_what_to_install(monkeypatch, build):
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(DownloadError, match=r"pip install memoa-jax\[data\], or pass path= to a"):
        build()


def test_the_cache_is_the_users_by_default(web, monkeypatch, tmp_path):
    monkeypatch.setattr(pooch, "os_cache", lambda project: tmp_path / project)
    assert fetch(FILE, url=web.url("/small.csv")) == tmp_path / "memoa_jax" / "small.csv"


def test_public_series_come_through_the_cache(web, monkeypatch, tmp_path):
    values = np.random.default_rng(0).uniform(1.0, 2.0, (2001, 5))
    names = ("AUD_CLOSE", "EUR_CLOSE", "GBP_CLOSE", "JPY_CLOSE", "USD_CLOSE")
    lines = [",".join(names), *(",".join(map(repr, row)) for row in values.tolist())]
    content = "\n".join(lines).encode()
    web.pages["/boc.csv"] = content
    digest = hashlib.sha256(content).hexdigest()
    file = RemoteFile("boc.csv", web.url("/boc.csv"), digest)
    monkeypatch.setattr(download, "BANK_OF_CANADA", file)
    for _ in range(2):
        built = series.boc(cache=tmp_path, steps=9)
        np.testing.assert_array_equal(built.targets[:, 0], values[:10, 4])
    assert web.visits == 1


def test_a_mirror_must_serve_the_published_bytes(web, tmp_path):
    with pytest.raises(DownloadError, match=r"^ETTh1.csv: .* serves another file, nothing was"):
        series.ett(url=web.url("/small.csv"), cache=tmp_path)


@pytest.mark.parametrize("file", [download.BANK_OF_CANADA, download.ETT_H1])
def test_known_files_have_a_whole_address_and_digest(file):
    assert file.url.startswith("https://")
    assert file.url.endswith(f"/{file.name}")
    assert re.fullmatch("[0-9a-f]{64}", file.sha256)
