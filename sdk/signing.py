"""Who made a package: Ed25519 signatures, the owner's own keys, and the keys that are trusted.

A signature covers ``clawplugin.json``, which holds a hash of every file; so it holds for each byte
of a package. A key is written ``ed25519:BASE64``. Trusted are the keys that the owner has named;
that a signature is right says only that the holder of its key has made it.
"""

import base64
import binascii
import json
import re
from pathlib import Path
from typing import Any

import msgspec

from clawai.sdk import paths, private
from clawai.sdk.contents import Contents
from clawai.sdk.errors import ClawError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@-]{0,63}")
DEFAULT = "default"
_CONTEXT = b"clawai plugin package 1\n"
"""Before what is signed, so that a signature for another purpose is none here."""
_PREFIX = "ed25519:"


class Signature(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``clawplugin.sig``"""

    key: str
    signature: str

    def encoded(self) -> bytes:
        """The one form that it is written in."""
        return f"{json.dumps(msgspec.to_builtins(self), sort_keys=True)}\n".encode()


def keys_dir() -> Path:
    """The owner's own keys, NAME.key each."""
    return paths.config_dir() / "plugin-keys"


def trusted_file() -> Path:
    """Trusted keys by name."""
    return paths.config_dir() / "trusted-keys.json"


def generate(name: str) -> str:
    """Make a key of our own and trust it; its public half.

    Raises:
        ClawError: bad_params: the name is taken or none.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    path = _key_path(name)
    if path.exists():
        raise ClawError(
            "bad_params",
            f"there is a key {name!r} already",
            hint=f"take another name, or delete {path}, after which it can sign no more",
        )
    key = Ed25519PrivateKey.generate()
    public = _text(key.public_key().public_bytes_raw())
    trust(name, public)
    private.save(path, key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return public


def _key_path(name: str) -> Path:
    if not NAME.fullmatch(name):
        raise ClawError("bad_params", "this is no name for a key", name[:80], NAME.pattern)
    return keys_dir() / f"{name}.key"


def has_key(name: str) -> bool:
    """Whether there is such a key of our own."""
    return _key_path(name).exists()


def sign(contents: Contents, name: str) -> Signature:
    """Sign with our own key ``name``.

    Raises:
        ClawError: bad_params: there is no such key; not_permitted: others may write it.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    path = _key_path(name)
    try:
        key = load_pem_private_key(private.load(path), password=None)
    except FileNotFoundError:
        hint = f"claw plugin keygen {name}"
        raise ClawError("bad_params", f"there is no key {name!r}", own_keys(), hint=hint) from None
    except (ValueError, TypeError) as error:
        raise ClawError("bad_config", f"{path} is no key: {error}"[:500]) from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ClawError("bad_config", f"{path} is no Ed25519 key")
    made = key.sign(_CONTEXT + contents.encoded())
    public = _text(key.public_key().public_bytes_raw())
    return Signature(public, base64.b64encode(made).decode())


def own_keys() -> list[str]:
    """The names of our own keys."""
    return sorted(path.stem for path in keys_dir().glob("*.key"))


def check(contents: Contents, raw: bytes) -> str:
    """The key that has signed these contents; empty if ``raw`` is, so that nobody has.

    Raises:
        ClawError: bad_package: the signature is not one of this key for these contents.
    """
    if not raw:
        return ""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        said = msgspec.json.decode(raw, type=Signature)
        if said.encoded() != raw:
            raise ValueError("not in the form that sign writes")
        key = Ed25519PublicKey.from_public_bytes(raw_key(said.key))
        key.verify(_decoded(said.signature), _CONTEXT + contents.encoded())
    except InvalidSignature:
        raise ClawError(
            "bad_package",
            f"the signature of {contents.name} {contents.version} is wrong",
            got=said.key,
            hint="it was changed after it was signed: ask for it anew, and do not install it",
        ) from None
    except (msgspec.MsgspecError, ValueError, ClawError) as error:
        raise ClawError("bad_package", f"the signature cannot be read: {error}"[:500]) from None
    return said.key


def _text(key: bytes) -> str:
    return _PREFIX + base64.b64encode(key).decode()


def _decoded(text: str) -> bytes:
    """Base64 in the one form that stands for these bytes."""
    raw = base64.b64decode(text, validate=True)
    if base64.b64encode(raw).decode() != text:
        raise ValueError("not in the shortest form")
    return raw


def raw_key(text: str) -> bytes:
    """The 32 bytes of a public key.

    Raises:
        ClawError: bad_params.
    """
    try:
        raw = _decoded(text.removeprefix(_PREFIX))
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != 32 or not text.startswith(_PREFIX):
        raise ClawError("bad_params", "this is no public key", text[:100], "ed25519:BASE64")
    return raw


def trusted() -> dict[str, str]:
    """Name to public key, of those that the owner trusts.

    Raises:
        ClawError: not_permitted, bad_config.
    """
    try:
        return msgspec.json.decode(private.load(trusted_file()), type=dict[str, str])
    except FileNotFoundError:
        return {}
    except msgspec.MsgspecError as error:
        raise ClawError("bad_config", f"{trusted_file()}: {error}") from error


def _keep(keys: dict[str, Any]) -> None:
    text = json.dumps(keys, indent=2, sort_keys=True)
    private.save(trusted_file(), f"{text}\n".encode())


def _lock() -> Path:
    return trusted_file().with_suffix(".lock")


def trust(name: str, key: str) -> None:
    """Trust a public key from now on.

    Raises:
        ClawError: bad_params: no key, no name, or a name that stands for another key.
    """
    raw_key(key)
    _key_path(name)
    with private.locked(_lock()):
        keys = trusted()
        if keys.get(name, key) != key:
            hint = f"take another name, or first: claw plugin trust --remove {name}"
            raise ClawError("bad_params", f"{name!r} is another key", keys[name], hint=hint)
        _keep(keys | {name: key})


def distrust(name: str) -> str:
    """Trust a key no more, by its name; what it was.

    Raises:
        ClawError: bad_params: no trusted key has this name.
    """
    with private.locked(_lock()):
        keys = trusted()
        if name not in keys:
            raise ClawError(
                "bad_params", f"no trusted key is called {name[:80]!r}", None, list(keys)
            )
        key = keys.pop(name)
        _keep(keys)
    return key


def name_of(key: str) -> str:
    """What the owner calls a key; empty if it is not trusted."""
    return next((name for name, each in trusted().items() if each == key), "")
