"""What tests need of this machine, as marks that say why one is left out."""

from __future__ import annotations

import pytest

from tests.support import real_kafka

needs_kafka = pytest.mark.skipif(real_kafka.why_not() is not None, reason=real_kafka.why_not() or "there is a Kafka")
