"""Who this box is to other boxes: one CURVE key, made when it is first asked for.

``box.key`` beside ``config.toml`` holds its secret half.
"""

import zmq
from zmq.utils import z85

from clawai.sdk import paths, private
from clawai.sdk.errors import ClawError


def own() -> tuple[bytes, bytes]:
    """The public and the secret key of this box, 32 bytes each.

    Raises:
        ClawError: not_permitted, if others may write the file; bad_config.
    """
    path = paths.config_dir() / "box.key"
    with private.locked(paths.config_dir() / "box.lock"):
        try:
            secret = bytes.fromhex(private.load(path).decode().strip())
            if len(secret) != 32:
                raise ValueError(f"a key of {len(secret)} bytes")
        except FileNotFoundError:
            secret = z85.decode(zmq.curve_keypair()[1])
            private.save(path, f"{secret.hex()}\n".encode())
        except ValueError as error:
            hint = "delete it: the next command makes another one, which has to be added anew"
            raise ClawError("bad_config", f"{path} holds no key: {error}", hint=hint) from None
    return z85.decode(zmq.curve_public(z85.encode(secret))), secret
