"""Addresses that weights are fetched from: mirrors, logins in them, and where a server may send on to."""

from __future__ import annotations

import base64
import http.client
import re
import urllib.parse
import urllib.request
from typing import IO

from dbnet.errors import DbnetError

#: How a message about a server ends.
OTHERWISE = "--mirror URL names another server, --from DIR a folder with the file"


def check_address(url: str) -> str:
    """The base of a mirror, without a slash at its end. Raises DbnetError unless it is http or https with a host."""
    try:
        parts = urllib.parse.urlsplit(url)
        usable = bool(parts.hostname) and (parts.port or 1) > 0 and parts.scheme in ("http", "https")
        usable = usable and (parts.hostname or "").encode("idna") != b"" and not re.search(r"[\s\x00-\x1f]", url)
    except ValueError:  # also the error of the encoding
        usable = False
    if not usable or parts.query or parts.fragment:
        raise DbnetError(f"{shown(url)!r} is no address of a mirror; write http://HOST/PATH or https://HOST/PATH"
                         f"{', or --from DIR for a folder' if url.startswith(('file:', '/', '.')) else ''}")
    return url.rstrip("/")


def mirrored(url: str, base: str | None) -> str:
    """`url` with its scheme and host replaced by `base`, which may have a path of its own."""
    return url if base is None else base.rstrip("/") + urllib.parse.urlsplit(url).path


def split_login(url: str) -> tuple[str, str | None]:
    """(the address without name and password, the Authorization header that they make)."""
    match = re.match(r"(\w+://)([^/@]*)@(.*)", url, re.DOTALL)
    if match is None:
        return url, None
    name, _, password = match[2].partition(":")
    login = f"{urllib.parse.unquote(name)}:{urllib.parse.unquote(password)}".encode()
    return match[1] + match[3], f"Basic {base64.b64encode(login).decode()}"


def shown(url: str) -> str:
    """The address as messages have it: without a password."""
    return split_login(url)[0]


class Redirects(urllib.request.HTTPRedirectHandler):
    """Follows to https, and from http to http; a file, or plain http instead of https, is refused."""

    def redirect_request(self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str,
                         headers: http.client.HTTPMessage, newurl: str) -> urllib.request.Request | None:
        scheme = urllib.parse.urlsplit(newurl).scheme
        if scheme not in ("https", req.type):
            raise DbnetError(f"{req.full_url}: sends on to {newurl[:100]}, which is not {req.type}; {OTHERWISE}")
        return super().redirect_request(req, fp, code, msg, headers, newurl)
