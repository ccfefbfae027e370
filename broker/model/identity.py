"""Names derived from intents, and keys derived from the site's secret: nothing here is random.

A name that can be computed again after a crash is what makes an action happen at most once.
"""

from __future__ import annotations

import hashlib
import hmac


def replica_name(model_id: str, ordinal: int, generation: int) -> str:
    """``chat-0-g7``: the replica's id, its endpoint's id, its job's or process's name."""
    return f"{model_id}-{ordinal}-g{generation}"


def action_id(verb: str, cluster: str, model_id: str, ordinal: int, generation: int) -> str:
    """The name under which ``verb`` (launch, stop, kill) of one replica happens at most once.

    16 hex digits of SHA-256 over the parts, each with its length so that no two intents run together.
    """
    digest = hashlib.sha256()
    for part in (verb, cluster, model_id, str(ordinal), str(generation)):
        encoded = part.encode()
        digest.update(f"{len(encoded)}:".encode() + encoded)
    return f"{verb}-{digest.hexdigest()[:16]}"


def endpoint_key(site_secret: bytes, endpoint_id: str, generation: int) -> str:
    """A replica's API key: HMAC-SHA-256 of its identity; broker and gateways derive it, no topic carries it."""
    message = f"endpoint\0{endpoint_id}\0{generation}".encode()
    return hmac.new(site_secret, message, hashlib.sha256).hexdigest()
