"""One rank's part of a stage when torchrun or Slurm has started the ranks: the first commits what all have made."""

from __future__ import annotations

from typing import Any

from infra.artifact import Artifact
from infra.launched import Launched
from infra.stage import Inputs, Stage, run
from infra.store import Store


def carry(stage: Stage[Any], config: Any, inputs: Inputs, store: Store) -> Artifact | None:
    """Work with the other ranks on a stage that trains; the artifact on the first rank, None on the others.

    All ranks call it alike, with the same folder behind their stores. Raises what the stage raises.
    """
    import torch.distributed as dist

    from training.engine.rank import here
    from training.engine.zero import join

    place = here()
    join(place)
    key = stage.key(config, inputs)
    made = store.find(stage.name, key) if place.first else None
    if not place.sum([float(made is not None)])[0]:
        if place.first:
            made = run(stage, config, inputs, store, Launched(place.world))
        else:
            scratch = store.scratch(stage.name, key)
            scratch.mkdir(parents=True, exist_ok=True)
            stage.work(config, inputs, scratch, Launched(place.world))
    place.sum([0.0])  # nobody leaves while another still talks
    dist.destroy_process_group()
    return made
