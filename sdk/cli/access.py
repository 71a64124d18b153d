"""What `claw http` needs to open a box to others: an address, a certificate, known keys."""

import ipaddress
import json
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from clawai.sdk import config, paths, private
from clawai.sdk.cli.daemon import connect
from clawai.sdk.cli.settings import edit
from clawai.sdk.errors import ClawError
from clawai.sdk.httpkeys import Key

if TYPE_CHECKING:
    from clawai.sdk.client import Client

PLUGIN, PLACE = "gateway", "gateway:8080"
"""The plugin, and the port of its manifest."""
DAYS, RENEWED = 397, 30
"""How long a certificate of our own holds, and when another one is made before that."""


def address() -> str:
    """The address and port at which the gateway listens, by the configuration."""
    chosen = dict(each.split("=") for each in config.load().plugins.ports).get(PLACE, "8080")
    return chosen if ":" in chosen else f"127.0.0.1:{chosen}"


def parsed(text: str) -> str:
    """An address as ``--listen`` takes it.

    Raises:
        ClawError: bad_params.
    """
    host, _, port = text.rpartition(":")
    host = "127.0.0.1" if host in ("localhost", "") else host.strip("[]")
    try:
        found = ipaddress.ip_address(host)
        number = int(port)
    except ValueError:
        allowed = "127.0.0.1:PORT, 0.0.0.0:PORT, [::]:PORT or another address of this box"
        raise ClawError("bad_params", "no address to listen at", text[:80], allowed) from None
    return f"[{found}]:{number}" if found.version == 6 else f"{found}:{number}"


def listen_at(place: str) -> None:
    """Have the gateway listen there from now on.

    Raises:
        ClawError: bad_config.
    """
    others = [each for each in config.load().plugins.ports if each.partition("=")[0] != PLACE]
    edit("plugins.ports", f"ports = {json.dumps([*others, f'{PLACE}={place}'])}")


def is_own(place: str) -> bool:
    """Whether only programs of this box reach an address."""
    return ipaddress.ip_address(place.rpartition(":")[0].strip("[]")).is_loopback


def let_go(client: "Client") -> None:
    """End a gateway that serves nobody, which has the port that it had before.

    Raises:
        ClawError: bad_state, as it serves.
    """
    for row in client.query("workers")["workers"]:
        if row["plugin"] == PLUGIN and row["running"]:
            hint = "end the other `claw http` first"
            raise ClawError("bad_state", "the gateway serves already", hint=hint)
        if row["plugin"] == PLUGIN:
            client.admin("unload", PLUGIN)


def tell(keys: tuple[Key, ...]) -> None:
    """Have a gateway that serves know these keys, and no others, when this returns."""
    try:
        client = connect(start=False)
    except ClawError as error:
        if error.code != "no_kernel":
            raise
        return
    with client:
        rows = client.query("workers")["workers"]
        if any(row["plugin"] == PLUGIN and row["running"] for row in rows):
            client.call("gateway.keys", {"keys": msgspec.to_builtins(keys)})


def given(chain: Path, key: Path) -> dict[str, str]:
    """A certificate of the owner's.

    Raises:
        ClawError: bad_params.
    """
    found = {}
    for name, path in (("chain", chain), ("key", key)):
        try:
            found[name] = path.read_text("ascii")[: 1 << 16]
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or "it is not PEM"
            raise ClawError("bad_params", f"cannot read {path}: {why}") from error
    return found


def self_signed(place: str) -> tuple[dict[str, str], Path, str]:
    """A certificate of this box's own, made when there is none that fits; its file and SHA-256."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes

    host = place.rpartition(":")[0].strip("[]")
    folder = paths.config_dir()
    chain, key = folder / "http-tls.crt", folder / "http-tls.key"
    names = _names(host)
    try:
        said = private.load(chain)
        found = x509.load_pem_x509_certificate(said)
        held = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        soon = datetime.now(UTC) + timedelta(days=RENEWED)
        fits = found.not_valid_after_utc > soon and list(held) == names
        secret = private.load(key)
    except (FileNotFoundError, ValueError, x509.ExtensionNotFound):
        fits = False
    if not fits:
        said, secret = _made(names)
        private.save(chain, said)
        private.save(key, secret)
        found = x509.load_pem_x509_certificate(said)
    mark = found.fingerprint(hashes.SHA256()).hex(":")
    return {"chain": said.decode(), "key": secret.decode()}, chain, mark


def _names(host: str) -> list[Any]:
    """Under which names and addresses a client may look for this box."""
    from cryptography import x509

    found: list[Any] = [x509.DNSName("localhost")]
    name = socket.gethostname()
    if name.isascii() and name not in ("", "localhost"):
        found.append(x509.DNSName(name[:64]))
    own = {ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")}
    chosen = ipaddress.ip_address(host)
    if chosen.is_unspecified:  # any of the box's: the one that leads outwards, at least
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            try:
                sock.connect(("192.0.2.1", 9))  # nothing is sent
                own.add(ipaddress.ip_address(sock.getsockname()[0]))
            except OSError:
                pass  # no way outwards
    else:
        own.add(chosen)
    return found + [x509.IPAddress(each) for each in sorted(own, key=lambda a: (a.version, a))]


def _made(names: list[Any]) -> tuple[bytes, bytes]:
    """A new certificate and its key, in PEM."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "ClawAI")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=DAYS))
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    form, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    return made.public_bytes(pem), key.private_bytes(pem, form, none)
