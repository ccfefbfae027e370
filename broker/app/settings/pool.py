"""What pools of all kinds have."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from broker.app.settings.fields import Section
from broker.model.replica import Tier
from broker.model.spec import JsonValue

Count = Annotated[int, Field(ge=0)]
Port = Annotated[int, Field(ge=1, le=65535)]


class Pool(Section):
    """What pools of all kinds have."""

    gpus: Count = Field(description="GPUs that replicas of this pool may hold together.")
    tiers: list[Annotated[Tier, Field(strict=False)]] = Field(
        default=list(Tier), min_length=1, description="Which part of a target the pool takes."
    )
    gpu_weight: Annotated[float, Field(gt=0)] = Field(
        default=1.0, description="What an hour of one of its GPUs counts in reports, beside those of other pools."
    )

    def shared_options(self) -> dict[str, JsonValue]:
        return {} if self.gpu_weight == 1.0 else {"gpu_weight": self.gpu_weight}
