"""Names derived from intents, and keys derived from the site's secret: nothing here is random.

A name that can be computed again after a crash is what makes an action happen at most once.
"""

from __future__ import annotations

import hashlib
import hmac
import re


def replica_name(model_id: str, ordinal: int, generation: int) -> str:
    """``chat-0-g7``: the replica's id, its endpoint's id, its job's or process's name."""
    return f"{model_id}-{ordinal}-g{generation}"


_LAUNCH = re.compile("launch-[0-9a-f]{16}")


def action_id(verb: str, cluster: str, model_id: str, ordinal: int, generation: int) -> str:
    """The name under which ``verb`` (launch, stop, kill) of one replica happens at most once.

    16 hex digits of SHA-256 over the parts, each with its length so that no two intents run together.
    """
    digest = hashlib.sha256()
    for part in (verb, cluster, model_id, str(ordinal), str(generation)):
        encoded = part.encode()
        digest.update(f"{len(encoded)}:".encode() + encoded)
    return f"{verb}-{digest.hexdigest()[:16]}"


def names_launch(name: str) -> bool:
    """Whether it has the form of a launch's ``action_id``, of this or another cluster."""
    return _LAUNCH.fullmatch(name) is not None


def endpoint_key(site_secret: bytes, endpoint_id: str, generation: int) -> str:
    """A replica's API key: HMAC-SHA-256 of its identity; broker and gateways derive it, no topic carries it."""
    message = f"endpoint\0{endpoint_id}\0{generation}".encode()
    return hmac.new(site_secret, message, hashlib.sha256).hexdigest()


def metrics_key(site_secret: bytes, endpoint_id: str, generation: int) -> str:
    """What opens ``/metrics`` of a replica behind its agent's front, and nothing else: the broker's alone."""
    message = f"metrics\0{endpoint_id}\0{generation}".encode()
    return hmac.new(site_secret, message, hashlib.sha256).hexdigest()


def registration_token(site_secret: bytes, action_id: str) -> str:
    """What the agent of the job of this name shows once, for which it is given its keys."""
    return hmac.new(site_secret, f"registration\0{action_id}".encode(), hashlib.sha256).hexdigest()


def agent_key(site_secret: bytes, action_id: str, boot_id: str, expires_at: int) -> str:
    """An agent's key for its heartbeats: for one run of one agent, until ``expires_at``, checked without any memory of
    having been given, so that a new broker knows it too."""
    message = f"agent\0{action_id}\0{boot_id}\0{expires_at}".encode()
    mac = hmac.new(site_secret, message, hashlib.sha256).hexdigest()
    return f"{boot_id}.{expires_at}.{mac}"


def agent_key_holder(site_secret: bytes, action_id: str, key: str, now: float) -> str | None:
    """The boot id of the agent whose key this is; None if it is none of ours, another action's, or expired."""
    boot_id, _, rest = key.partition(".")
    expires_at = rest.partition(".")[0]
    if not (expires_at.isascii() and expires_at.isdecimal() and len(expires_at) <= 12):
        return None
    right = agent_key(site_secret, action_id, boot_id, int(expires_at))
    if not hmac.compare_digest(right.encode(), key.encode("utf-8", "replace")):
        return None
    return boot_id if now < int(expires_at) else None
