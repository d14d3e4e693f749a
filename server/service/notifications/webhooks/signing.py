"""Signatures of what is sent, as https://www.standardwebhooks.com describes them."""

import base64
import hmac

_PREFIX = "whsec_"


def secret_of(signing_key: str, tenant: str) -> str:
    """The secret by which the events of a tenant are signed, and verified by who receives them.

    It is derived from the key that signs links, so that all servers on the same records have the same one, and it stays
    the same when they restart. The secret of one tenant tells nothing of another's.
    """
    mac = hmac.digest(signing_key.encode(), f"webhooks of tenant {tenant}".encode(), "sha256")
    return _PREFIX + base64.b64encode(mac).decode()


def signed_headers(secret: str, id_: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The headers for an event with a body that is sent at a time in Unix seconds."""
    key = base64.b64decode(secret.removeprefix(_PREFIX))
    mac = hmac.digest(key, f"{id_}.{timestamp}.".encode() + body, "sha256")
    return {
        "webhook-id": id_,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": f"v1,{base64.b64encode(mac).decode()}",
    }
